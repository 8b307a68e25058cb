"""What needs a process of TensorFlow: ``python -m tests.helpers.tensorflow_processes NAME``.

Devices and determinism are settled before the first tensor.
"""

import sys
from typing import Any

import numpy as np
import tensorflow as tf

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import evaluate
from unified_loss import cross_entropy, cross_entropy_totals


def mirrored() -> None:
    """R34: two replicas; one `normalizer` makes the sum over them the mean of the global batch."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    problem = sample(np.random.default_rng(0), batch=(8,), label_smoothing=0.25)
    with strategy.scope():
        # The gradient in a bias added to every row is the sum of the rows' gradients.
        bias = tf.Variable(tf.zeros(problem.num_classes))
    data = tf.data.Dataset.from_tensor_slices((problem.logits, problem.labels)).batch(8)

    def step(logits: Any, labels: Any) -> Any:
        context = tf.distribute.get_replica_context()
        mass = cross_entropy_totals(logits, labels).mass
        mass = context.all_reduce(tf.distribute.ReduceOp.SUM, mass)
        with tf.GradientTape() as tape:
            options = problem.options | {"normalizer": mass}
            loss = cross_entropy(logits + bias, labels, **options)
        slope = tape.gradient(loss, bias)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, slope])

    @tf.function
    def run(logits: Any, labels: Any) -> Any:
        return strategy.run(step, (logits, labels))

    for logits, labels in strategy.experimental_distribute_dataset(data):
        assert len(strategy.experimental_local_results(logits)) == 2
        results = map(strategy.experimental_local_results, run(logits, labels))
        for loss, slope in zip(*results, strict=True):
            assert_accurate(loss.numpy(), problem, "float32")
            np.testing.assert_allclose(slope, gradient_in_bias(problem), rtol=1e-5, atol=1e-6)


def gradient_in_bias(problem: Problem) -> Any:
    """The reference's gradient, summed over the examples."""
    return evaluate(problem).gradient.astype(float).sum(0)


def deterministic() -> None:
    """The same bits twice, and as without determinism."""
    problem = sample(
        np.random.default_rng(0), batch=(64,), classes=9, class_weight=True, label_smoothing=0.25
    )
    given = {name: tf.constant(value) for name, value in problem.arrays.items()}

    def slopes() -> list[Any]:
        watched = [given["logits"], given["class_weight"]]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            loss = cross_entropy(**given, **problem.options)
        return [slope.numpy() for slope in tape.gradient(loss, watched)]

    before = slopes()
    tf.config.experimental.enable_op_determinism()
    first, second = slopes(), slopes()
    for one, two, three in zip(before, first, second, strict=True):
        np.testing.assert_array_equal(two, three)
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)
    assert_accurate(first[0], problem, "float32", "gradient")


if __name__ == "__main__":
    {"mirrored": mirrored, "deterministic": deterministic}[sys.argv[1]]()
