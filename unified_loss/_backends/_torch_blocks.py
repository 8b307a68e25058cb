"""PyTorch on the processor, in blocks: its own fused softmax, one thread for each block.

An operation of torch shares itself out to threads and waits for all of them, so a walk of many
operations waits at many barriers, and each can last a slice of the scheduler where the cores have
other work. Here threads fetch blocks whenever they are free, and meet once.
"""

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._C import _functorch

from unified_loss._backends._torch_ops import DTYPES, TorchOps, is_watched
from unified_loss._backends._torch_products import Room, product
from unified_loss._blocks import (
    LONG,
    Walk,
    walk_gradient,
    walk_loss,
    walk_loss_and_gradient,
    walk_sums,
)
from unified_loss._examples import Examples, examples_and_divisor, examples_of, with_divisor
from unified_loss._statistics import (
    Statistics,
    careful_gradient,
    combine,
    is_plain,
    loss_and_gradient_of,
    loss_of,
    row_maximum,
    row_statistics,
)
from unified_loss._sums import Sums, sums_of
from unified_loss._types import Array, Operands, Plan, Shape

LONG_OF_ROWS = 128  # as LONG, where no axis is before that of the classes


class TorchBlockOps(TorchOps):
    """`BlockOps` on PyTorch: l is 0, and the factors f are log-probabilities."""

    compacts = True

    def __init__(self, long: int) -> None:
        self.long = long  # see `is_long`, of all the logits: a block may be of one image alone

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        return torch.empty(shape, dtype=DTYPES[dtype], device=like.device)

    def broadcast(self, x: Array, shape: Shape) -> Array:
        return x.expand(shape)

    def contiguous(self, x: Array) -> Array:
        return x.contiguous()

    def plain_statistics(self, plan: Plan, x: Array, examples: Examples) -> Statistics:
        axis = plan.axis
        ids, k, w = examples.ids, examples.weighted_labels, examples.class_weight
        f = _along(torch.log_softmax, x, axis, self.long)
        m = p = q = None
        if plan.label_smoothing != 1:
            p = torch.gather(f, axis, ids) if k is None else self.sum(k * f, axis)
        if plan.z_loss:
            known = None if p is None or ids is None else (ids, p)
            m = _log_denominator(x, f, known, axis)
        if plan.label_smoothing:
            q = self.sum(f if w is None else w * f, axis)
        return Statistics(m, 0.0, p, q)

    def plain_exponentials(
        self, plan: Plan, x: Array, examples: Examples
    ) -> tuple[Statistics, Array, float]:
        # Not exp(f), which is MKL's: it has threads of its own, whatever is said to torch's.
        found = self.plain_statistics(plan, x, examples)
        return found, _along(torch.softmax, x, plan.axis, self.long), 1.0

    def softmax(self, x: Array, statistics: Statistics, axis: int) -> Array:
        return _along(torch.softmax, x, axis, self.long)

    def scaled(self, x: Array, a: Array) -> Array:
        return x.mul_(a)

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        return x.scatter_(axis, ids, torch.gather(x, axis, ids) - b)

    # Of the walks of the linear form.

    def zeros(self, shape: Shape, dtype: str, like: Array) -> Array:
        return torch.zeros(shape, dtype=DTYPES[dtype], device=like.device)

    def zeros_like(self, x: Array) -> Array:
        return torch.zeros_like(x, memory_format=torch.contiguous_format)

    def as_number(self, value: float, dtype: str, like: Array) -> Array:
        return torch.tensor(value, dtype=DTYPES[dtype], device=like.device)

    def places(self, dropped: Array) -> Array | None:
        return (~dropped).nonzero()[:, 0] if dropped.any() else None

    def taken(self, x: Array, places: Array) -> Array:
        return x[places]

    def scratch(self, size: int, dtype: str, like: Array) -> Any:
        return Room(size, DTYPES[dtype], like.device)

    def affine_into(self, scratch: Any, hidden: Array, weight: Array, bias: Array | None) -> Array:
        return product(hidden, weight, bias, scratch)

    def subtracted(self, x: Array, b: Array) -> Array:
        return x.sub_(b)

    def exponential(self, x: Array) -> Array:
        return x.exp_()

    def cap(self, x: Array, softcap: float) -> Array:
        return x.div_(softcap).tanh_().mul_(softcap)

    def add_product(self, total: Array, place: Any, a: Array, b: Array) -> None:
        if isinstance(place, slice) and not a.is_contiguous():
            total[place].addmm_(a, b)  # the gradient of a weight, which is too large to make twice
        else:
            total[place] += product(a, b.t())

    def is_finite(self, x: Array) -> bool:
        return math.isfinite(x.sum().item())

    def all(self, x: Array) -> bool:
        return bool(x.all())


OPS = TorchBlockOps(LONG_OF_ROWS)


def _ops_of(plan: Plan, logits: Array) -> TorchBlockOps:
    """What to walk with."""
    return TorchBlockOps(long_of(logits.shape, plan.axis))


