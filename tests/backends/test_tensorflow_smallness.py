"""R24 on TensorFlow: how many arrays of the logits' size a program holds, and its tracing time."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.support import calls_of
from unified_loss import cross_entropy

ROWS, CLASSES = 64, 50


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")


def native(logits: Any, labels: Any) -> Any:
    """TensorFlow's loss for index labels."""
    import tensorflow as tf

    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def native_smoothed(logits: Any, labels: Any) -> Any:
    """What TensorFlow offers for label smoothing: dense labels."""
    import tensorflow as tf

    rows = tf.one_hot(labels, CLASSES) * 0.9 + 0.1 / CLASSES
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(rows, logits))


def smoothed(logits: Any, labels: Any) -> Any:
    """Ours with label smoothing."""
    return cross_entropy(logits, labels, label_smoothing=0.1)


def weighted(logits: Any, labels: Any) -> Any:
    """Ours with everything else that an index loss can have."""
    import tensorflow as tf

    weights = {"class_weight": tf.ones(CLASSES), "sample_weight": tf.ones(ROWS)}
    return cross_entropy(logits, labels, z_loss=0.1, **weights)


def native_dense(logits: Any, labels: Any) -> Any:
    """TensorFlow's loss for dense labels."""
    import tensorflow as tf

    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))


# Ours, TensorFlow's, and how many large arrays more ours has: in a graph, and once XLA has fused.
PAIRS = {
    "index": (cross_entropy, native, 2, 0),
    # One more tells whether a row holds a NaN, which a maximum of XLA's may lose.
    "weighted": (weighted, native, 3, 0),
    "smoothed": (smoothed, native_smoothed, 1, 0),
    "dense": (cross_entropy, native_dense, 8, 0),
    "dense, smoothed": (smoothed, native_dense, 10, 2),
    # One more tells whether labels that a weight of 0 drops are garbage.
    "dense, weighted": (weighted, native_dense, 13, 2),
}
VIEWS = frozenset({"Identity", "IdentityN", "Reshape", "StopGradient"})


def step_of(loss: Callable[[Any, Any], Any], *, with_gradient: bool) -> Callable[..., Any]:
    """The loss, or a training step with it."""
    import tensorflow as tf

    def step(logits: Any, labels: Any) -> Any:
        if not with_gradient:
            return loss(logits, labels)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits, labels)
        return value, tape.gradient(value, logits)

    return step


def arguments(pair: str) -> tuple[Any, Any]:
    """Logits and labels."""
    import tensorflow as tf

    labels = tf.zeros([ROWS, CLASSES]) if pair.startswith("dense") else tf.zeros([ROWS], tf.int32)
    return tf.zeros([ROWS, CLASSES]), labels


def pruned(graph: Any) -> list[Any]:
    """The operations of a graph that its outputs need: those that run."""
    needed, waiting = {}, [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed[operation.name] = operation
            waiting += [part.op for part in operation.inputs] + list(operation.control_inputs)
    return list(needed.values())


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_graph_has_few_more_large_tensors_than_the_native_loss(
    pair: str, *, with_gradient: bool
) -> None:
    """R24: of the operations that run, before anything fuses; and no callback."""
    import tensorflow as tf

    counts = []
    *losses, more, _ = PAIRS[pair]
    for loss in losses:
        step = tf.function(step_of(loss, with_gradient=with_gradient))
        operations = pruned(step.get_concrete_function(*arguments(pair)).graph)
        outputs = [out for one in operations if one.type not in VIEWS for out in one.outputs]
        counts.append(sum(out.shape.num_elements() == ROWS * CLASSES for out in outputs))
        assert not any("PyFunc" in operation.type for operation in operations)
    ours, theirs = counts
    assert ours <= theirs + more


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_xla_keeps_few_more_large_arrays_than_the_native_loss(
    pair: str, *, with_gradient: bool
) -> None:
    """R24: once XLA has fused."""
    import tensorflow as tf

    counts = []
    *losses, _, more = PAIRS[pair]
    for loss in losses:
        step = tf.function(step_of(loss, with_gradient=with_gradient), jit_compile=True)
        text = step.experimental_get_compiler_ir(*arguments(pair))(stage="optimized_hlo")
        program = text[text.index("ENTRY") :]
        counts.append(len(re.findall(rf"= \w+\[{ROWS},{CLASSES}\]", program)))
    ours, theirs = counts
    assert 0 < ours <= theirs + more


def native_ignoring(logits: Any, labels: Any) -> Any:
    """TensorFlow's loss with the meaning of ours: -100 is ignored."""
    import tensorflow as tf

    kept = tf.not_equal(labels, -100)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(kept, labels, 0), logits)
    count = tf.reduce_sum(tf.cast(kept, losses.dtype))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(kept, losses, 0.0)), count)


def test_a_training_step_is_traced_with_less_than_three_times_the_work() -> None:
    """R24: in calls of Python functions."""
    import tensorflow as tf

    def calls(loss: Callable[[Any, Any], Any]) -> int:
        def trace() -> None:
            step = step_of(loss, with_gradient=True)
            tf.function(step).get_concrete_function(*arguments("index"))

        trace()
        return calls_of(trace)

    assert calls(cross_entropy) < 3 * calls(native_ignoring)
