"""PyTorch by a pair of kernels, one for row statistics and one for the gradient.

The arithmetic between them is that of `_examples` and `_statistics`, on a few numbers a row.
Nothing waits for the device.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch._C import _functorch

from unified_loss._backends._torch_blocks import differentiable_gradient
from unified_loss._backends._torch_ops import OPS, is_watched
from unified_loss._examples import Examples, examples_and_divisor, examples_of_sums, with_divisor
from unified_loss._statistics import Coefficients, Statistics, combine, settled, slopes_of
from unified_loss._types import Array, Operands, Plan

RowSums = tuple[Array, Array, Array, Array]  # what `examples_of_sums` asks for


class Kept(NamedTuple):
    """What the gradient needs beside the operands."""

    m: Array | None
    l: Array
    dropped: Array | None
    slopes: Coefficients
    divisor: Any  # an array, a number or None
    ids: Array | None  # class ids, made safe to gather with
    room: Array | None  # what the first kernel left, which the second may write over


class Kernels:
    """Two kernels; `room` is an array of the logits' size for what one leaves to the other."""

    name: str  # of what they are made with

    def refusal(self, device: torch.device | None) -> str | None:
        """Why a device, or the processor, has not what they need; asked once."""
        return _failure(self, device)

    def readable(self, plan: Plan, operands: Operands) -> Operands:
        """The operands, with labels that the kernels can read."""
        return operands

    def room(self, plan: Plan, operands: Operands) -> Array | None:
        """An array to be filled, if the gradient is to have one."""
        return None

    def index_statistics(
        self, plan: Plan, operands: Operands, examples: Examples, room: Array | None
    ) -> Statistics:
        """The statistics of class ids, 0 in rows that are dropped."""
        raise NotImplementedError

    def dense_statistics(
        self, plan: Plan, operands: Operands, room: Array | None
    ) -> tuple[Statistics, RowSums]:
        """The statistics of dense labels, and the sums of their rows."""
        raise NotImplementedError

    def gradient(self, plan: Plan, operands: Operands, kept: Kept, factor: Array | None) -> Array:
        """The gradient, in the dtype of the logits; `factor` is what autodiff multiplies it by."""
        raise NotImplementedError


def loss(kernels: Kernels, plan: Plan, operands: Operands) -> Array:
    """The loss, differentiable in the logits alone."""
    operands = kernels.readable(plan, operands)
    if torch.is_grad_enabled() and operands.logits.requires_grad:
        return _Loss.apply(kernels, plan, *operands)
    return _loss(kernels, plan, operands, None)[0]


def loss_and_gradient(kernels: Kernels, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss and the gradient of its sum, as constants."""
    operands = kernels.readable(plan, operands)
    with torch.no_grad():
        found, kept = _loss(kernels, plan, operands, kernels.room(plan, operands))
        return found, kernels.gradient(plan, operands, kept, None)


def examined(
    kernels: Kernels, plan: Plan, operands: Operands, room: Array | None
) -> tuple[Examples, Array | None, Statistics]:
    """The examples, what "mean" divides by, and the statistics."""
    if plan.label_kind == "index":
        examples, divisor = examples_and_divisor(OPS, plan, operands)
        found = kernels.index_statistics(plan, operands, examples, room)
    else:
        found, sums = kernels.dense_statistics(plan, operands, room)
        examples = examples_of_sums(OPS, plan, operands, *sums)
        examples, divisor = with_divisor(OPS, plan, operands, examples)
    return examples, divisor, settled(OPS, plan, examples, found)


def _loss(
    kernels: Kernels, plan: Plan, operands: Operands, room: Array | None
) -> tuple[Array, Kept]:
    examples, divisor, found = examined(kernels, plan, operands, room)
    loss = combine(OPS, plan, examples, found, divisor)
    slopes = slopes_of(OPS, plan, examples, found)
    ids = None if room is None else examples.ids
    return loss, Kept(found.m, found.l, examples.dropped, slopes, divisor, ids, room)


class _Loss(torch.autograd.Function):
    """The loss by one kernel, and its gradient by the other when it is asked for."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, plan: Plan, *operands: Array) -> Array:
        room = kernels.room(plan, Operands(*operands))
        loss, (m, l, dropped, slopes, divisor, ids, _) = _loss(
            kernels, plan, Operands(*operands), room
        )
        parts = (m, l, dropped, *slopes, divisor, ids, room)
        ctx.numbers = [None if isinstance(part, torch.Tensor) else part for part in parts]
        ctx.save_for_backward(
            *operands, *(part if isinstance(part, torch.Tensor) else None for part in parts)
        )
        ctx.kernels, ctx.plan, ctx.has_room = kernels, plan, True
        return loss

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        number, saved = len(Operands._fields), ctx.saved_tensors  # which a checkpoint computes
        operands = Operands(*saved[:number])
        if torch.is_grad_enabled() or is_watched() or _functorch.is_legacy_batchedtensor(*slopes):
            slope = differentiable_gradient(ctx.plan, operands, *slopes)
        else:
            pairs = zip(saved[number:], ctx.numbers, strict=True)
            m, l, dropped, *rates, divisor, ids, room = (b if a is None else a for a, b in pairs)
            # A second backward finds what the first one wrote there. Autograd, which would refuse
            # it, does not follow `data`.
            room = room.data if room is not None and ctx.has_room else None
            ctx.has_room = False
            kept = Kept(m, l, dropped, Coefficients(*rates), divisor, ids, room)
            slope = ctx.kernels.gradient(ctx.plan, operands, kept, *slopes)
        return None, None, slope, None, None, None, None


@cache
def _failure(kernels: Kernels, device: torch.device | None) -> str | None:
    """What a row of two logits meets: no C compiler, an old device, an unknown operation."""
    x = torch.zeros((1, 2), device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    plan = Plan(
        axis=1, ndim=2, num_classes=2, label_kind="index", labels_keep_axis=False,
        labels_dtype="int64", ignore_index=-100, below=True, above=True, class_weight=False,
        sample_weight="none", label_smoothing=0.0, z_loss=0.0, reduction="mean",
        normalizer=False, check=False, compute_dtype="float32", logits_dtype="float32",
    )  # fmt: skip
    try:
        loss_and_gradient(kernels, plan, Operands(x, labels, None, None, None))
    except Exception as error:  # noqa: BLE001 (see above)
        return f"{kernels.name} fails: {type(error).__name__}: {error}".partition("\n")[0]
    return None
