"""R22 and R23 on JAX, one test a transformation, against the float64 reference."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close, compute_dtype
from tests.helpers.backends import INTEGERS
from tests.helpers.differentiation import hessian
from tests.helpers.jax_cases import CASES, EVERYTHING, JAX, loss_in, problem_of
from tests.helpers.problems import sample
from tests.helpers.reference import central_differences, evaluate
from tests.linear.cases import HEAD, assert_all_near, linear
from unified_loss import cross_entropy, linear_cross_entropy
from unified_loss._linear import _walks as walks

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def _selected(installed: list[Any]) -> None:
    if JAX not in installed:
        pytest.skip("jax is not under test")


WALK: dict[str, Any] = {"bias": True, "softcap": 2.5, "class_weight": True, "label_smoothing": 0.25}
TRANSFORMS: dict[str, Callable[..., Any]] = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "nested_jit": lambda f: jax.jit(jax.jit(jax.jit(f))),
    "checkpoint": jax.checkpoint,
    "checkpoint_of_nothing": lambda f: jax.checkpoint(
        f, policy=jax.checkpoint_policies.nothing_saveable
    ),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, x: (c + f(x), None), 0.0, x[None])[0],
    "map": lambda f: lambda x: jax.lax.map(f, x[None])[0],
    "fori_loop": lambda f: lambda x: jax.lax.fori_loop(0, 1, lambda _, c: c + f(x), 0.0),
    "cond": lambda f: lambda x: jax.lax.cond(x.max() < 1e9, f, lambda _: 0.0, x),
    "vmap": lambda f: lambda x: jax.vmap(f)(x[None])[0],
    "jit_vmap_checkpoint": lambda f: jax.jit(lambda x: jax.vmap(jax.checkpoint(f))(x[None])[0]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_loss_and_gradient_survive(transform: str, case: str, rng: Generator) -> None:
    """R22, R23: `value_and_grad` under jit, checkpoint, scan, map, loops, cond and vmap."""
    problem = problem_of(case, rng)
    function, arguments = loss_in(problem, "logits")
    loss, slope = jax.value_and_grad(TRANSFORMS[transform](function))(*arguments)
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("case", CASES)
def test_without_jit_the_numbers_are_the_same(case: str, rng: Generator) -> None:
    """R23: `jax.disable_jit` and leak checking change nothing."""
    problem = problem_of(case, rng)
    function, arguments = loss_in(problem, "logits")
    for context in (jax.disable_jit(), jax.checking_leaks()):
        with context:
            assert_accurate(jax.grad(function)(*arguments), problem, "float32", "gradient")


@pytest.mark.parametrize("case", CASES)
def test_first_derivatives_agree_in_every_mode(case: str, rng: Generator) -> None:
    """R22, R23: `jacfwd`, `jacrev`, `jvp`, `linearize` and `vjp` of the unreduced loss."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    truth = evaluate(problem).gradient.astype(float)
    for slope in (jax.jacfwd(function)(logits), jax.jacrev(function)(logits)):
        assert_close(slope, truth, "float32", scale=1)
    direction = rng.standard_normal(logits.shape).astype(np.float32)
    _, linear = jax.linearize(function, logits)
    _, transposed = jax.vjp(function, logits)
    expected = (truth * direction).sum()
    for slope in (jax.jvp(function, (logits,), (direction,))[1], linear(direction)):
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
    assert_close(transposed(jnp.float32(2))[0], 2 * truth, "float32", scale=2)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_agree_in_every_mode(case: str, rng: Generator) -> None:
    """R22, R23: forward over reverse, reverse over reverse and Hessian-vector products."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    truth = hessian(problem)
    truth = np.where(np.isfinite(truth), truth, 0)  # differences of -inf
    for second in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
        result = jax.jit(second(function))(logits)
        np.testing.assert_allclose(result, truth, rtol=1e-5, atol=2e-6)
    direction = rng.standard_normal(logits.shape).astype(np.float32)
    _, product = jax.jvp(jax.grad(function), (logits,), (direction,))
    expected = np.tensordot(truth, direction.astype(float), logits.ndim)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_weights_and_dense_labels_have_gradients(kind: Any, rng: Generator) -> None:
    """R22: gradients in class weights, sample weights and dense labels, eager, jit and forward."""
    problem = sample(rng, kind, batch=(4,), classes=4, **EVERYTHING)
    names = ["class_weight", "sample_weight", *["labels"] * (kind == "dense")]
    for reduction, normalizer in (("sum", None), ("mean", None), ("mean", 3.5)):
        problem = problem.but(reduction=reduction, normalizer=normalizer)
        function, arguments = loss_in(problem, *names)
        truth = [central_differences(problem, name) for name in names]
        places = tuple(range(len(names)))
        for derivative in (jax.grad, jax.jacfwd, lambda f, at: jax.jit(jax.grad(f, at))):
            for slope, expected in zip(
                derivative(function, places)(*arguments), truth, strict=True
            ):
                np.testing.assert_allclose(slope, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_linear_walk_has_derivatives(kind: Any, rng: Generator) -> None:
    """R22, R31: backward, and forward through it, of blocks that are made again."""
    case = linear(rng, kind, batch=(6,), classes=10, **WALK)
    head = {name: jnp.asarray(case.arrays[name], "float32") for name in HEAD}

    def loss(head: dict[str, Any]) -> Any:
        return linear_cross_entropy(**case.arrays | head, **case.options)

    with mock.patch.multiple(walks, TWO_STEPS=0, TILE=18, CLASSES_AT_LEAST=1):
        slopes, change = jax.jvp(jax.grad(loss), (head,), (head,))
        forward = jax.jvp(loss, (head,), (head,))[1]
    assert_all_near([slopes[name] for name in HEAD], case, "float32")
    along = sum((slopes[name] * head[name]).sum() for name in HEAD)
    np.testing.assert_allclose(forward, along, 1e-4)
    step = {name: 1.01 * head[name] for name in HEAD}, {name: 0.99 * head[name] for name in HEAD}
    ahead, behind = (jax.grad(loss)(each) for each in step)  # in two steps
    for name in HEAD:
        expected = (ahead[name] - behind[name]) / 0.02
        np.testing.assert_allclose(change[name], expected, 2e-2, 2e-3, err_msg=name)


def test_normalizer_may_be_traced(rng: Generator) -> None:
    """R8, R22: a normalizer that is an argument of the jitted function, differentiated too."""
    problem = sample(rng, normalizer=4.0)

    @jax.jit
    @jax.value_and_grad
    def loss(normalizer: Any) -> Any:
        arrays = JAX.place(problem, "float32")
        return cross_entropy(**arrays, **problem.options | {"normalizer": normalizer})

    value, slope = loss(jnp.float32(4))
    assert_accurate(value, problem, "float32")
    np.testing.assert_allclose(slope, -evaluate(problem).loss.astype(float) / 4, rtol=1e-6)


IN_AXES: dict[str, tuple[Any, Any, Any]] = {
    "all": (0, 0, 0),
    "labels_alone": (None, 0, None),
    "logits_alone": (0, None, None),
    "weights_alone": (None, None, 0),
    "last_axes": (-1, 1, -1),
}


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("axes", IN_AXES)
def test_vmap_is_a_loop(axes: str, kind: Any, rng: Generator) -> None:
    """R22, R23: `vmap` over any of the arguments, of loss and gradient, with ignored labels."""
    lanes = [
        sample(rng, kind, batch=(4,), label_smoothing=0.25, sample_weight="full") for _ in range(3)
    ]
    names, ndims = ("logits", "labels", "sample_weight"), (2, 1 + (kind == "dense"), 1)
    if kind == "index":
        lanes[1].labels[:2] = -100
        lanes[2].labels[:] = -100
    where = [
        None if at is None else at % (ndim + 1)
        for at, ndim in zip(IN_AXES[axes], ndims, strict=True)
    ]
    lanes = [
        lane.but(
            **{n: getattr(lanes[0], n) for n, at in zip(names, where, strict=True) if at is None}
        )
        for lane in lanes
    ]
    stacks = [
        jnp.asarray(
            getattr(lanes[0], name)
            if at is None
            else np.stack([getattr(lane, name) for lane in lanes], at)
        )
        for name, at in zip(names, where, strict=True)
    ]

    def loss(logits: Any, labels: Any, weight: Any) -> Any:
        return cross_entropy(logits, labels, sample_weight=weight, label_smoothing=0.25)

    for wrap in (lambda f: f, jax.jit):
        values, slopes = wrap(jax.vmap(jax.value_and_grad(loss), where))(*stacks)
        for lane, value, slope in zip(lanes, values, slopes, strict=True):
            assert_accurate(value, lane, "float32")
            assert_accurate(slope, lane, "float32", "gradient")


def test_nested_vmap_is_a_nested_loop(rng: Generator) -> None:
    """R23: one example a call, mapped twice, is the unreduced loss."""
    problem = sample(rng, batch=(3, 2), ignored=2, reduction="none")
    logits, labels = (JAX.asarray(each) for each in (problem.logits, problem.labels))
    assert_accurate(jax.vmap(jax.vmap(cross_entropy))(logits, labels), problem, "float32")


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("x64", [False, True])
def test_labels_of_any_integer_dtype_under_jit(dtype: str, *, x64: bool, rng: Generator) -> None:
    """R4, R6: class ids 0 to 200 of every integer dtype, traced, with 32 and with 64 bits."""
    if dtype.endswith("64") and not x64:
        pytest.skip("JAX has no 64-bit integers without x64")
    classes = 128 if dtype == "int8" else 201
    problem = sample(rng, batch=(7,), classes=classes)
    problem.labels[:2] = 0, classes - 1
    with jax.enable_x64(x64):
        labels = jnp.asarray(problem.labels, dtype)
        assert labels.dtype == dtype
        loss, slope = jax.jit(jax.value_and_grad(cross_entropy))(
            jnp.asarray(problem.logits), labels
        )
        assert loss.dtype == slope.dtype == "float32"
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("dtype", JAX.floats)
@pytest.mark.parametrize("case", ["everything", "dense_everything"])
def test_result_has_the_dtype_of_the_logits(dtype: str, case: str, rng: Generator) -> None:
    """R20, R23: with x64 on, the logits alone decide; half precision trains in its own dtype."""
    problem = problem_of(case, rng)
    with jax.enable_x64(True):  # noqa: FBT003
        arrays = JAX.place(problem, dtype)
        for name in {"class_weight", "sample_weight"} & arrays.keys():
            arrays[name] = arrays[name].astype("float64")
        logits = arrays.pop("logits")

        def function(x: Any) -> Any:
            return cross_entropy(x, **arrays, **problem.options)

        loss, slope = jax.jit(jax.value_and_grad(function))(logits)
    assert (loss.dtype, slope.dtype) == (compute_dtype(dtype), dtype)
    assert_accurate(np.asarray(loss), problem, dtype)
    assert_accurate(np.asarray(slope, np.float64), problem, dtype, "gradient")
