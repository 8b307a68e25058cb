"""R23 on JAX: configurations, export, compiled programs, and the closed form."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.differentiation import hessian
from tests.helpers.jax_cases import CASES, EVERYTHING, JAX, loss_in, problem_of
from tests.helpers.problems import sample
from tests.helpers.reference import evaluate
from unified_loss import AmbiguousAxisError, ShapeError, cross_entropy, cross_entropy_with_grad

jax = pytest.importorskip("jax")
jnp = jax.numpy
checkify = pytest.importorskip("jax.experimental.checkify")


@pytest.fixture(autouse=True)
def _selected(installed: list[Any]) -> None:
    if JAX not in installed:
        pytest.skip("jax is not under test")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_strict_promotion_of_dtypes_and_ranks(case: str, dtype: str, rng: Generator) -> None:
    """R23: nothing is promoted implicitly, neither dtypes nor ranks."""
    problem = problem_of(case, rng)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        (slope,) = JAX.gradients(problem, dtype, "traced")
        loss, closed = JAX.closed_form(problem, dtype)
        if dtype == "float32":
            function, (logits,) = loss_in(problem, "logits")
            assert jax.hessian(function)(logits).shape == logits.shape * 2
    assert_accurate(loss, problem, dtype)
    for gradient in (slope, closed):
        assert_accurate(gradient, problem, dtype, "gradient")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_strict_promotion_of_labels(dtype: str, rng: Generator) -> None:
    """R6, R23: labels of every dtype compare with ids, classes and `ignore_index` unpromoted."""
    problem = sample(rng, batch=(8,), ignore_index=3, sample_weight="full")
    labels = jnp.asarray(problem.labels, dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        loss = jax.jit(lambda x, y, s: cross_entropy(x, y, sample_weight=s, ignore_index=3))(
            problem.logits, labels, jnp.asarray(problem.sample_weight)
        )
    assert_accurate(loss, problem, "float32")


@pytest.mark.parametrize("case", CASES)
def test_no_operation_makes_nan(case: str, rng: Generator) -> None:
    """R23: nor does `checkify` find one, inside of a compiled loss."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    checked = checkify.checkify(jax.jit(function), errors=checkify.nan_checks)
    error, loss = checked(logits)
    assert error.get() is None
    np.testing.assert_allclose(loss, function(logits), rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize("case", CASES)
def test_clean_input_makes_no_nan(case: str, mode: str, rng: Generator) -> None:
    """R23: `jax_debug_nans` finds none, in masked classes, in dropped rows and in no rows."""
    problem = problem_of(case, rng)
    first = (slice(None), 0) if problem.class_axis == 1 and problem.logits.ndim > 2 else 0
    weight = np.ones(problem.batch_shape, np.float32)
    weight[0] = 0
    dead = problem.logits.copy()
    dead[first] = -np.inf
    dropped = problem.but(sample_weight=weight, logits=dead)
    nothing = problem.but(sample_weight=np.zeros(problem.batch_shape, bool))
    with jax.debug_nans(True):  # noqa: FBT003
        for each in (problem, dropped, nothing):
            (slope,) = JAX.gradients(each, "float32", mode)
            assert np.isfinite(slope).all()
            JAX.closed_form(each, "float32", mode)
        function, (logits,) = loss_in(problem, "logits")
        assert np.isfinite(jax.hessian(function)(logits)).all()


@pytest.mark.parametrize("case", CASES)
def test_eval_shape_agrees_with_the_call(case: str, rng: Generator) -> None:
    """R21, R23: `jax.eval_shape` gives shape and dtype of loss and gradient."""
    problem = problem_of(case, rng)
    for dtype in ("bfloat16", "float32"):
        arrays = JAX.place(problem, dtype)
        for reduction in ("none", "sum"):
            options = problem.options | {"reduction": reduction, "normalizer": None}
            loss, slope = jax.eval_shape(
                lambda arrays, options=options: cross_entropy_with_grad(**arrays, **options), arrays
            )
            shape = problem.batch_shape if reduction == "none" else ()
            assert (loss.shape, loss.dtype) == (shape, "float32")
            assert (slope.shape, slope.dtype) == (problem.logits.shape, dtype)


def exported(function: Any, *symbols: str, dtypes: str) -> Any:
    """`function` exported for arguments of symbolic shapes."""
    scope = jax.export.SymbolicScope()
    arguments = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), dtype)
        for shape, dtype in zip(symbols, dtypes.split(), strict=True)
    ]
    return jax.export.export(jax.jit(function))(*arguments)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_export_with_symbolic_shapes(kind: Any, rng: Generator) -> None:
    """R3, R23: one export, saved and loaded, serves every number of examples and classes."""
    options = {"label_smoothing": 0.25, "z_loss": 0.125, "axis": -1}

    def step(x: Any, y: Any, w: Any, s: Any) -> Any:
        def loss(x: Any) -> Any:
            return cross_entropy(x, y, class_weight=w, sample_weight=s, **options)

        return *jax.value_and_grad(loss)(x), jax.hessian(loss)(x)

    labels = ("n", "int32") if kind == "index" else ("n, c", "float32")
    program = exported(
        step, "n, c", labels[0], "c", "n", dtypes=f"float32 {labels[1]} float32 float32"
    )
    program = jax.export.deserialize(program.serialize())
    for rows, classes in ((1, 2), (3, 4), (5, 3)):
        problem = sample(
            rng, kind, batch=(rows,), classes=classes, **EVERYTHING | {"normalizer": None}
        )
        loss, slope, second = program.call(*JAX.place(problem, "float32").values())
        assert_accurate(loss, problem, "float32")
        assert_accurate(slope, problem, "float32", "gradient")
        np.testing.assert_allclose(second, hessian(problem), rtol=1e-5, atol=2e-6)


