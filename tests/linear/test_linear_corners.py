"""What the linear form meets seldom: several devices, moved labels, weights that are no floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import BACKENDS, Backend
from tests.linear import cases
from tests.linear.cases import Linear, linear, truth
from tests.linear.conftest import by_classes
from unified_loss import (
    BackendError,
    DTypeError,
    OptionError,
    RunningCrossEntropy,
    ShapeError,
    SingleClassWarning,
    cross_entropy,
    cross_entropy_totals,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._linear import _walks as walks

DENSE = {"class_weight": True, "sample_weight": "full", "label_smoothing": 0.25}


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk by classes."""
    by_classes(monkeypatch)


def under_test(name: str, installed: list[Backend]) -> Backend:
    """A backend, or a skip."""
    if BACKENDS[name] not in installed:
        pytest.skip(f"{name} is not under test")
    return BACKENDS[name]


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("classes", [4, 5])
def test_strided_blocks_give_the_same(
    kind: Any, classes: int, rng: Generator, installed: list[Backend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """R33: where there are several devices a block is every k-th class, some places of it empty."""
    jax = under_test("jax", installed)
    from unified_loss._backends import _jax_linear as walk

    layout_of = walk.layout_of
    strided = []

    def of_several_devices(*arguments: Any) -> Any:
        layout = layout_of(*arguments)
        strided.append(layout is not None)
        return layout and layout._replace(strided=True)

    monkeypatch.setattr(walk, "layout_of", of_several_devices)
    case = linear(rng, kind, classes=classes, bias=True, **DENSE)
    found = cases.closed_form(jax, case, "float64")
    for one, true in zip(found, truth(case), strict=True):
        np.testing.assert_allclose(one, np.asarray(true, float), rtol=1e-10, atol=1e-12)
    assert any(strided)


@pytest.mark.usefixtures("tiles")
def test_labels_and_class_weights_move_together(rng: Generator, installed: list[Backend]) -> None:
    """R22: forward mode in both is the slope of the loss."""
    backend = under_test("jax", installed)
    import jax

    case = linear(rng, "dense", bias=True, **DENSE)
    names = ("labels", "class_weight", "hidden")
    with backend.precision("float64"):
        arrays = {
            name: backend.asarray(np.asarray(one, np.float64)) for name, one in case.arrays.items()
        }

        def loss(*moved: Any) -> Any:
            return linear_cross_entropy(**arrays | dict(zip(names, moved, strict=True)),
                                        **case.options).sum()  # fmt: skip

        given = [arrays[name] for name in names]
        change = [backend.asarray(rng.standard_normal(one.shape)) for one in given]
        _, slope = jax.jvp(loss, given, change)
        step = 1e-6
        ends = [
            loss(*(a + sign * step * d for a, d in zip(given, change, strict=True)))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.usefixtures("tiles")
def test_unsigned_labels_and_a_normalizer_with_a_gradient(
    rng: Generator, installed: list[Backend]
) -> None:
    """R31, on torch: the slope of a mean in what it is divided by."""
    backend = under_test("torch", installed)
    import torch

    case = linear(rng)
    hidden, weight = (
        torch.tensor(part, dtype=torch.float64) for part in (case.hidden, case.weight)
    )
    labels = torch.tensor(case.problem.labels).abs()
    ids = labels.to(torch.uint16)
    signed, unsigned = (linear_cross_entropy(hidden, weight, one) for one in (labels, ids))
    assert torch.equal(signed, unsigned)
    divisor = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, labels, normalizer=divisor)
    loss.backward()
    np.testing.assert_allclose(backend.to_numpy(divisor.grad), -loss.item() / 4)


@pytest.mark.usefixtures("tiles")
def test_second_derivatives_with_class_weights_and_smoothing(
    rng: Generator, installed: list[Backend]
) -> None:
    """R22, on TensorFlow: through both tapes, in the class weights too."""
    backend = under_test("tensorflow", installed)
    import tensorflow as tf

    case = linear(rng, bias=True, **DENSE)
    arrays = {name: tf.constant(one) for name, one in cases.place(backend, case, "float64").items()}
    moved = ("hidden", "class_weight")
    given = [tf.cast(arrays[name], tf.float64) for name in moved]
    along = [tf.constant(rng.standard_normal(one.shape)) for one in given]

    def slopes(*parts: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(parts)
            changed = arrays | dict(zip(moved, parts, strict=True))
            loss = tf.reduce_sum(linear_cross_entropy(**changed, **case.options))
        return tape.gradient(loss, parts)

    with tf.GradientTape() as outer:
        outer.watch(given)
        first = slopes(*given)
        total = sum(tf.reduce_sum(a * b) for a, b in zip(first, along, strict=True))
    second = outer.gradient(total, given)
    step = 1e-6
    ends = [
        slopes(*(a + sign * step * b for a, b in zip(given, along, strict=True)))
        for sign in (1, -1)
    ]
    for found, high, low in zip(second, *ends, strict=True):
        np.testing.assert_allclose(found, (high - low) / (2 * step), rtol=1e-5, atol=1e-8)


def test_what_is_told_of_logits_is_told_of_a_head(rng: Generator) -> None:
    """R9, R17, R28: one class, weights of integers, rows with several ones."""
    hidden = rng.standard_normal((2, 3))
    with pytest.warns(SingleClassWarning):
        linear_cross_entropy(hidden, np.ones((1, 3)), np.zeros(2, np.int64))
    with pytest.raises(DTypeError, match="weight"):
        linear_cross_entropy(hidden, [[1, 2, 3], [4, 5, 6]], np.zeros(2, np.int64))
    with pytest.warns(UserWarning, match="several ones"):
        linear_cross_entropy(hidden, np.ones((3, 3)), np.ones((2, 3), bool))
    with pytest.warns(UserWarning, match="do not sum to 1"):
        linear_cross_entropy(hidden, np.ones((3, 3)), np.full((2, 3), 0.5), check=True)


def foreign(*missing: str) -> Callable[[Any], Any]:
    """Makes arrays of a library of the standard that was never tried, and lacks some functions."""
    import types

    from tests import pico

    module = types.ModuleType("foreign")
    namespace: dict[str, Any] = {}

    class Array(pico.Array):
        __module__ = "foreign"
        device = "cpu"

        def __array_namespace__(self, **_: Any) -> Any:
            return module

    def zeros(shape: Any, *, dtype: Any = None, device: object = None) -> Array:
        return Array(np.zeros(shape, dtype))

    pico.furnish(Array, namespace)
    namespace["zeros"] = zeros
    dtypes = ("bool", "int32", "int64", "float32", "float64")
    namespace |= {name: np.dtype(name) for name in dtypes} | {"isdtype": np.isdtype}
    for name in namespace:
        if name not in missing:
            setattr(module, name, namespace[name])
    return Array


@pytest.mark.parametrize("function", ["loss", "with_grad", "totals"])
def test_a_library_that_was_never_tried(function: str, rng: Generator) -> None:
    """R2: its own functions serve it; what it lacks is an error of ours."""
    call: Any = {
        "loss": linear_cross_entropy,
        "with_grad": linear_cross_entropy_with_grad,
        "totals": lambda *arrays: [
            totals.loss / totals.mass for totals in [linear_cross_entropy_totals(*arrays)]
        ],
    }[function]
    hidden, weight = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    labels = np.array([0, 4, 2, 1])
    make = foreign("exp")
    with pytest.raises(BackendError, match="cannot compute this loss"):
        call(make(hidden), make(weight), make(labels))
    with pytest.raises(BackendError, match="cannot compute this loss"):
        cross_entropy(make(hidden), make(np.array([0, 1, 2, 0])))
    with pytest.raises(BackendError, match="cannot compute this loss"):
        cross_entropy_totals(make(hidden), make(np.array([0, 1, 2, 0])))
    case = Linear(cases.Problem(np.zeros((4, 5)), labels, 1, -1), hidden, weight)
    make = foreign()
    found = call(make(hidden), make(weight), make(labels))
    loss = found if function == "loss" else found[0]
    np.testing.assert_allclose(
        np.asarray(loss.data), np.asarray(truth(case).loss, float), rtol=1e-6
    )


def test_causes_without_a_fix(rng: Generator) -> None:
    """R25: a fix that would not make the call valid is not offered."""
    hidden, weight = rng.standard_normal((2, 5, 3)), rng.standard_normal((4, 3))
    for labels, options in (
        (np.zeros((3, 4), np.int64), {}),
        (np.zeros((2, 4), np.int64), {"ignore_index": None}),
        (np.zeros((2, 4), np.int64), {"class_weight": np.ones(9)}),
    ):
        with pytest.raises(ShapeError) as caught:
            linear_cross_entropy(hidden, weight, labels, **options)
        assert not caught.value.fixes
        assert "hidden: numpy float64[2, 5, 3]" in str(caught.value)


def test_lists_are_host_data(rng: Generator) -> None:
    """R2: a weight and labels of Python, and a fix in its words."""
    hidden, weight = rng.standard_normal((2, 2, 3)), rng.standard_normal((4, 3))
    labels = [[0, 1], [2, 3]]
    found = linear_cross_entropy(hidden, weight.tolist(), labels)
    assert found == linear_cross_entropy(hidden, weight, np.array(labels))
    with pytest.raises(ShapeError, match="hidden_not_flattened") as caught:
        linear_cross_entropy(hidden, weight, [0, 1, 2, 3])
    assert caught.value.fixes[0].code == "labels = np.reshape(labels, (2, 2))"


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("classes", [4, 5])
def test_unknown_and_even_numbers_of_classes(
    classes: int, rng: Generator, installed: list[Backend]
) -> None:
    """R23, on TensorFlow: tiles that the classes fill, and a weight of any number of them."""
    backend = under_test("tensorflow", installed)
    import tensorflow as tf

    case = linear(rng, classes=classes, bias=True)
    true = truth(case)
    arrays = cases.place(backend, case, "float64")
    names = list(arrays)
    for size in (classes, None):
        shapes = {"weight": [size, 3], "bias": [size]}

        @tf.function(input_signature=[tf.TensorSpec(shapes.get(n, arrays[n].shape), arrays[n].dtype)
                                      for n in names])  # fmt: skip
        def slopes(*parts: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(parts[:2])
                given = dict(zip(names, parts, strict=True))
                loss = tf.reduce_sum(linear_cross_entropy(**given, **case.options))
            return tape.gradient(loss, parts[:2])

        for found, one in zip(slopes(*arrays.values()), (true.hidden, true.weight), strict=True):
            np.testing.assert_allclose(found, np.asarray(one, float), rtol=1e-9, atol=1e-12)


def test_traced_options_and_totals_are_errors_of_ours(installed: list[Backend]) -> None:
    """R8, R36: what has no value while a program is traced."""
    under_test("jax", installed)
    import jax
    import jax.numpy as jnp

    logits, labels = jnp.zeros((2, 3)), jnp.zeros(2, int)

    def capped(cap: Any) -> Any:
        return linear_cross_entropy(logits, jnp.ones((4, 3)), labels, softcap=cap)

    with pytest.raises(OptionError, match="static_argnames"):
        jax.jit(capped)(2.0)

    def kept(logits: Any) -> Any:
        RunningCrossEntropy().merge(cross_entropy_totals(logits, labels))

    with pytest.raises(BackendError):
        jax.jit(kept)(logits)


def test_large_updates_wait_for_their_value(installed: list[Backend]) -> None:
    """R36, on TensorFlow: what is too large for NumPy is summed where it is."""
    under_test("tensorflow", installed)
    import tensorflow as tf

    logits = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    labels = np.arange(300)
    running = RunningCrossEntropy()
    for _ in range(2):
        running.update(tf.constant(logits), tf.constant(labels))
    np.testing.assert_allclose(running.compute().loss, cross_entropy(logits, labels), rtol=1e-6)
    assert running.compute().count == 600


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_labels_that_are_nothing_in_a_tile(
    name: str, rng: Generator, installed: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22: their gradient has a part in the larger logits of later tiles."""
    backend = under_test(name, installed)
    case = linear(rng, "dense", batch=(5,), classes=9, class_weight=True)
    labels = case.problem.labels.copy()
    labels[:3, :4], labels[2:, 4:8] = 0, 0
    size = np.where(np.arange(9) < 4, 1, 4)[:, None]
    case = case.but(labels=labels, weight=case.weight * size)
    (found,) = cases.autodiff(backend, case, "float32", wrt=["labels"])
    monkeypatch.setattr(walks, "TWO_STEPS", 2**21)
    (wanted,) = cases.autodiff(backend, case, "float32", wrt=["labels"])
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_dropped_label_rows_hold_anything(
    name: str, rng: Generator, installed: list[Backend]
) -> None:
    """R30: NaN and infinities among dense labels of no weight leave no trace in the gradients."""
    backend = under_test(name, installed)
    case = linear(rng, "dense", batch=(5,), classes=9, sample_weight="full")
    labels, weight = case.problem.labels.copy(), case.problem.sample_weight.copy()
    weight[:2], labels[0, 3], labels[1] = 0, np.nan, np.inf
    case = case.but(labels=labels, sample_weight=weight)
    clean = case.but(labels=np.where(np.isfinite(labels), labels, 0))
    for found, wanted in zip(
        *(cases.autodiff(backend, one, "float32") for one in (case, clean)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)
