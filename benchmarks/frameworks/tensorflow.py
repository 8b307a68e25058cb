"""TensorFlow, and Keras on it."""

from typing import Any, ClassVar

import tensorflow as tf

from benchmarks.cases import TWO_STEPS
from benchmarks.frameworks._base import Framework, Inputs, Loss, Step


def native(inputs: Inputs) -> Loss:
    """The losses of `tf.nn`, which know the last axis alone and compute in the logits' dtype."""
    function = _without(inputs) if inputs.is_plain else _with_options(inputs)
    ndim = len(inputs.logits.shape)
    order = [axis for axis in range(ndim) if axis != inputs.axis % ndim] + [inputs.axis % ndim]

    def loss(logits: Any, labels: Any) -> Any:
        logits = tf.cast(logits, tf.float32)
        if order != list(range(ndim)):
            logits = tf.transpose(logits, order)
            labels = tf.transpose(labels, order) if inputs.is_dense else labels
        return function(logits, labels)

    return loss


def _without(inputs: Inputs) -> Loss:
    function = (
        tf.nn.softmax_cross_entropy_with_logits
        if inputs.is_dense
        else tf.nn.sparse_softmax_cross_entropy_with_logits
    )
    return lambda logits, labels: tf.reduce_mean(function(labels, logits))


def _with_options(inputs: Inputs) -> Loss:
    """No loss of TensorFlow has all options; `tf.nn` has a wrong gradient for weighted rows."""
    num_classes = inputs.logits.shape[inputs.axis]
    weight = inputs.options.get("class_weight", tf.ones(num_classes))
    smoothing = inputs.options.get("label_smoothing", 0.0)

    def dense(logits: Any, rows: Any) -> Any:
        smoothed = rows * (1 - smoothing) + smoothing / num_classes
        if "class_weight" not in inputs.options:
            return tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        return -tf.reduce_sum(smoothed * weight * tf.nn.log_softmax(logits), -1)

    def index(logits: Any, labels: Any) -> Any:
        is_kept, ids = tf.cast(labels >= 0, logits.dtype), tf.maximum(labels, 0)
        mass = is_kept * tf.gather(weight, ids)
        if smoothing:
            each = is_kept * dense(logits, tf.one_hot(labels, num_classes))
        else:
            each = mass * tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
        return tf.reduce_sum(each) / tf.reduce_sum(mass)

    return (lambda logits, rows: tf.reduce_mean(dense(logits, rows))) if inputs.is_dense else index


def keras(inputs: Inputs) -> Loss:  # noqa: ARG001 (class ids on the last axis alone)
    """The loss class that `Model.compile` takes."""
    import keras

    function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return lambda logits, labels: function(labels, logits)


def two_steps(inputs: Inputs) -> Loss:
    """The logits and the native loss."""
    loss = native(inputs)
    return lambda hidden, weight, labels: loss(tf.matmul(hidden, weight, transpose_b=True), labels)


class TensorFlow(Framework):
    """TensorFlow."""

    packages = ("tensorflow", "keras")
    compiled_modes = ("compiled", "xla")
    peers: ClassVar = {"tf.nn": native, "keras": keras, TWO_STEPS: two_steps}

    def compiled(self, function: Loss, mode: str) -> Loss:
        """As a graph, by XLA or not."""
        return self.library.compiled(function, jit_compile=mode == "xla")

    def traced(self, loss: Loss, inputs: Inputs, mode: str) -> Step:  # noqa: ARG002
        """To a concrete function."""

        def trace() -> Any:
            function = tf.function(self.library.value_and_gradients(loss))
            function.get_concrete_function(inputs.logits, inputs.labels)
            return 0.0  # there is no loss before the graph runs

        return trace


FRAMEWORK = TensorFlow