def test_one_export_serves_every_platform(rng: Generator) -> None:
    """R23: what helps XLA on a processor is not in the programs of others."""
    for problem in (problem_of(case, rng) for case in ("dense", "dense_masked_class")):
        arrays = JAX.place(problem, "float32")
        loss = jax.jit(lambda arrays, options=problem.options: cross_entropy(**arrays, **options))
        program = jax.export.export(loss, platforms=("cpu", "cuda", "tpu"))(arrays)
        assert_accurate(program.call(arrays), problem, "float32")
        for platform in ("cpu", "cuda"):
            text = jax.export.export(loss, platforms=(platform,))(arrays).mlir_module()
            of_arrays = re.search(r"optimization_barrier.*tensor<\d", text)
            assert (of_arrays is not None) is (platform == "cpu")


@pytest.mark.parametrize(
    ("logits", "labels", "class_axis"),
    [("n, 7, h, w", "n, h, w", 1), ("n, t, c", "n, t", -1), ("2*n, c", "2*n", -1), ("c", "", 0)],
)
def test_export_infers_the_axis(logits: str, labels: str, class_axis: int, rng: Generator) -> None:
    """R3, R23: a symbol provably equals itself, so the class axis is inferred as in eager mode."""
    program = exported(cross_entropy, logits, labels, dtypes="float32 uint8")
    ndim = len(logits.split(","))
    problem = sample(rng, batch=(2, 3, 4)[: ndim - 1], classes=7, class_axis=class_axis)
    labels = problem.labels.astype(np.uint8)
    assert_accurate(program.call(problem.logits, labels), problem, "float32")


@pytest.mark.parametrize(
    ("shapes", "dtypes", "error"),
    [
        (("n, c", "m"), "float32 int32", ShapeError),
        (("n, c", "5"), "float32 int32", ShapeError),
        (("n, c", "n, k"), "float32 float32", ShapeError),
        (("n, c", "n, k"), "float32 int32", AmbiguousAxisError),
        (("n, t, c", "n, k"), "float32 int32", AmbiguousAxisError),
        (("n, c", "n", "k"), "float32 int32 float32", ShapeError),
        (("n, c", "n", "c", "m"), "float32 int32 float32 float32", ShapeError),
    ],
)
def test_export_refuses_what_it_cannot_prove(
    shapes: tuple[str, ...], dtypes: str, error: Any
) -> None:
    """R3, R5, R25: sizes that may differ at run time are refused with our own error."""

    def loss(logits: Any, labels: Any, class_weight: Any = None, sample_weight: Any = None) -> Any:
        return cross_entropy(logits, labels, class_weight=class_weight, sample_weight=sample_weight)

    with pytest.raises(error) as caught:
        exported(loss, *shapes, dtypes=dtypes)
    assert caught.type is error
    assert str(caught.value.labels_shape[0]) == shapes[1].split(",")[0]


