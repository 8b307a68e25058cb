"""TensorFlow: what optimizers and converters of graphs make of the loss."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close
from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import Problem, sample
from unified_loss import cross_entropy, cross_entropy_with_grad

tf = pytest.importorskip("tensorflow")

ROWS, CLASSES = 64, 50
VIEWS = frozenset({"Identity", "IdentityN", "StopGradient"})
# What a dropped row may hold; of the largest numbers too, the loss and its gradient are 0.
GARBAGE = {
    "nan": [np.nan] * 4,
    "one nan": [np.nan, 0, 1, 2],
    "inf": [0, np.inf, 1, -np.inf],
    "all inf": [np.inf] * 4,
    "all -inf": [-np.inf] * 4,
    "huge": [3e38, -3e38, 0, 1],
    "all huge": [3e38] * 4,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"class_weight": True, "sample_weight": "full"},
    "everything": {
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.5,
        "reduction": "sum",
    },
}


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")


def second_derivatives(problem: Problem, logits: Any) -> tuple[Any, Any, Any]:
    """The gradient, its product with a slope through both tapes, and its Jacobian."""
    given = BACKENDS["tensorflow"].place(problem, "float32") | {"logits": logits}
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(logits)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = cross_entropy(**given, **problem.options)
        slope = tape.gradient(loss, logits)
        square = tf.reduce_sum(slope**2 + slope)
    return slope, outer.gradient(square, logits), outer.jacobian(slope, logits)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_second_derivatives_of_dropped_rows_are_zero(
    kind: Any, options: str, rng: Generator, *, jit_compile: bool | None
) -> None:
    """R16, R22: whatever the row holds, and those of the others stay what they are."""
    problem = sample(rng, kind, batch=(len(GARBAGE) + 2,), classes=4, **OPTIONS[options])
    dropped = slice(0, len(GARBAGE))
    clean = problem.logits.copy()
    problem.logits[dropped] = list(GARBAGE.values())
    problem.labels[dropped] = -100 if kind == "index" else 0

    def derivatives(logits: Any) -> tuple[Any, Any, Any]:
        return second_derivatives(problem, logits)

    run = derivatives if jit_compile is None else tf.function(derivatives, jit_compile=jit_compile)
    found, wanted = run(tf.constant(problem.logits)), derivatives(tf.constant(clean))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one[dropped], 0)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batched", ["all", "labels", "logits"])
@pytest.mark.parametrize("kind", ["index", "kept", "dense"])
def test_vectorized_map_is_a_loop_whatever_is_mapped(
    kind: Any, batched: str, rng: Generator
) -> None:
    """R22, R23: with weights of each item, of all, and of the host, in values and gradients."""
    for axis, options in itertools.product((1, 2), ({}, {"label_smoothing": 0.25, "z_loss": 0.5})):
        batch = (3, 2, 3)
        problem = sample(rng, kind, batch=batch, classes=4, class_axis=axis + 1)
        logits, labels = tf.constant(problem.logits), tf.constant(problem.labels)
        weights = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
        masses = rng.uniform(0.5, 2, batch).astype(np.float32)

        for class_weight in (None, weights[0], tf.constant(weights[0]), "mapped"):

            def one(
                given: Any,
                class_weight: Any = class_weight,
                axis: int = axis,
                options: Any = options,
            ) -> Any:
                x, y, w, s = given
                return cross_entropy_with_grad(
                    x if batched != "labels" else logits[0],  # noqa: B023 (called within the loop)
                    y if batched != "logits" else labels[0],  # noqa: B023
                    axis=axis,
                    class_weight=w if isinstance(class_weight, str) else class_weight,
                    sample_weight=s if batched == "all" else None,
                    **options,
                )

            given = (logits, labels, tf.constant(weights), tf.constant(masses))
            found = tf.vectorized_map(one, given, fallback_to_while_loop=False)
            items = [one(item) for item in zip(*map(tf.unstack, given), strict=True)]
            for part, wanted in zip(found, zip(*items, strict=True), strict=True):
                assert_close(part.numpy(), np.array(wanted), "float32", scale=1)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_no_optimizer_leaves_a_negative_zero(reduction: Any, *, jit_compile: bool) -> None:
    """R16: the loss of a dropped row is +0 in graphs as well, where `x + 0` is taken for x."""
    weights = {"sample_weight": tf.constant([-1.0, 1]), "class_weight": tf.constant([1.0, 0])}

    def loss(logits: Any) -> Any:
        return cross_entropy(logits, tf.constant([1, 1]), reduction=reduction, **weights)

    found = tf.function(loss, jit_compile=jit_compile)(tf.constant([[1.0, 2], [0, 1]])).numpy()
    assert (found == 0).all()
    assert not np.signbit(found).any()


CONSTANTS: dict[str, Any] = {
    "probabilities": lambda logits: {"labels": tf.constant(np.full((ROWS, CLASSES), 0.02, "f4"))},
    "host": lambda logits: {"labels": np.full((ROWS, CLASSES), 0.02, "f4")},
    "one-hot": lambda logits: {"labels": tf.constant(np.eye(CLASSES, dtype="i4")[[3] * ROWS])},
    "filled": lambda logits: {"labels": tf.fill(logits.shape, 1 / CLASSES)},
    "like the logits": lambda logits: {"labels": tf.ones_like(logits) / CLASSES},
    "ids and weights": lambda logits: {
        "labels": tf.range(ROWS) % 7,
        "sample_weight": np.linspace(0, 1, ROWS, dtype="f4"),
        "class_weight": np.linspace(0, 1, CLASSES, dtype="f4"),
    },
    "mask": lambda logits: {"labels": tf.range(ROWS) % 7, "sample_weight": tf.range(ROWS) > 5},
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_no_reduction_stands_over_constants_alone(case: str) -> None:
    """R24: XLA would compute it while it compiles, at microseconds an entry."""

    def step(logits: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = cross_entropy(logits, **CONSTANTS[case](logits), label_smoothing=0.1)
        return loss, tape.gradient(loss, logits)

    program = tf.function(step, jit_compile=True)
    logits = tf.constant(np.random.default_rng(0).normal(size=(ROWS, CLASSES)), tf.float32)
    reductions = {"Sum", "Max", "Min", "Any", "All"}
    for operation in program.get_concrete_function(logits).graph.get_operations():
        if operation.type in reductions and operation.inputs[0].shape.num_elements() >= CLASSES:
            assert _depends_on_values(operation.inputs[0]), operation.name
    for one, other in zip(program(logits), step(logits), strict=True):
        assert_close(one.numpy(), other.numpy(), "float32", scale=1)


def _depends_on_values(array: Any) -> bool:
    """Whether an array of a graph depends on an argument by more than its shape."""
    waiting, seen = [array], set()
    while waiting:
        operation = waiting.pop().op
        if operation.type == "Placeholder":
            return True
        if operation.name not in seen and operation.type not in {"Shape", "OnesLike", "ZerosLike"}:
            seen.add(operation.name)
            waiting += _choices(operation)
    return False


def _choices(operation: Any) -> list[Any]:
    """The inputs of an operation; of a choice between an array and itself, the array alone."""
    inputs = list(operation.inputs)
    if operation.type == "SelectV2":
        sources = inputs[1:]
        while any(source.op.type in VIEWS for source in sources):
            sources = [
                source.op.inputs[0] if source.op.type in VIEWS else source for source in sources
            ]
        if sources[0] is sources[1]:
            return sources[:1]
    return inputs


@pytest.mark.filterwarnings(r"ignore:\s+Warning. tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"label_smoothing": 0.25}])
@pytest.mark.parametrize("class_weight", [False, True])
@pytest.mark.parametrize("kind", ["index", "kept", "uint8", "dense"])
def test_lite_needs_its_built_in_operations_alone(
    kind: Any, options: Any, rng: Generator, *, class_weight: bool
) -> None:
    """R23: a converted loss of an unknown batch runs, for batches of any size."""
    given = {"class_weight": class_weight, **options}
    problems = [
        sample(rng, "index" if kind == "uint8" else kind, batch=(rows,), classes=5, **given)
        for rows in (4, 7)
    ]
    names = [name for name in problems[0].arrays if name != "class_weight"]
    weights = tf.constant(problems[0].class_weight) if class_weight else None

    def arrays(problem: Problem) -> dict[str, Any]:
        placed = {name: problem.arrays[name] for name in names}
        return placed | ({"labels": placed["labels"].astype("u1")} if kind == "uint8" else {})

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *array.shape[1:]], array.dtype, name)
            for name, array in arrays(problems[0]).items()
        ]
    )
    def loss(*given: Any) -> Any:
        named = dict(zip(names, given, strict=True))
        return cross_entropy(**named, class_weight=weights, **problems[0].options)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [loss.get_concrete_function()], loss
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    lite = tf.lite.Interpreter(model_content=converter.convert())
    inputs = {detail["name"]: detail["index"] for detail in lite.get_input_details()}
    for problem in problems:
        batch = arrays(problem)
        for name, index in inputs.items():
            lite.resize_tensor_input(index, batch[name].shape)
        lite.allocate_tensors()
        for name, index in inputs.items():
            lite.set_tensor(index, batch[name])
        lite.invoke()
        found = lite.get_tensor(lite.get_output_details()[0]["index"])
        same = problem.but(class_weight=problems[0].class_weight)
        assert_accurate(found, same, "float32")
