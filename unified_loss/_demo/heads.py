"""The last layer of a language model, with its loss in two ways: with logits and without."""

from typing import Literal, NamedTuple

import numpy as np

from unified_loss._cross_entropy import cross_entropy_with_grad
from unified_loss._libraries import Library
from unified_loss._linear_cross_entropy import linear_cross_entropy_with_grad
from unified_loss._types import Array, LinearGradients

RATE = 8.0  # step size of the last layer
FEATURES = 64  # of the hidden states

Way = Literal["with logits", "without"]
WAYS: tuple[Way, ...] = ("with logits", "without")


class Head(NamedTuple):
    """Weight and bias, in a library."""

    library: Library
    weight: Array
    bias: Array

    def loss_and_gradients(
        self, hidden: Array, labels: Array, way: Way
    ) -> tuple[Array, LinearGradients]:
        """The loss of hidden states, and the gradients of all that the logits are made of."""
        if way == "without":
            return linear_cross_entropy_with_grad(hidden, self.weight, labels, bias=self.bias)
        logits = hidden @ self.library.transposed(self.weight) + self.bias
        loss, gradient = cross_entropy_with_grad(logits, labels)
        by_class = self.library.transposed(gradient) @ hidden
        return loss, LinearGradients(
            gradient @ self.weight, by_class, self.library.sum(gradient, 0)
        )

    def after(self, gradients: LinearGradients) -> "Head":
        """The layer after a step of gradient descent."""
        weight = self.weight - RATE * gradients.weight
        bias = self.bias - RATE * gradients.bias
        return Head(self.library, *self.library.computed(weight, bias))


def head_of(library: Library, classes: int) -> Head:
    """A layer in which all classes are nearly alike."""
    weight = np.random.default_rng(2).normal(0, 0.1 * FEATURES**-0.5, (classes, FEATURES))
    bias = library.asarray(np.zeros(classes), "float32")
    return Head(library, library.asarray(weight, "float32"), bias)