# Thresholds, in logits, but for KEPT. Results of less than KEPT bytes come from memory that the
# process has, since glibc keeps freed blocks up to that size: torch's own kernels on whole arrays
# are then faster than any walk, whose threads have to wait for torch's, which spin for a while
# behind any operation. Above, whole arrays pay for new pages, and blocks do not: behind a product
# on two cores, 8388 x 1000 (just below) take 3.7 ms at once and 6.4 in blocks, 9437 x 1000 take 12
# and 7.6; with the gradient 16 and 17, 29 and 18; on one thread 8.8 and 9.5 (8126 x 1000), 21 and
# 13. Autograd records the operations of up to AT_ONCE; from there on one block holds all, and it
# records none of them. Smoothed and weighted dense labels take so many sums that blocks, which
# stay in cache, are faster from there on (3000 x 1500: 1.5 times, on one thread and two).
# With few classes, fewer than fit one vector register, torch's kernels take the entries of a row
# one by one, and a transposed walk is faster from SMALL on. A BLOCK is so large that what Python
# does for each does not count; a TRANSPOSED_BLOCK also has to be copied, and stays in cache.
# Threads pay from PARALLEL on. Without control over torch's threads, a block must be worth the
# barriers of torch's own.
SMALL = 2**15
AT_ONCE = 2**21
KEPT = 2**25
FEW_CLASSES = 16
TRANSPOSED_BLOCK = 2**17
BLOCK = 2**19
SHARED_BLOCK = 2**21
PARALLEL = 2**20
SHARED = 2**15  # torch's own threshold (GRAIN_SIZE)


def walk_for(plan: Plan, size: int) -> Walk | None:
    """The way through `size` logits, None for all at once."""
    if size <= SMALL:
        return None
    is_few = plan.num_classes < FEW_CLASSES and plan.axis + 1 == plan.ndim
    has_many_sums = plan.label_kind == "dense" and (plan.class_weight or plan.label_smoothing)
    if is_kept(plan, size) and not is_few:
        if size <= AT_ONCE:
            return None
        if not has_many_sums:
            return IN_ONE_BLOCK
    if _set_threads() is None:  # pragma: no cover (builds without OpenMP)
        return Walk(SHARED_BLOCK, is_few, 1, _unrecorded)
    threads = torch.get_num_threads() if size >= PARALLEL else 1
    return Walk(TRANSPOSED_BLOCK if is_few else BLOCK, is_few, threads, _alone)


def is_kept(plan: Plan, size: int) -> bool:
    """Whether torch's own loss of `size` logits makes no array that takes new pages."""
    return size * DTYPES[plan.compute_dtype].itemsize < KEPT


def any_walk(plan: Plan) -> Walk:
    """The way through logits of rows that are many, wherever they are."""
    if plan.device is not None:  # pragma: no cover (needs an accelerator)
        return IN_ONE_BLOCK
    if _set_threads() is None:  # pragma: no cover (builds without OpenMP)
        return Walk(SHARED_BLOCK, transposed=False, threads=1, around=_unrecorded)
    return Walk(BLOCK, transposed=False, threads=torch.get_num_threads(), around=_alone)


def loss(walk: Walk | None, plan: Plan, operands: Operands) -> Array:
    """The loss, differentiable in the logits alone."""
    if walk is None:
        return _loss_at_once(plan, operands)
    if torch.is_grad_enabled() and operands.logits.requires_grad:
        return _Loss.apply(walk, plan, *operands)
    return walk_loss(_ops_of(plan, operands.logits), _of_loss(walk, plan), plan, operands)[0]


def _of_loss(walk: Walk, plan: Plan) -> Walk:
    """The walk for the loss alone, of so few operations a block that torch's threads share them.

    Those spin for a while behind any operation, and threads of ours would wait for the cores:
    9000 x 2990 behind a product on two cores take 9 ms in place of 12. A gradient takes as long.
    In a block of one row they would share a sum of SHARED numbers, and so change its bits.
    """
    if walk.transposed or walk is IN_ONE_BLOCK or plan.num_classes >= SHARED:
        return walk
    return walk._replace(threads=1, around=_unrecorded)


def _loss_at_once(plan: Plan, operands: Operands) -> Array:
    """The loss by torch's own softmax; by row statistics if a number is not finite."""
    x = OPS.cast(operands.logits, plan.compute_dtype)
    examples = examples_of(OPS, plan, operands, plain=True)
    found = _ops_of(plan, x).plain_statistics(plan, x, examples)
    if not is_plain(OPS, examples, found):
        return loss_of(TorchOps(), plan, operands)
    examples, divisor = with_divisor(OPS, plan, operands, examples)
    return combine(OPS, plan, examples, found, divisor)


