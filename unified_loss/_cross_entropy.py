"""The public functions: signatures, docstrings, and the way of a call."""

from typing import Any

from unified_loss._arguments import prepare
from unified_loss._types import Array


def cross_entropy(
    logits: Array,
    labels: Any,
    *,
    axis: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    check: Any = "auto",
) -> Array:
    options = (axis, ignore_index, label_smoothing, z_loss, reduction, check)
    call = prepare(logits, labels, class_weight, sample_weight, normalizer, options)
    return call.backend.loss(call.plan, call.operands)


def cross_entropy_with_grad(
    logits: Array,
    labels: Any,
    *,
    axis: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    check: Any = "auto",
) -> tuple[Array, Array]:
    options = (axis, ignore_index, label_smoothing, z_loss, reduction, check)
    call = prepare(logits, labels, class_weight, sample_weight, normalizer, options)
    return call.backend.loss_and_gradient(call.plan, call.operands)


def kernel_of(
    logits: Array,
    labels: Any,
    *,
    axis: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    check: Any = "auto",
) -> str:
    """The name of the kernel that serves a call of `cross_entropy`."""
    options = (axis, ignore_index, label_smoothing, z_loss, reduction, check)
    call = prepare(logits, labels, class_weight, sample_weight, normalizer, options)
    return call.backend.kernel(call.plan, call.operands)
