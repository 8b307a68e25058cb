"""PyTorch's own loss, where it does what a call asks for and proves that nothing needed care."""

import math

import torch

from unified_loss._backends._torch_blocks import OPS, is_long
from unified_loss._blocks import LONG
from unified_loss._ops import INFINITY
from unified_loss._types import Array, Operands, Plan

_native = torch.nn.functional.cross_entropy


def has_native_loss(plan: Plan) -> bool:
    """Whether torch's own loss, the fastest kernel of few logits, says what the plan says."""
    if plan.sample_weight != "none" or plan.z_loss or plan.normalizer or plan.reduction == "none":
        return False  # which it has not; whether one loss an example needs care, no total tells
    if plan.axis and plan.axis + 1 != plan.ndim and plan.num_classes > LONG:
        return False  # it adds exponentials one by one
    if plan.label_kind == "dense":
        return not (plan.class_weight or plan.label_smoothing)  # which mean something else there
    return not (plan.below or plan.above)  # an error of torch's, or undefined


def native_loss(plan: Plan, operands: Operands) -> Array | None:
    """Torch's own loss; None unless it proves that nothing needed care."""
    logits, labels, weight, ignored = *operands[:3], plan.ignore_index
    if plan.axis != 1 or plan.ndim != 2 or plan.labels_keep_axis:
        logits, labels = _with_classes_second(plan, logits, labels)
    if plan.compute_dtype != plan.logits_dtype:
        logits = OPS.cast(logits, plan.compute_dtype)
    if plan.label_kind == "dense":
        return _native_loss_of_rows(plan, logits, OPS.cast(labels, plan.compute_dtype))
    if labels.dtype != torch.int64:
        labels = labels.to(torch.int64)
    if weight is not None:
        weight = OPS.cast(weight, plan.compute_dtype)
    if ignored is not None and torch.is_grad_enabled() and logits.requires_grad:
        # Torch's gradient of a row that is ignored is NaN if its logits are; the loss hides it.
        x = logits.detach()
        if not (OPS.is_finite(x) or OPS.is_finite(x.movedim(1, -1)[labels == ignored])):
            return None
    value = _native(
        logits,
        labels,
        weight,
        ignore_index=-1 if ignored is None else ignored,
        reduction=plan.reduction,
        label_smoothing=plan.label_smoothing,
    )
    return value if 0 < value.item() < INFINITY else None


def _native_loss_of_rows(plan: Plan, logits: Array, labels: Array) -> Array | None:
    """What torch's own loss does with dense labels, a row at a time.

    A row without labels does not count, and costs nothing. So may one that does, if it is certain.
    """
    terms = torch.sum(labels * torch.log_softmax(logits, 1), 1)
    if not OPS.all(terms):
        return None
    value = -torch.sum(terms)
    if plan.reduction == "mean":
        value = value / terms.numel()
    return value if 0 < value.item() < INFINITY else None


def _with_classes_second(plan: Plan, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Views of logits and labels, or copies, as torch's own loss wants them: best as rows."""
    shape, axis = logits.shape, plan.axis
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows: tuple[int, ...] = (before, after)
    if after == 1:
        rows = (before,)
    elif before == 1 and is_long(shape, axis):
        rows = (after,)
        logits = logits.movedim(axis, -1)
        labels = labels.movedim(axis, -1) if labels.ndim == logits.ndim else labels
    logits = logits.reshape((rows[0], plan.num_classes, *rows[1:]))
    return logits, labels.reshape(logits.shape if plan.label_kind == "dense" else rows)
