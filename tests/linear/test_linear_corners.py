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
    SingleClassWarning,
    cross_entropy,
    linear_cross_entropy,
    linear_cross_entropy_with_grad,
)

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


@pytest.mark.parametrize("function", ["loss", "with_grad"])
def test_a_library_that_was_never_tried(function: str, rng: Generator) -> None:
    """R2: its own functions serve it; what it lacks is an error of ours."""
    call: Any = {"loss": linear_cross_entropy, "with_grad": linear_cross_entropy_with_grad}[
        function
    ]
    hidden, weight = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    labels = np.array([0, 4, 2, 1])
    make = foreign("exp")
    with pytest.raises(BackendError, match="cannot compute this loss"):
        call(make(hidden), make(weight), make(labels))
    with pytest.raises(BackendError, match="cannot compute this loss"):
        cross_entropy(make(hidden), make(np.array([0, 1, 2, 0])))
    case = Linear(cases.Problem(np.zeros((4, 5)), labels, 1, -1), hidden, weight)
    make = foreign()
    found = call(make(hidden), make(weight), make(labels))
    loss = found if function == "loss" else found[0]
    np.testing.assert_allclose(
        np.asarray(loss.data), np.asarray(truth(case).loss, float), rtol=1e-6
    )
