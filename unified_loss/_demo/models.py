"""A softmax regression, written as the users of each library would write it.

A model maps images to their logits, and to a function that carries the gradient of these logits
back to the parameters and takes a step.
"""

from collections.abc import Callable
from typing import Protocol

from unified_loss._libraries import HostArray, Library
from unified_loss._types import Array

RATE = 0.5  # step size of gradient descent

Descend = Callable[[Array], None]


class Model(Protocol):
    """What the training loop needs."""

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        """The logits of a batch, and the step that follows from their gradient."""


class ArrayApiRegression:
    """NumPy and the libraries that share its names: the gradient by hand."""

    def __init__(self, library: Library, weights: HostArray) -> None:
        self.xp = library.xp
        self.weights = library.asarray(weights, "float32")
        self.bias = library.asarray(weights[0] * 0, "float32")

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        def descend(gradient: Array) -> None:
            self.weights = self.weights - RATE * (images.T @ gradient)
            self.bias = self.bias - RATE * self.xp.sum(gradient, axis=0)

        return images @ self.weights + self.bias, descend


class DaskRegression(ArrayApiRegression):
    """As above; a step ends the graph, which would else hold all steps before it."""

    def __init__(self, library: Library, weights: HostArray) -> None:
        super().__init__(library, weights)
        self.computed = library.computed

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        logits, descend = super().__call__(images)

        def descend_and_persist(gradient: Array) -> None:
            descend(gradient)
            self.weights, self.bias = self.computed(self.weights, self.bias)

        return logits, descend_and_persist


class TorchRegression:
    """A layer, and an optimizer."""

    def __init__(self, library: Library, weights: HostArray) -> None:
        import torch

        self.layer = torch.nn.Linear(*weights.shape)
        self.layer.weight = torch.nn.Parameter(library.asarray(weights.T, "float32"))
        self.layer.bias = torch.nn.Parameter(library.asarray(weights[0] * 0, "float32"))
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=RATE)

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        logits = self.layer(images)

        def descend(gradient: Array) -> None:
            self.optimizer.zero_grad()
            logits.backward(gradient)
            self.optimizer.step()

        return logits, descend


class JaxRegression:
    """A pure function of its parameters, and its pullback."""

    def __init__(self, library: Library, weights: HostArray) -> None:
        self.parameters = (
            library.asarray(weights, "float32"),
            library.asarray(weights[0] * 0, "float32"),
        )

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        import jax

        def logits_of(parameters: tuple[Array, Array]) -> Array:
            weights, bias = parameters
            return jax.numpy.matmul(images, weights, precision="highest") + bias

        logits, pullback = jax.vjp(logits_of, self.parameters)

        def descend(gradient: Array) -> None:
            (gradients,) = pullback(gradient)
            self.parameters = jax.tree.map(lambda p, g: p - RATE * g, self.parameters, gradients)

        return logits, descend


class TensorFlowRegression:
    """Variables, and a gradient tape."""

    def __init__(self, library: Library, weights: HostArray) -> None:
        self.tf = library.xp
        self.tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003
        self.weights = self.tf.Variable(weights)
        self.bias = self.tf.Variable(weights[0] * 0)

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        with self.tf.GradientTape() as tape:
            logits = images @ self.weights + self.bias

        def descend(gradient: Array) -> None:
            variables = [self.weights, self.bias]
            gradients = tape.gradient(logits, variables, output_gradients=gradient)
            for variable, slope in zip(variables, gradients, strict=True):
                variable.assign_sub(RATE * slope)

        return logits, descend


class MlxRegression(ArrayApiRegression):
    """As NumPy's, with the gradient by `mx.vjp`."""

    def __call__(self, images: Array) -> tuple[Array, Descend]:
        def logits_of(weights: Array, bias: Array) -> Array:
            return images @ weights + bias

        def descend(gradient: Array) -> None:
            _, slopes = self.xp.vjp(logits_of, [self.weights, self.bias], [gradient])
            self.weights = self.weights - RATE * slopes[0]
            self.bias = self.bias - RATE * slopes[1]

        return logits_of(self.weights, self.bias), descend


MODELS: dict[str, Callable[[Library, HostArray], Model]] = {
    "mlx": MlxRegression,
    "dask": DaskRegression,
    "torch": TorchRegression,
    "jax": JaxRegression,
    "tensorflow": TensorFlowRegression,
}


def model_of(library: Library, weights: HostArray) -> Model:
    """The model in the given library, with these weights and a bias of zero."""
    return MODELS.get(library.name, ArrayApiRegression)(library, weights)
