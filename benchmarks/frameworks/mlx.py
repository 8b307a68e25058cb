"""MLX."""

from typing import Any, ClassVar

import mlx.core as mx
from mlx.nn.losses import cross_entropy as mlx_loss

from benchmarks.frameworks._base import Framework, Inputs, Loss


def native(inputs: Inputs) -> Loss:
    """The loss of `mlx.nn`."""
    axis = inputs.axis
    return lambda logits, labels: mlx_loss(logits, labels, axis=axis, reduction="mean")


class Mlx(Framework):
    """MLX, whose arrays are computed when they are asked for."""

    packages = ("mlx",)
    compiled_modes = ("compiled",)
    peers: ClassVar = {"mlx": native}

    def wait(self, result: Any) -> None:
        """Compute what was asked for."""
        mx.eval(result)


FRAMEWORK = Mlx
