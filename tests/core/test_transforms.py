"""The transformations of JAX, MLX and Dask: jit, grad, vmap, Hessians, forward mode, laziness."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close
from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.differentiation import hessian, loss_of_logits, weighted
from tests.helpers.problems import LabelKind, sample
from tests.helpers.reference import central_differences, evaluate
from tests.helpers.variants import KINDS
from unified_loss import cross_entropy


@pytest.fixture(autouse=True)
def _library(request: pytest.FixtureRequest, installed: list[Backend]) -> None:
    name = request.node.name.split("_")[1]
    if BACKENDS[name] not in installed:
        pytest.skip(f"{name} is not under test")


@pytest.mark.parametrize("kind", KINDS)
def test_jax_second_derivatives_and_forward_mode_are_true(kind: LabelKind, rng: Generator) -> None:
    """R22, R23: `jax.hessian`, `jvp`, `linearize` of the gradient and `checkpoint`."""
    import jax

    problem = weighted(rng, kind)
    function, logits = loss_of_logits(problem, "jax"), BACKENDS["jax"].asarray(problem.logits)
    truth = hessian(problem)
    for transformed in (jax.hessian(function), jax.jit(jax.hessian(function))):
        np.testing.assert_allclose(transformed(logits), truth, rtol=1e-5, atol=1e-6)
    direction = rng.standard_normal(logits.shape).astype(np.float32)
    value, slope = jax.jvp(function, (logits,), (direction,))
    assert_accurate(np.asarray(value), problem, "float32")
    expected = (evaluate(problem).gradient.astype(float) * direction).sum()
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
    gradient = jax.grad(jax.checkpoint(function))(logits)
    assert_accurate(np.asarray(gradient), problem, "float32", "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_jax_vmap_is_a_loop(kind: LabelKind, rng: Generator) -> None:
    """R22, R23: `vmap` of the loss and of its gradient, jitted or not, equal a loop."""
    import jax

    problem = sample(rng, kind, batch=(5, 3), classes=4, sample_weight="full")

    def one(logits: Any, labels: Any, weight: Any) -> Any:
        return cross_entropy(logits, labels, axis=-1, sample_weight=weight)

    arrays = [
        BACKENDS["jax"].asarray(each)
        for each in (problem.logits, problem.labels, problem.sample_weight)
    ]
    loop = [one(*each) for each in zip(*arrays, strict=True)]
    for vectorized in (jax.vmap(one), jax.jit(jax.vmap(one))):
        assert_close(vectorized(*arrays), np.asarray(loop), "float32")
    slopes = jax.vmap(jax.grad(one))(*arrays)
    loop = [jax.grad(one)(*each) for each in zip(*arrays, strict=True)]
    assert_close(slopes, np.asarray(loop), "float32", scale=1)


def test_jax_traces_once_a_shape(rng: Generator) -> None:
    """R23: a jitted training step is traced once, and a static option does not change that."""
    import jax

    traces = []

    @jax.jit
    def step(logits: Any, labels: Any) -> Any:
        traces.append(1)
        return jax.grad(cross_entropy)(logits, labels, label_smoothing=0.1)

    for _ in range(3):
        problem = sample(rng)
        step(*(BACKENDS["jax"].asarray(each) for each in (problem.logits, problem.labels)))
    assert len(traces) == 1


def test_jax_program_is_as_small_as_the_native_one(rng: Generator) -> None:
    """R24: index labels under jit need no callback, and no array that the native loss does not."""
    import jax
    from jax import numpy as jnp

    def native(logits: Any, labels: Any) -> Any:
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean()

    def temporaries(loss: Callable[..., Any]) -> int:
        compiled = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    problem = sample(rng, batch=(256,), classes=1000)
    arrays = [BACKENDS["jax"].asarray(each) for each in (problem.logits, problem.labels)]
    assert "callback" not in str(jax.make_jaxpr(jax.grad(cross_entropy))(*arrays))
    a_few_numbers_an_example = 64 * len(problem.labels)
    assert temporaries(cross_entropy) <= temporaries(native) + a_few_numbers_an_example


def test_mlx_transforms_are_true(rng: Generator) -> None:
    """R22: `mx.jvp`, `mx.vmap` and a gradient of a gradient agree with the reference."""
    import mlx.core as mx

    problem = weighted(rng)
    function, logits = loss_of_logits(problem, "mlx"), mx.array(problem.logits)
    direction = rng.standard_normal(problem.logits.shape).astype(np.float32)
    _, (slope,) = mx.jvp(function, [logits], [mx.array(direction)])
    expected = (evaluate(problem).gradient.astype(float) * direction).sum()
    np.testing.assert_allclose(np.array(slope), expected, rtol=1e-5)
    slopes = mx.grad(lambda x: (mx.grad(function)(x) * mx.array(direction)).sum())(logits)
    truth = np.tensordot(hessian(problem), direction.astype(float), 2)
    np.testing.assert_allclose(np.array(slopes), truth, rtol=1e-5, atol=1e-6)
    rows = sample(rng, batch=(5, 3), classes=4)
    pair = mx.array(rows.logits), mx.array(rows.labels)
    loop = [np.array(cross_entropy(*each)) for each in zip(*pair, strict=True)]
    assert_close(np.array(mx.vmap(cross_entropy)(*pair)), np.array(loop), "float32", scale=1)


def test_dask_graph_takes_gradients_lazily(rng: Generator) -> None:
    """R23: a lazy graph over many chunks is built, never computed, and gives the true numbers."""
    backend = BACKENDS["dask"]
    problem = sample(rng, batch=(9,), classes=7, class_weight=True)
    loss, slope = backend.closed_form(problem, "float64", "traced")
    assert_accurate(loss, problem, "float64")
    np.testing.assert_allclose(slope, central_differences(problem, "logits"), 1e-7, 1e-8)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_mlx_compile_gives_the_same_numbers(kind: LabelKind, rng: Generator) -> None:
    """R17, R20, R23: `mx.compile` keeps value and gradient, and the poison of a bad label."""
    import mlx.core as mx

    problem = sample(rng, kind, sample_weight="full", reduction="none")
    if kind == "index":
        problem.labels[1] = 99
    arrays = BACKENDS["mlx"].place(problem, "float32")
    names = tuple(arrays)

    def loss(*values: Any) -> Any:
        return cross_entropy(**dict(zip(names, values, strict=True)), **problem.options).sum()

    def examples(*values: Any) -> Any:
        return cross_entropy(**dict(zip(names, values, strict=True)), **problem.options)

    assert_accurate(np.array(mx.compile(examples)(*arrays.values())), problem, "float32")
    gradient = mx.compile(mx.grad(loss))(*arrays.values())
    assert_accurate(np.array(gradient), problem, "float32", "gradient")
