"""JAX."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from benchmarks.cases import TWO_STEPS
from benchmarks.frameworks._base import Framework, Inputs, Loss, Step, two_steps


def native(inputs: Inputs) -> Loss:
    """The losses of optax; half precision is cast first, to be as precise as ours."""
    axis = inputs.axis
    function = (
        optax.softmax_cross_entropy
        if inputs.is_dense
        else optax.softmax_cross_entropy_with_integer_labels
    )

    def loss(logits: Any, labels: Any) -> Any:
        return function(logits.astype(jnp.float32), labels, axis=axis).mean()

    return loss if inputs.is_plain else _with_options(inputs)


def _with_options(inputs: Inputs) -> Loss:
    """Optax has no options: losses are weighted, label rows smoothed, and the mean is by hand."""
    axis, ndim = inputs.axis, inputs.logits.ndim
    num_classes = inputs.logits.shape[axis]
    weight = inputs.options.get("class_weight", jnp.ones(num_classes))
    smoothing = inputs.options.get("label_smoothing", 0)
    along = weight.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])

    def dense(logits: Any, rows: Any) -> Any:
        # Optax has a function for this, along the last axis alone.
        smoothed = rows * (1 - smoothing) + smoothing / num_classes
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), smoothed * along, axis=axis)

    def index(logits: Any, labels: Any) -> Any:
        is_kept, ids = labels >= 0, jnp.maximum(labels, 0)
        mass = is_kept * weight[ids]
        if smoothing:
            each = is_kept * dense(logits, jax.nn.one_hot(labels, num_classes, axis=axis))
        else:
            logits = logits.astype(jnp.float32)
            each = mass * optax.softmax_cross_entropy_with_integer_labels(logits, ids, axis=axis)
        return each.sum() / mass.sum()

    return (lambda logits, rows: dense(logits, rows).mean()) if inputs.is_dense else index


class Jax(Framework):
    """JAX."""

    packages = ("jax", "jaxlib", "optax")
    compiled_modes = ("eager", "compiled")  # eager operations are compiled one by one
    peers: ClassVar = {
        "optax": native,
        TWO_STEPS: lambda inputs: two_steps(native(inputs)),
    }

    def traced(self, loss: Loss, inputs: Inputs, mode: str) -> Step:  # noqa: ARG002
        """To the program that XLA gets."""

        def trace() -> Any:
            jax.clear_caches()
            fresh = jax.jit(jax.value_and_grad(partial(loss)))
            fresh.lower(inputs.logits, inputs.labels)
            return 0.0  # there is no loss before the program runs

        return trace

    def wait(self, result: Any) -> None:
        """Calls return before they are done, on a CPU too."""
        jax.block_until_ready(result)

    def forget(self) -> None:
        """Every shape leaves its programs."""
        jax.clear_caches()

    def peak(self, step: Step) -> int:
        """On a GPU, by the allocator's own counter, which starts with the process."""
        waiting = partial(self._finished, step)
        if self.device != "cuda":
            return super().peak(waiting)
        (device,) = jax.devices()[:1]
        before = device.memory_stats()["bytes_in_use"]
        result = waiting()
        peak = device.memory_stats()["peak_bytes_in_use"]
        del result
        return int(peak - before)

    def _finished(self, step: Step) -> Any:
        return jax.block_until_ready(step())

    def device_name(self) -> str:
        """The GPU if there is one in use."""
        if self.device != "cuda":
            return super().device_name()
        return str(jax.devices()[0].device_kind)


FRAMEWORK = Jax