def test_donated_buffers_are_used(rng: Generator) -> None:
    """R23: a training step that gives its logits away writes the new ones in their place."""
    problem = sample(rng)
    logits = jnp.array(problem.logits)

    def step(logits: Any, labels: Any) -> Any:
        return logits - jax.grad(cross_entropy)(logits, labels)

    moved = jax.jit(step, donate_argnums=0)(logits, jnp.asarray(problem.labels))
    assert logits.is_deleted()
    expected = problem.logits - evaluate(problem).gradient.astype(float)
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_closed_form_is_a_function_like_others(case: str, rng: Generator) -> None:
    """R22, R23: `cross_entropy_with_grad` under jit and vmap, and both results differentiated."""
    problem = problem_of(case, rng)
    arrays = JAX.place(problem, "float32")
    logits = arrays.pop("logits")

    def both(x: Any) -> Any:
        return cross_entropy_with_grad(x, **arrays, **problem.options)

    for run in (both, jax.jit(both), lambda x: [each[0] for each in jax.vmap(both)(x[None])]):
        loss, slope = run(logits)
        assert_accurate(loss, problem, "float32")
        assert_accurate(slope, problem, "float32", "gradient")
    slope = jax.jit(jax.grad(lambda x: both(x)[0]))(logits)
    assert_accurate(slope, problem, "float32", "gradient")
    truth = hessian(problem)
    second = jax.jit(jax.jacrev(lambda x: both(x)[1]))(logits)
    np.testing.assert_allclose(second, np.where(np.isfinite(truth), truth, 0), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_with_grad])
def test_eager_call_is_one_compiled_program(function: Any, rng: Generator) -> None:
    """R23: a call is one jitted dispatch, traced once for equal shapes, labels on host or not."""
    problem = sample(rng, **EVERYTHING | {"normalizer": None})
    arrays = JAX.place(problem, "float32")
    host = {
        name: arrays["logits"] if name == "logits" else value
        for name, value in problem.arrays.items()
    }
    heard: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        heard.append(event)

    for given, smoothing in ((arrays, 0.21), (host, 0.22)):
        calls = jax.make_jaxpr(lambda given: function(**given, label_smoothing=0.2))(given).eqns
        assert [call.primitive.name for call in calls] == ["jit"]
        jax.monitoring.register_event_duration_secs_listener(listen)
        function(**given, label_smoothing=smoothing)
        assert any("trace" in event for event in heard)
        heard.clear()
        function(**given, label_smoothing=smoothing)
        assert heard == []
        jax.monitoring.unregister_event_duration_listener(listen)


def test_poisoned_label_stays_in_its_row(rng: Generator) -> None:
    """R17, R23: under jit, vmap and scan a bad label makes NaN of its own row alone."""
    problem = sample(rng, batch=(5,), reduction="none")
    problem.labels[2] = 7
    logits, labels = jnp.asarray(problem.logits), jnp.asarray(problem.labels)

    def rows(x: Any) -> Any:
        return cross_entropy(x, labels, reduction="none", check=False)

    scanned = jax.lax.scan(lambda _, row: (None, cross_entropy(*row)), None, (logits, labels))[1]
    for loss in (jax.jit(rows)(logits), jax.vmap(cross_entropy)(logits, labels), scanned):
        assert_accurate(loss, problem, "float32")
    slope = jax.jit(jax.jacrev(lambda x: jnp.nansum(rows(x)) + rows(x)[2]))(logits)
    assert np.isnan(slope[2]).all()
    assert not np.isnan(np.delete(slope, 2, 0)).any()


def test_no_transformation_warns(rng: Generator) -> None:
    """R23: export, jit, vmap and Hessians of everything warn of nothing."""
    problem = sample(rng, **EVERYTHING)
    function, (logits,) = loss_in(problem, "logits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for transform in (jax.jit, jax.hessian, jax.checkpoint, jax.linearize):
            arguments = (logits,) if transform is jax.linearize else ()
            result = transform(function, *arguments)
            if not arguments:
                jax.block_until_ready(result(logits))
