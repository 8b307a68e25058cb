"""PyTorch's own loss, where it does what a call asks for and proves that nothing needed care."""

import math

import torch

from unified_loss._backend import WrongIds
from unified_loss._backends._torch_blocks import OPS, is_long
from unified_loss._blocks import LONG
from unified_loss._ops import INFINITY
from unified_loss._shapes import without
from unified_loss._types import Array, Operands, Plan

_native = torch._C._nn.cross_entropy_loss  # noqa: SLF001 (F.cross_entropy, 1 us sooner)
_CODES = {"none": 0, "mean": 1, "sum": 2}
_FEW = 2**17  # logits, of which a look at all is quicker than one at their labels


def has_native_loss(plan: Plan) -> bool:
    """Whether torch's own loss, the fastest kernel without a walk, can say what the plan says."""
    if plan.z_loss or (plan.normalizer and (plan.class_weight or plan.sample_weight != "none")):
        return False  # which it has not; whether weights add up to nothing is told by their sum
    if plan.axis and plan.axis + 1 != plan.ndim and plan.num_classes > LONG:
        return False  # it adds exponentials one by one
    return not (plan.below or plan.above)  # an error of torch's, or undefined


def native_loss(plan: Plan, operands: Operands) -> Array | None:
    """Torch's own loss, or `WrongIds`; None unless it proves that nothing needed care.

    What does is never a finite sum of losses above 0: NaN, infinities, and where nothing counts.
    """
    logits, labels, weight = operands[:3]
    shape = logits.shape
    is_native = plan.axis == 1 and not plan.labels_keep_axis
    if not is_native or (plan.ndim != 2 and 1 in {shape[0], math.prod(shape[2:])}):
        logits, labels = _with_classes_second(plan, logits, labels)
    if plan.compute_dtype != plan.logits_dtype:
        logits = OPS.cast(logits, plan.compute_dtype)
    if weight is not None:
        weight = OPS.cast(weight, plan.compute_dtype)
    loss_of = _loss_of_rows if plan.label_kind == "dense" else _loss_of_ids
    value = loss_of(plan, operands, logits, labels, weight)
    if value is None:
        return None
    total = torch.sum(value.detach()) if plan.reduction == "none" else value
    return value if 0 < total.item() < INFINITY else None


def _loss_of_ids(
    plan: Plan, operands: Operands, logits: Array, labels: Array, weight: Array | None
) -> Array | None:
    """The loss of class ids, the range of which torch sees to."""
    ignored = plan.ignore_index
    is_reduced = plan.sample_weight == "none" and plan.reduction != "none"
    reduction = plan.reduction if is_reduced else "none"
    if is_reduced and plan.normalizer:
        reduction = "sum"
    labels = labels if labels.dtype == torch.int64 else labels.to(torch.int64)
    ids = -1 if ignored is None else ignored
    try:
        value = _native(logits, labels, weight, _CODES[reduction], ids, plan.label_smoothing)
    except IndexError:
        raise WrongIds from None
    if ignored is not None and logits.requires_grad and _leaves_nan(logits, labels, ignored):
        return None
    if not is_reduced:
        return _reduced(plan, operands, value, _mass_of_ids(plan, labels, weight, value))
    return _normalized(plan, operands, value) if plan.normalizer else value


def _leaves_nan(logits: Array, labels: Array, ignored: int) -> bool:
    """Whether torch's gradient of an ignored row is NaN, as its logits are; the loss hides it."""
    if not torch.is_grad_enabled():
        return False
    x = logits.detach()
    if x.numel() > _FEW and not (labels == ignored).any():
        return False
    if OPS.is_finite(x):  # one sum, where rows would be picked out first
        return False
    return not OPS.is_finite(x.movedim(1, -1)[labels == ignored])


def _mass_of_ids(plan: Plan, labels: Array, weight: Array | None, like: Array) -> Array | None:
    """The mass of each example but for its weight; None where it is 1, or not asked for."""
    ignored = plan.ignore_index
    if plan.reduction != "mean" or (weight is None and ignored is None):
        return None
    is_ignored = None if ignored is None else labels == ignored
    if weight is None:
        mass = torch.ones_like(like)
    else:
        mass = weight[labels if is_ignored is None else labels.masked_fill(is_ignored, 0)]
    return mass if is_ignored is None else mass.masked_fill(is_ignored, 0.0)


def _loss_of_rows(
    plan: Plan, operands: Operands, logits: Array, labels: Array, weight: Array | None
) -> Array | None:
    """The loss of dense labels, smoothed and weighted before, since torch means something else.

    A row of which nothing counts is left out, and costs nothing. So may one that does count, if
    it is certain.
    """
    labels = k = OPS.cast(labels, plan.compute_dtype)
    if plan.label_smoothing:
        k = torch.lerp(labels, torch.mean(labels, 1, keepdim=True), plan.label_smoothing)
    if weight is not None:
        weight = OPS.along(weight, logits, 1)
        k = weight * k
    losses = _native(logits, k, None, _CODES["none"])
    if not OPS.all(losses):
        return None
    mass = None
    if plan.reduction == "mean" and weight is not None:
        mass = torch.sum(weight * labels, 1)
    return _reduced(plan, operands, losses, mass)


def _reduced(plan: Plan, operands: Operands, losses: Array, mass: Array | None) -> Array:
    """The losses, one an example, weighted and reduced; no `mass` is one of 1 each."""
    if plan.sample_weight != "none" or plan.reduction == "none":
        batch = without(operands.logits.shape, plan.axis)
        losses = losses.reshape(batch)
        mass = mass if mass is None else mass.reshape(batch)
    if plan.sample_weight != "none":
        s = OPS.cast(operands.sample_weight, plan.compute_dtype)
        s = s.reshape(s.shape + (1,) * (losses.ndim - s.ndim))
        losses = s * losses
        mass = s.expand(batch) if mass is None else s * mass
    if plan.reduction == "none":
        return losses + 0.0  # never -0
    if plan.reduction == "mean" and mass is None and not plan.normalizer:
        return torch.mean(losses)
    total = torch.sum(losses)
    if plan.reduction == "sum":
        return total
    return _normalized(plan, operands, total) if plan.normalizer else total / torch.sum(mass)


def _normalized(plan: Plan, operands: Operands, total: Array) -> Array:
    """A sum of losses over the normalizer."""
    return total / OPS.cast(operands.normalizer, plan.compute_dtype)


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
