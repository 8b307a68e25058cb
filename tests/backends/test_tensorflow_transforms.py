"""TensorFlow: tapes, forward mode, `tf.function`, XLA and vectorized maps, under all options."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close
from tests.helpers.backends import BACKENDS
from tests.helpers.differentiation import hessian, loss_of_logits
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import central_differences, evaluate
from tests.helpers.variants import KINDS
from unified_loss import LossInputError, ShapeError, cross_entropy, cross_entropy_with_grad

tf = pytest.importorskip("tensorflow")

CASES: dict[str, dict[str, Any]] = {
    "index": {},
    "ignored": {"ignored": 2},
    "kept": {"kind": "kept", "batch": (3, 2), "label_smoothing": 0.25, "reduction": "sum"},
    "channels first": {"batch": (2, 3, 2), "class_axis": 1, "ignored": 3, "z_loss": 0.25},
    "weights": {"class_weight": True, "sample_weight": "full", "ignored": 1},
    "all smoothing": {"label_smoothing": 1.0, "class_weight": True},
    "mask": {"sample_weight": "mask", "reduction": "none"},
    "normalizer": {"normalizer": 7.0, "sample_weight": "first", "batch": (3, 2)},
    "dense": {"kind": "dense"},
    "dense, everything": {
        "kind": "dense",
        "batch": (3, 2),
        "class_axis": 1,
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.125,
    },
}


@pytest.fixture(autouse=True)
def _under_test(installed: list[Any]) -> None:
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")


@pytest.fixture(params=CASES)
def problem(request: pytest.FixtureRequest, rng: Generator) -> Problem:
    """One problem for each case."""
    options = dict(CASES[request.param])
    return sample(rng, options.pop("kind", "index"), **options)


def tensors(problem: Problem) -> dict[str, Any]:
    """The array arguments of a problem."""
    return BACKENDS["tensorflow"].place(problem, "float32")


def gradient_of(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The gradient of a function of the logits."""

    def gradient(logits: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = function(logits)
        return tape.gradient(loss, logits)

    return gradient


def hold(problem: Problem, loss: Any, slope: Any) -> None:
    """Hold a loss and its gradient to the reference."""
    assert_accurate(loss.numpy(), problem, "float32")
    assert_accurate(slope.numpy(), problem, "float32", "gradient")


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_function_gives_the_numbers_of_the_reference(
    problem: Problem, *, jit_compile: bool | None
) -> None:
    """R22, R23: value, gradient and closed form, eager, in a graph and under XLA."""

    def step(given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given["logits"])
            loss = cross_entropy(**given, **problem.options)
        closed = cross_entropy_with_grad(**given, **problem.options)
        return loss, tape.gradient(loss, given["logits"]), *closed

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    loss, slope, again, closed = step(tensors(problem))
    hold(problem, loss, slope)
    hold(problem, again, closed)


def unknown(problem: Problem, name: str, shape: str) -> Any:
    """The signature of an argument whose batch, sizes or rank are unknown."""
    array = problem.arrays[name]
    batch = list(array.shape) if name == "class_weight" else [None, *array.shape[1:]]
    if shape == "sizes" and name == "labels" and array.ndim == problem.logits.ndim:
        shape = "batch"  # else integers could be either kind of labels
    sizes = {"batch": batch, "sizes": [None] * array.ndim, "rank": None}
    return tf.TensorSpec(sizes[shape], array.dtype)


@pytest.mark.parametrize(
    ("shape", "jit_compile"), [("batch", True), ("batch", False), ("sizes", False), ("rank", True)]
)
def test_function_is_traced_once_for_all_sizes(
    problem: Problem, shape: str, *, jit_compile: bool
) -> None:
    """R3, R23: one trace for unknown batch, sizes or rank; wrong sizes are refused at run time."""
    names = tuple(name for name in problem.arrays if name != "normalizer")
    given = [unknown(problem, name, shape) for name in names]
    options = problem.options
    traces = []

    @tf.function(input_signature=given, jit_compile=jit_compile)
    def step(*arrays: Any) -> Any:
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(arrays[0])
            loss = cross_entropy(**dict(zip(names, arrays, strict=True)), **options)
        return loss, tape.gradient(loss, arrays[0])

    for copies in (1, 2, 0):
        larger = _repeated(problem, copies)
        arrays = tensors(larger)
        hold(larger, *step(*(arrays[name] for name in names)))
    assert len(traces) == 1


def _repeated(problem: Problem, copies: int) -> Problem:
    """The problem with each example several times."""
    changed = {
        name: np.concatenate([array] * copies) if copies else array[:0]
        for name, array in problem.arrays.items()
        if name not in {"class_weight", "normalizer"}
    }
    return problem.but(**changed)


WRONG: dict[str, Any] = {
    "dense labels of one row": ([None, 3], [None, 3], {}),
    "index labels of another length": ([None, 3], [None], {}),
    "sample weights of one": ([None, 3], [None], {"sample_weight": np.ones(1, np.float32)}),
    "class weights of one": ([None, None], [None], {"class_weight": np.ones(1, np.float32)}),
    "labels of another rank": (None, None, {"axis": -1}),
}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_sizes_that_meet_at_run_time_never_broadcast(case: str, *, jit_compile: bool) -> None:
    """R5: sizes that tracing does not know are compared in the graph."""
    logits, labels, options = WRONG[case]
    dense = case.startswith("dense")
    options = {name: tf.constant(value) for name, value in options.items() if name != "axis"}
    dtype = tf.float32 if dense else tf.int32

    @tf.function(
        input_signature=[tf.TensorSpec(logits), tf.TensorSpec(labels, dtype)],
        jit_compile=jit_compile,
    )
    def loss(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits, labels, axis=-1, **options)

    wrong = {"dense labels of one row": (1, 3), "labels of another rank": (4, 1, 1)}
    size = wrong.get(case, (4,) if options else (1,))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        loss(tf.zeros([4, 3]), tf.zeros(size, dtype))
    if not jit_compile:  # XLA has no assertions
        text = str(caught.value)
        name = next(iter(options), "labels")
        assert f"ShapeError: {name} do not have the shape" in text
        assert "[4 3]" in text
        assert ("unified_loss.explain(logits, labels)" in text) == (name == "labels")


def test_nested_tapes_give_second_derivatives(problem: Problem) -> None:
    """R22, R23: the Jacobian of the gradient, vectorized, eager and in a graph."""
    function = loss_of_logits(problem.but(reduction="sum", normalizer=None), "tensorflow")
    gradient = gradient_of(function)

    def second(logits: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(logits)
            slope = gradient(logits)
        return outer.jacobian(slope, logits)

    truth = hessian(problem.but(reduction="sum", normalizer=None))
    logits = tf.constant(problem.logits)
    for transformed in (second, tf.function(second)):
        np.testing.assert_allclose(transformed(logits), truth, rtol=1e-5, atol=2e-6)


def test_forward_mode_agrees_with_reverse(problem: Problem, rng: Generator) -> None:
    """R22, R23: `ForwardAccumulator` over the loss and over its gradient, also in a graph."""
    problem = problem.but(reduction="sum", normalizer=None)
    function, logits = loss_of_logits(problem, "tensorflow"), tf.constant(problem.logits)
    direction = rng.standard_normal(logits.shape).astype(np.float32)

    def forward(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def pushed(logits: Any, direction: Any) -> Any:
            with tf.autodiff.ForwardAccumulator(logits, direction) as accumulator:
                value = function(logits)
            return value, accumulator.jvp(value)

        return pushed

    first = (evaluate(problem).gradient.astype(float) * direction).sum()
    second = np.tensordot(hessian(problem), direction.astype(float), logits.ndim)
    for wrap in (lambda run: run, tf.function):
        value, slope = wrap(forward(function))(logits, tf.constant(direction))
        assert_accurate(value.numpy(), problem, "float32")
        np.testing.assert_allclose(slope, first, rtol=1e-5, atol=1e-5)
        _, slopes = wrap(forward(gradient_of(function)))(logits, tf.constant(direction))
        np.testing.assert_allclose(slopes, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_weights_and_dense_labels_have_gradients(
    kind: Any, rng: Generator, *, jit_compile: bool | None
) -> None:
    """R22: gradients flow to dense labels and to both weights, with masked classes about."""
    problem = sample(
        rng,
        kind,
        batch=(4,),
        classes=3,
        class_weight=True,
        sample_weight="full",
        label_smoothing=0.25,
        z_loss=0.125,
    )
    names = ["class_weight", "sample_weight"] + ["labels"] * (kind == "dense")

    def step(given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([given[name] for name in names])
            loss = cross_entropy(**given, **problem.options)
        return tape.gradient(loss, [given[name] for name in names])

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    for name, slope in zip(names, step(tensors(problem)), strict=True):
        truth = central_differences(problem, name)
        np.testing.assert_allclose(slope, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_gradients_stay_finite_beside_masked_classes_and_dropped_rows(
    kind: Any, rng: Generator, *, jit_compile: bool | None
) -> None:
    """R16, R18: -inf without probability, and NaN and inf in dropped rows, leave no trace."""
    problem = sample(rng, kind, batch=(6,), classes=4, z_loss=0.25, sample_weight="full")
    problem.logits[0, 1] = -np.inf
    problem.logits[1:3] = [[np.nan] * 4, [np.inf, 1, -np.inf, 0]]
    problem.logits[3] = -np.inf
    problem.sample_weight[1:4] = 0
    problem.labels[0] = [1, 0, 2, 0] if kind == "dense" else 2
    given = tensors(problem)
    names = ["sample_weight"] + ["labels"] * (kind == "dense")

    def step(given: Any) -> Any:
        watched = [given["logits"], *(given[name] for name in names)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            loss = cross_entropy(**given, **problem.options)
        return loss, *tape.gradient(loss, watched)

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    loss, slope, *others = step(given)
    hold(problem, loss, slope)
    np.testing.assert_array_equal(slope[1:4], 0)
    assert all(np.isfinite(other).all() for other in others)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}, {"z_loss": 0.5}])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_rows_that_are_not_usable_are_nan(
    kind: Any, options: dict[str, float], rng: Generator, *, jit_compile: bool | None
) -> None:
    """R17, R18: NaN, +inf or nothing but -inf in a row, or a bad label, poison that row alone."""
    problem = sample(rng, kind, batch=(6,), classes=3, reduction="none", **options)
    problem.logits[:3] = [[0, np.nan, 1], [0, np.inf, 1], [-np.inf] * 3]
    if kind == "index":
        problem.labels[3] = 3

    def step(logits: Any, labels: Any) -> Any:
        return cross_entropy_with_grad(logits, labels, check=False, **problem.options)

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    hold(problem, *step(tf.constant(problem.logits), tf.constant(problem.labels)))


@pytest.mark.parametrize("kind", KINDS)
def test_vectorized_map_is_a_loop(kind: Any, rng: Generator) -> None:
    """R22, R23: `tf.vectorized_map` over losses, gradients, and under an outer tape."""
    problem = sample(rng, kind, batch=(5, 3), classes=4, sample_weight="full", ignored=2)

    def one(given: Any) -> Any:
        return cross_entropy(
            given[0], given[1], axis=-1, sample_weight=given[2], label_smoothing=0.25
        )

    def one_gradient(given: Any) -> Any:
        return gradient_of(lambda logits: one((logits, *given[1:])))(given[0])

    given = tuple(tensors(problem)[name] for name in ("logits", "labels", "sample_weight"))
    rows = list(zip(*(tf.unstack(array) for array in given), strict=True))
    losses, slopes = (np.array([run(row) for row in rows]) for run in (one, one_gradient))
    assert_close(tf.vectorized_map(one, given).numpy(), losses, "float32", scale=1)
    assert_close(tf.vectorized_map(one_gradient, given).numpy(), slopes, "float32", scale=1)
    through = gradient_of(lambda logits: tf.vectorized_map(one, (logits, *given[1:])))
    assert_close(through(given[0]).numpy(), slopes, "float32", scale=1)
    assert_close(tf.map_fn(one, given, tf.float32).numpy(), losses, "float32", scale=1)


def test_control_flow_and_recomputation_keep_the_gradient(problem: Problem) -> None:
    """R23: inside `tf.while_loop`, `tf.cond` and `tf.recompute_grad`."""
    problem = problem.but(reduction="sum", normalizer=None)
    function, logits = loss_of_logits(problem, "tensorflow"), tf.constant(problem.logits)

    @tf.function
    def looped(logits: Any) -> Any:
        total = 0.0
        for turn in tf.range(3):
            total += function(logits) if turn < 2 else 0.0
        return total / 2

    for transformed in (looped, tf.recompute_grad(function)):
        slope = gradient_of(transformed)(logits)
        assert_accurate(slope.numpy(), problem, "float32", "gradient")


def test_data_pipeline_maps_it(problem: Problem) -> None:
    """R23: in `tf.data`, where the map is traced."""
    data = tf.data.Dataset.from_tensors(tensors(problem))
    losses = data.map(functools.partial(_call, **problem.options))
    for loss in losses:
        assert_accurate(loss.numpy(), problem, "float32")


def _call(given: Any, **options: Any) -> Any:
    return cross_entropy(**given, **options)


def test_variables_are_logits(rng: Generator) -> None:
    """R2, R22: `tf.Variable` logits and weights get their gradients from a plain tape."""
    problem = sample(rng, class_weight=True)
    given = {name: tf.Variable(value) for name, value in tensors(problem).items()}
    with tf.GradientTape() as tape:
        loss = cross_entropy(**given, **problem.options)
    slopes = tape.gradient(loss, [given["logits"], given["class_weight"]])
    hold(problem, loss, slopes[0])
    truth = central_differences(problem, "class_weight")
    np.testing.assert_allclose(slopes[1], truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_half_precision_is_computed_in_single(
    dtype: str, rng: Generator, *, jit_compile: bool | None
) -> None:
    """R20: mixed precision logits give a float32 loss, and a gradient in their own dtype."""
    problem = sample(rng, batch=(8,), label_smoothing=0.25, ignored=1)
    given = BACKENDS["tensorflow"].place(problem, dtype)

    def step(given: Any) -> Any:
        return cross_entropy_with_grad(**given, **problem.options)

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    loss, slope = step(given)
    assert (loss.dtype, slope.dtype) == (tf.float32, tf.as_dtype(dtype))
    assert_accurate(loss.numpy(), problem, dtype)
    assert_accurate(tf.cast(slope, tf.float32).numpy(), problem, dtype, "gradient")


def test_mistakes_keep_their_type_and_text() -> None:
    """R25: errors inside `tf.function` keep type and text, called directly or by another."""

    @tf.function
    def step(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits * 2, labels)

    for function in (step, tf.function(cross_entropy)):
        with pytest.raises(ShapeError, match=r"labels must have shape \(2,\)"):
            function(tf.zeros([2, 3]), tf.zeros([4], tf.int32))
        with pytest.raises(LossInputError, match="axis="):
            function.get_concrete_function(tf.TensorSpec(None), tf.TensorSpec(None, tf.int32))
