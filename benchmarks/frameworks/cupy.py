"""CuPy."""

from typing import Any, ClassVar

import cupy as cp
from cupyx.scipy.special import log_softmax

from benchmarks.frameworks._base import Inputs, Loss, Step
from benchmarks.frameworks.numpy import NumPy


def native(inputs: Inputs) -> Loss:
    """The log-softmax of cupyx, and the labels' entries of it."""
    axis = inputs.axis

    def loss(logits: Any, labels: Any) -> Any:
        ids = cp.expand_dims(labels, axis)
        return -cp.take_along_axis(log_softmax(logits, axis), ids, axis).mean()

    return loss


class Cupy(NumPy):
    """CuPy."""

    packages = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
    peers: ClassVar = {"cupyx": native}

    def wait(self, result: Any) -> None:  # noqa: ARG002
        """The GPU works on while Python goes on."""
        cp.cuda.Device().synchronize()

    def peak(self, step: Step) -> int:
        """By CuPy's pool, which keeps all that it ever had at a time."""
        pool = cp.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.used_bytes()
        result = step()
        self.wait(result)
        peak = pool.total_bytes()
        del result
        return int(peak - before)

    def device_name(self) -> str:
        """The GPU."""
        return str(cp.cuda.runtime.getDeviceProperties(0)["name"].decode())


FRAMEWORK = Cupy