def loss_and_gradient(walk: Walk | None, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss and the gradient of its sum, as constants."""
    if walk is None:
        return loss_and_gradient_of(TorchOps(), plan, operands)
    return walk_loss_and_gradient(_ops_of(plan, operands.logits), walk, plan, operands)


def sums(plan: Plan, operands: Operands) -> Sums:
    """What `Totals` holds, as constants."""
    walk = walk_for(plan, operands.logits.numel())
    if walk is None:
        return sums_of(TorchOps(), plan, operands)
    if walk is IN_ONE_BLOCK:  # of more operations than a loss, each of which makes an array
        walk = any_walk(plan)
    return walk_sums(OPS, walk, plan, operands)


class _Loss(torch.autograd.Function):
    """The walk for the loss, and the one for the gradient when it is asked for."""

    @staticmethod
    def forward(ctx: Any, walk: Walk, plan: Plan, *operands: Array) -> Array:
        ops = _ops_of(plan, operands[0])
        loss, kept = walk_loss(ops, walk, plan, Operands(*operands))
        ctx.save_for_backward(*operands)  # what is saved may move elsewhere until then
        ctx.walk, ctx.plan, ctx.kept = walk, plan, kept.without_operands(plan)
        return loss.clone() if plan.reduction == "none" else loss  # a view cannot be changed

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        operands = Operands(*ctx.saved_tensors)
        if torch.is_grad_enabled() or is_watched() or _functorch.is_legacy_batchedtensor(*slopes):
            slope = differentiable_gradient(ctx.plan, operands, *slopes)
        else:
            ops = _ops_of(ctx.plan, operands.logits)
            slope = walk_gradient(ops, ctx.walk, ctx.plan, operands, ctx.kept, *slopes)
        return None, None, slope, None, None, None, None


def differentiable_gradient(plan: Plan, operands: Operands, factor: Array) -> Array:
    ops = TorchOps()
    x = ops.cast(operands.logits, plan.compute_dtype)
    examples, divisor = examples_and_divisor(ops, plan, operands, smoothed=True)
    x = x if examples.dropped is None else x.masked_fill(examples.dropped, 0.0)
    found = row_statistics(ops, plan, x, row_maximum(ops, plan, x), examples)
    if plan.reduction == "none":
        factor = ops.expand(factor, plan.axis)
    slope = careful_gradient(ops, plan, x, examples, found, factor, divisor)
    return ops.cast_like(slope, operands.logits)


def _log_denominator(x: Array, f: Array, known: tuple[Array, Array] | None, axis: int) -> Array:
    """What log-softmax takes from `x`: exactly so at the largest entry.

    It is the same at any finite entry but for rounding, and autodiff has less to do at one whose
    place, and whose `f`, is `known`.
    """
    largest = torch.amax(x.detach(), axis, keepdim=True)
    found: Array = largest - torch.amax(f.detach(), axis, keepdim=True)
    if not f.requires_grad:
        return found
    if known is None:
        ids = x.detach().argmax(axis, keepdim=True)
        known = ids, torch.gather(f, axis, ids)
    ids, entry = known
    same = torch.gather(x, axis, ids) - entry
    return same + (found - same).detach()


def is_long(shape: Shape, axis: int) -> bool:
    """Whether torch, which adds one by one along an axis that is not the last, loses digits."""
    return shape[axis] > long_of(shape, axis)


def long_of(shape: Shape, axis: int) -> int:
    """From how many classes it does: those that its own loss loses as well do not count."""
    is_second = math.prod(shape[:axis]) > 1
    return LONG if is_second else LONG_OF_ROWS


def _along(function: Any, x: Array, axis: int, long: int) -> Array:
    """`function` along an axis; along the last one torch adds in several parts."""
    if x.shape[axis] > long:
        return function(x.movedim(axis, -1), -1).movedim(-1, axis)
    if axis + 2 == x.ndim and x.shape[-1] == 1:
        return function(x.squeeze(-1), axis).unsqueeze(-1)
    return function(x, axis)


@cache
def _set_threads() -> Any:
    """OpenMP's setting of how many threads the operations of this thread take; None without it."""
    try:
        setting = ctypes.CDLL(None).omp_set_num_threads
    except (AttributeError, OSError, TypeError):  # pragma: no cover (builds without OpenMP)
        return None
    threads = torch.get_num_threads()
    try:
        setting(threads + 1)
        has_effect = torch.get_num_threads() == threads + 1
    finally:
        setting(threads)
    return setting if has_effect else None


def _alone(share: Callable[[], None]) -> None:
    """Let this thread run torch's operations by itself, and autograd not look."""
    setting = _set_threads()
    threads = torch.get_num_threads()  # asked for the first time, torch sets it
    try:
        setting(1)
        _unrecorded(share)
    finally:
        setting(threads)


def _unrecorded(share: Callable[[], None]) -> None:
    """Let autograd not look."""
    with torch._C._InferenceMode(True):  # noqa: FBT003, SLF001 (torch.inference_mode is Python)
        share()


IN_ONE_BLOCK = Walk(2**62, transposed=False, threads=1, around=_unrecorded)
