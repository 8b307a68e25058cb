"""NumPy, and the recipes that people use on it."""

from functools import partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import BOTH, OURS, PLAIN, TWO_STEPS, Case
from benchmarks.frameworks._base import Framework, Inputs, Loss, Step, two_steps
from benchmarks.frameworks._recipes import scipy_recipe, scipy_recipe_with_gradient
from unified_loss import cross_entropy_with_grad, linear_cross_entropy_with_grad


def scikit_learn(inputs: Inputs) -> Loss:
    """`log_loss`, which takes probabilities: the softmax before it is not counted."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    probabilities = softmax(inputs.logits, inputs.axis)
    classes = np.arange(probabilities.shape[inputs.axis])
    return lambda _, labels: log_loss(labels, probabilities, labels=classes)


def hand_written(inputs: Inputs) -> Loss:  # noqa: ARG001 (for two axes and class ids alone)
    """What one writes in place of a library: no check, no option."""

    def loss(logits: Any, labels: Any) -> Any:
        shifted = logits - logits.max(1, keepdims=True)
        lse = np.log(np.exp(shifted).sum(1))
        return (lse - shifted[np.arange(len(labels)), labels]).mean()

    return loss


def eagerpy_recipe(inputs: Inputs) -> Loss:  # noqa: ARG001 (knows the last axis alone)
    """The cross-entropy of EagerPy."""
    import eagerpy

    def loss(logits: Any, labels: Any) -> Any:
        return eagerpy.crossentropy(*eagerpy.astensors(logits, labels)).mean().raw

    return loss


def two_steps_with_gradients(inputs: Inputs) -> Loss:
    """The logits, the recipe's gradient in them, and what it says of both factors."""
    recipe = scipy_recipe_with_gradient(inputs)

    def loss(hidden: Any, weight: Any, labels: Any) -> Any:
        value, slope = recipe(hidden @ weight.T, labels)
        return value, slope @ weight, slope.T @ hidden

    return loss


class NumPy(Framework):
    """NumPy."""

    packages = ("scipy", "scikit-learn", "eagerpy")
    peers: ClassVar = {
        "scipy": scipy_recipe,
        "scikit-learn": scikit_learn,
        "hand-written": hand_written,
        "eagerpy": eagerpy_recipe,
        TWO_STEPS: lambda inputs: two_steps(scipy_recipe(inputs)),
    }

    def step(self, case: Case, name: str, inputs: Inputs) -> Step:
        """The gradient is that of the second public function."""
        if case.direction == BOTH and case.features and name in {OURS, PLAIN}:
            return partial(linear_cross_entropy_with_grad, *inputs.arrays)
        if case.direction == BOTH and name == TWO_STEPS:
            return partial(two_steps_with_gradients(inputs), *inputs.arrays)
        if case.direction == BOTH and name in {OURS, PLAIN}:
            call = partial(cross_entropy_with_grad, axis=inputs.axis, **inputs.options)
            return partial(call, inputs.logits, inputs.labels)
        if case.direction == BOTH and name == "scipy":
            return partial(scipy_recipe_with_gradient(inputs), inputs.logits, inputs.labels)
        return super().step(case, name, inputs)

    def laid_out(self, logits: Any, case: Case) -> Any:
        """By strides."""
        if case.layout == "sliced":
            return np.repeat(logits, 2, 0)[::2]
        there = case.transposed_to
        return np.moveaxis(
            np.ascontiguousarray(np.moveaxis(logits, case.axis, there)), there, case.axis
        )


FRAMEWORK = NumPy
