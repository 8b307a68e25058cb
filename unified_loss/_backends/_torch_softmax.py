"""PyTorch on an accelerator without Triton (Apple's, Windows): torch's own fused log-softmax.

The loss leaves log-probabilities where its gradient will be: their exponential times a number a
row is one operation in place. Only the least that torch's own loss moves as well is moved, and
nothing waits for the device. Without a gradient, and in all that takes more arrays, rows go in
blocks, which a device's cache can hold.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from unified_loss._backends._torch_blocks import is_long
from unified_loss._backends._torch_ops import DTYPES, OPS
from unified_loss._backends._torch_pair import Kept, Kernels, RowSums
from unified_loss._blocks import Walk
from unified_loss._examples import Examples, has_smoothed_labels, weights_of
from unified_loss._ops import INFINITY
from unified_loss._shapes import kept as kept_shape
from unified_loss._statistics import Statistics, scaled
from unified_loss._threads import as_it_is
from unified_loss._types import Array, Operands, Plan, Shape

# In logits: a few operations on so many take longer than it takes to launch them.
BLOCK = 2**23
WALK = Walk(BLOCK, transposed=False, threads=1, around=as_it_is)

Cut = tuple[slice, ...]
Rows = tuple[Array | None, ...]  # numbers of rows, with the class axis kept


class SoftmaxKernels(Kernels):
    """See above."""

    name = "log_softmax"

    def room(self, plan: Plan, operands: Operands) -> Array | None:
        return torch.empty_like(operands.logits, dtype=DTYPES[plan.compute_dtype])

    def index_statistics(
        self, plan: Plan, operands: Operands, examples: Examples, room: Array | None
    ) -> Statistics:
        x, axis, w = operands.logits, plan.axis, examples.class_weight
        ids: Array = examples.ids

        def of_block(cut: Cut) -> Rows:
            f = _log_softmax(plan, x[cut], None if room is None else room[cut])
            m = _log_sum_exp(x[cut], f, axis) if plan.z_loss else None
            q = _weighted_sum(f, w, axis) if plan.label_smoothing else None
            return torch.gather(f, axis, ids[cut]), q, m

        found = _of_blocks(of_block, x.shape, axis)
        if examples.dropped is not None:
            found = [None if each is None else each.masked_fill(examples.dropped, 0.0)
                     for each in found]  # fmt: skip
        p, q, m = found
        return Statistics(m, _lost(p), None if plan.label_smoothing == 1 else p, q)

    def dense_statistics(
        self, plan: Plan, operands: Operands, room: Array | None
    ) -> tuple[Statistics, RowSums]:
        x, axis = operands.logits, plan.axis
        _, w, _ = weights_of(OPS, plan, operands)

        def of_block(cut: Cut) -> Rows:
            t = OPS.cast(operands.labels[cut], plan.compute_dtype)
            f = _log_softmax(plan, x[cut], None if room is None else room[cut])
            p = q = None
            if plan.label_smoothing != 1:
                p = _weighted_sum(f, _label_weights(plan, t, w), axis)
            elif plan.label_smoothing:
                q = _weighted_sum(f, w, axis)
            m = _log_sum_exp(x[cut], f, axis) if plan.z_loss else None
            return (m, _lost(f.narrow(axis, 0, 1)), p, q, *_sums_of_labels(plan, t, w))

        m, l, p, q, total, mass, low, high = _of_blocks(of_block, x.shape, axis)
        return Statistics(m, l, p, q), (total, mass, low, high)

    def gradient(self, plan: Plan, operands: Operands, kept: Kept, factor: Array | None) -> Array:
        x, axis, dtype = operands.logits, plan.axis, DTYPES[plan.compute_dtype]
        shape = kept_shape(x.shape, axis)
        if factor is not None and plan.reduction == "none":
            factor = OPS.expand(factor, axis)
        rates = scaled(kept.slopes, factor, kept.divisor)
        a, b, c = (_of_rows(part, kept.l, shape) for part in rates[:3])
        a = a + kept.l  # NaN where the logits have no softmax
        dropped = None if kept.dropped is None else kept.dropped.expand(shape)
        _, w, _ = weights_of(OPS, plan, operands)
        is_cast = x.dtype != dtype
        out = torch.empty_like(x) if is_cast or kept.room is None else kept.room
        for cut in cuts(x.shape, axis, BLOCK):
            f = _log_softmax(plan, x[cut], None if is_cast else out[cut], kept.room, cut)
            # Log-probabilities are never above 0; of such f this is a exp(f), in one operation.
            torch.ops.aten.elu_backward.grad_input(a[cut], 1, 1, 1, False, f, grad_input=f)  # noqa: FBT003
            if b is not None and kept.ids is not None:
                ids = kept.ids[cut]
                f.scatter_(axis, ids, torch.gather(f, axis, ids) - b[cut])
            elif b is not None:
                t = OPS.cast(operands.labels[cut], plan.compute_dtype)
                f.addcmul_(_label_weights(plan, t, w), b[cut], value=-1)
            if c is not None:
                f = f.sub_(c[cut]) if w is None else f.addcmul_(w, c[cut], value=-1)
            if is_cast:
                f = out[cut].copy_(f)
            if dropped is not None:
                f.masked_fill_(dropped[cut], 0.0)
        return out


KERNELS = SoftmaxKernels()


def cuts(shape: Shape, axis: int, size: int) -> Iterator[Cut]:
    """Slices of about `size` entries with all of their classes, in the order of the axes."""
    number = math.prod(shape)
    splits = [i for i, length in enumerate(shape) if i != axis and length > 1]
    whole = tuple(slice(None) for _ in shape)
    if number <= size or not splits:
        yield whole
        return
    i = splits[0]
    step = max(1, size * shape[i] // number)
    for first in range(0, shape[i], step):
        part = slice(first, min(first + step, shape[i]))
        inner = (*shape[:i], part.stop - first, *shape[i + 1 :])
        for cut in cuts(inner, axis, size):
            yield (*cut[:i], part, *cut[i + 1 :])


def _log_softmax(
    plan: Plan, x: Array, into: Array | None, room: Array | None = None, cut: Cut = ()
) -> Array:
    """The log-probabilities of a block: those that `room` has, or computed, and put `into`."""
    if room is not None:
        return room[cut]
    axis, dtype = plan.axis, DTYPES[plan.compute_dtype]
    # Classes that are neighbors in memory, and many, are best read as rows.
    is_moved = axis + 1 < x.ndim and (x.stride(axis) == 1 or is_long(x.shape, axis))
    if is_moved:
        x, into = x.movedim(axis, -1), None if into is None else into.movedim(axis, -1)
    along = -1 if is_moved else axis
    if into is not None and into.is_contiguous():
        f = torch.log_softmax(x, along, dtype=dtype, out=into)
    else:
        f = torch.log_softmax(x, along, dtype=dtype)
        f = f if into is None else into.copy_(f)
    return f.movedim(-1, axis) if is_moved else f


def _of_blocks(of_block: Callable[[Cut], Rows], shape: Shape, axis: int) -> list[Array | None]:
    """The numbers of all rows, from those of each block."""
    places = list(cuts(shape, axis, BLOCK))
    first, *others = (of_block(place) for place in places)
    if not others:
        return list(first)
    found = [part if part is None else part.new_empty(kept_shape(shape, axis)) for part in first]
    for place, parts in zip(places, (first, *others), strict=True):
        for array, part in zip(found, parts, strict=True):
            if array is not None:
                array[place] = part
    return found


def _of_rows(part: Any, like: Array, shape: Shape) -> Any:
    """A number of all rows, or one of each, as one of each."""
    if part is None:
        return None
    part = part if isinstance(part, torch.Tensor) else like.new_full((), part)
    return part.expand(shape)


def _lost(f: Array) -> Array:
    """NaN in rows whose logits have no softmax, by any of their entries; else 0."""
    return f.masked_fill(f == f, 0.0)  # noqa: PLR0124 (isnan() is more than one operation)


def _weighted_sum(f: Array, weight: Array | None, axis: int) -> Array:
    """The sum of `weight` times log-probabilities; a weight of 0 wins over a masked class.

    Rows that are NaN are told by `_lost`.
    """
    if weight is None:
        return torch.sum(f, axis, keepdim=True)
    return torch.nansum(weight * f, axis, keepdim=True)


def _log_sum_exp(x: Array, f: Array, axis: int) -> Array:
    """What log-softmax takes from `x`: exactly so at the largest entry."""
    return torch.amax(x, axis, keepdim=True) - torch.amax(f, axis, keepdim=True)


def _label_weights(plan: Plan, t: Array, w: Array | None) -> Array:
    """K of dense labels, smoothed if need be: see `examples_of`."""
    if has_smoothed_labels(plan):
        share = plan.label_smoothing / (1 - plan.label_smoothing) / plan.num_classes
        t = t + share * torch.sum(t, plan.axis, keepdim=True)
    return t if w is None else w * t


def _sums_of_labels(plan: Plan, t: Array, w: Array | None) -> RowSums:
    """What `examples_of_sums` asks for."""
    axis = plan.axis
    total = torch.sum(t, axis, keepdim=True)
    if w is None:
        return total, total, total, torch.amax(t, axis, keepdim=True)
    k = w * t
    mass = torch.sum(k, axis, keepdim=True)
    if not plan.label_smoothing:
        return total, mass, total, torch.amax(k, axis, keepdim=True)
    low, high = (t.masked_fill(w == 0, end) for end in (INFINITY, -INFINITY))
    return (
        total, mass, torch.amin(low, axis, keepdim=True), torch.amax(high, axis, keepdim=True)
    )  # fmt: skip
