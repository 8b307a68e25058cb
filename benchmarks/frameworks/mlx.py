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

    name = "mlx"
    packages = ("mlx",)
    compiled_modes = ("compiled",)
    peers: ClassVar = {"mlx": native}

    def array(self, values: Any, dtype: str) -> Any:
        """An array in the unified memory."""
        return mx.array(values, dtype=getattr(mx, dtype))

    def differentiated(self, loss: Loss) -> Loss:
        """By `mx.value_and_grad`."""
        gradient: Loss = mx.value_and_grad(loss)
        return gradient

    def compiled(self, function: Loss, mode: str) -> Loss:  # noqa: ARG002
        """By `mx.compile`."""
        fused: Loss = mx.compile(function)
        return fused

    def wait(self, result: Any) -> None:
        """Compute what was asked for."""
        mx.eval(result)
