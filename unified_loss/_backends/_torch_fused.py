"""PyTorch by the fused kernels of `_triton_kernels`: the logits are read once each way.

A kernel computes row statistics, one writes the gradient; the arithmetic between them is that of
`_examples` and `_statistics`, on a few numbers a row. Nothing waits for the device.
"""

import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from unified_loss._backends._torch_ops import DTYPES, OPS
from unified_loss._backends._torch_pair import Kept, Kernels, RowSums, examined
from unified_loss._examples import Examples, has_smoothed_labels
from unified_loss._shapes import kept, without
from unified_loss._statistics import Statistics, scaled
from unified_loss._sums import Sums, added_up, own_terms
from unified_loss._types import Array, Operands, Plan, Shape

DEVICES = frozenset({"cuda", "xpu"})  # for which torch brings Triton; AMD's go by "cuda"
# What the kernels read dense labels in; fewer bits are cast before.
NUMBERS = frozenset(DTYPES[name] for name in (
    "float16", "bfloat16", "float32", "float64", "bool", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
))  # fmt: skip

# Sizes of a tile, in logits. One of TILE fills the registers of 8 warps comfortably. Where rows
# lie next to each other in memory (channels first), BESIDE of them are read at once. There are
# PROGRAMS to keep a large device busy; where rows are fewer, each is split into at most PARTS.
TILE = 4096
BESIDE = 128
PROGRAMS = 1024
PARTS = 256
SMALL_TILE = 2048
MERGED_ROWS = 4
MERGED_COLS = 64
AXES = (1, 2, 4)  # how many axes a batch can be read along


class Layout(NamedTuple):
    """How rows lie in memory: a batch with the fewest axes that describe all tensors."""

    sizes: Shape  # of the last three axes; 1 where there is none
    strides: tuple[Shape, ...]  # of each tensor: along four axes of the batch, and the classes
    ndim: int  # the number of axes that kernels know: one of AXES


class Schedule(NamedTuple):
    """How a kernel goes through the logits."""

    rows: int  # of a tile
    cols: int
    splits: int  # programs a row
    part: int  # classes of each
    warps: int


@lru_cache(4096)
def layout_of(shape: Shape, axis: int, *strides: Shape) -> Layout | None:
    """The layout of tensors of one shape; None if it takes more axes than the kernels know."""
    batch: list[list[int]] = []  # of each axis its size, and the strides of each tensor
    for here in [here for here in range(len(shape)) if here != axis and shape[here] != 1]:
        size, steps = shape[here], [stride[here] for stride in strides]
        if batch and batch[-1][1:] == [step * size for step in steps]:
            batch[-1] = [batch[-1][0] * size, *steps]
        else:
            batch.append([size, *steps])
    if len(batch) > AXES[-1]:
        return None
    ndim = next(number for number in AXES if number >= len(batch))
    batch = [[1] + [0] * len(strides)] * (AXES[-1] - len(batch)) + batch
    sizes, *steps = zip(*batch, strict=True)
    along = tuple((*step, stride[axis]) for step, stride in zip(steps, strides, strict=True))
    return Layout(sizes[1:] if ndim > 1 else (1, 1, 1), along, ndim)


@lru_cache(4096)
def schedule_for(layout: Layout, rows: int, classes: int, *, split: bool) -> Schedule:
    """Tiles that read memory in order, and enough programs; `split`: if need be, parts of rows."""
    *_, row_stride, class_stride = layout.strides[0]
    if class_stride > row_stride and rows > 1:
        beside = rows if layout.ndim == 1 else layout.sizes[-1]
        tile_rows = min(_power(beside), BESIDE, TILE)
        cols = min(_power(classes), max(1, TILE // tile_rows))
    else:
        cols = min(_power(classes), TILE)
        tile_rows = min(_power(rows), max(1, TILE // cols))
    tiles = -(-classes // cols)
    wanted = -(-PROGRAMS // -(-rows // tile_rows)) if split else tiles
    part = -(-tiles // min(wanted, tiles, PARTS if split else tiles)) * cols
    return Schedule(
        tile_rows, cols, -(-classes // part), part, 4 if tile_rows * cols <= SMALL_TILE else 8
    )


def _power(size: int) -> int:
    """The power of two that is not smaller."""
    return 1 << max(0, size - 1).bit_length()


class FusedKernels(Kernels):
    """Those of `_triton_kernels`."""

    name = "Triton"

    def refusal(self, device: torch.device | None) -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if "tensorflow" in sys.modules and "triton" not in sys.modules:
            return "Triton ends a process that has loaded TensorFlow; import triton before it"
        if device is not None:
            if device.type not in DEVICES:
                return f"Triton knows no {device.type}"
            return super().refusal(device)  # pragma: no cover (needs a device)
        if os.environ.get("TRITON_INTERPRET") == "1" and _kernels().INTERPRETED.value:
            return None
        return "on the processor Triton runs with TRITON_INTERPRET=1 alone"

    def readable(self, plan: Plan, operands: Operands) -> Operands:
        if plan.label_kind == "index" or operands.labels.dtype in NUMBERS:
            return operands
        return operands._replace(labels=OPS.cast(operands.labels, plan.compute_dtype))

    def index_statistics(
        self,
        plan: Plan,
        operands: Operands,
        examples: Examples,
        room: Array | None,
    ) -> Statistics:
        m, l, *found = _planes(plan, operands, _rows(plan, operands, examples.dropped), 0)
        p = None if plan.label_smoothing == 1 else found.pop(0)
        return Statistics(m, l, p, found.pop(0) if plan.label_smoothing else None)

    def dense_statistics(
        self,
        plan: Plan,
        operands: Operands,
        room: Array | None,
    ) -> tuple[Statistics, RowSums]:
        has_low = plan.class_weight and bool(plan.label_smoothing)
        m, l, *found = _planes(plan, operands, None, 2 + plan.class_weight + has_low)
        p = None if plan.label_smoothing == 1 else found.pop(0)
        q = found.pop(0) if plan.label_smoothing else None
        total, high, *found = found
        mass = found.pop(0) if plan.class_weight else total
        return Statistics(m, l, p, q), (total, mass, found.pop(0) if has_low else high, high)

    def gradient(self, plan: Plan, operands: Operands, kept: Kept, factor: Array | None) -> Array:
        return _gradient(plan, operands, kept, factor)


KERNELS = FusedKernels()


def sums(plan: Plan, operands: Operands) -> Sums:
    """What `Totals` holds, as constants."""
    operands = KERNELS.readable(plan, operands)
    with torch.no_grad():
        examples, _, found = examined(KERNELS, plan, operands, None)
        terms = own_terms(OPS, plan, operands, examples, found)
        return added_up(OPS, plan, examples, found, *terms)


def _planes(plan: Plan, operands: Operands, dropped: Array | None, sums: int) -> tuple[Array, ...]:
    """What `statistics` writes, plane by plane."""
    x = operands.logits
    kernels = _kernels()
    is_dense = plan.label_kind == "dense"
    picked, smoothed = plan.label_smoothing != 1, bool(plan.label_smoothing)
    shape = kept(x.shape, plan.axis)
    rows, number = math.prod(shape), 2 + picked + smoothed + sums
    planes = x.new_empty((number, *shape), dtype=DTYPES[plan.compute_dtype])
    if not rows:
        return planes.unbind()
    operands, layout = _laid(plan, operands)
    x = operands.logits
    go = schedule_for(layout, rows, plan.num_classes, split=True)
    weight, labels = _class_weight(plan, operands), _labels(plan, operands)
    share = _share(plan, planes) if has_smoothed_labels(plan) else None
    x_strides, t_strides = layout.strides[0], layout.strides[-1]
    is_split = go.splits > 1
    out = planes if not is_split else x.new_empty(9 * go.splits * rows, dtype=planes.dtype)
    with _device(x):
        launch(
            kernels.statistics, -(-rows // go.rows) * go.splits, x, labels, weight, share, dropped,
            out, *x_strides, *t_strides, rows, plan.num_classes, *layout.sizes, go.splits, go.part,
            NUMBER=kernels.NUMBERS[plan.compute_dtype], DENSE=is_dense, PICKED=picked,
            SMOOTHED=smoothed, NDIM=layout.ndim, SPLIT=is_split, ROWS=go.rows, COLS=go.cols,
            num_warps=go.warps,
        )  # fmt: skip
        if is_split:
            launch(
                kernels.merge, -(-rows // MERGED_ROWS), out, x, labels, weight, share, dropped,
                planes, *x_strides, *t_strides, rows, plan.num_classes, *layout.sizes, go.splits,
                PICKED=picked, SMOOTHED=smoothed, DENSE=is_dense, NDIM=layout.ndim,
                ROWS=MERGED_ROWS, PARTS=PARTS, COLS=MERGED_COLS, num_warps=4,
            )  # fmt: skip
    return planes.unbind()


def _gradient(plan: Plan, operands: Operands, found: Kept, factor: Array | None) -> Array:
    """The gradient, in the dtype of the logits; `factor` is what autodiff multiplies it by."""
    x = operands.logits
    if factor is not None and plan.reduction == "none":
        factor = OPS.expand(factor, plan.axis)
    slopes = scaled(found.slopes, factor, found.divisor)
    out = torch.empty_like(x) if x.ndim <= AXES[-1] + 1 else x.new_empty(x.shape)
    rows = math.prod(without(x.shape, plan.axis))
    if not rows:
        return out
    kernels = _kernels()
    operands, layout = _laid(plan, operands, out)
    x = operands.logits
    go = schedule_for(layout, rows, plan.num_classes, split=False)
    (a, a_step), (b, b_step), (c, c_step) = (_rate(plan, operands, part) for part in slopes[:3])
    x_strides, *t_strides, g_strides = layout.strides
    with _device(x):
        launch(
            kernels.gradient, -(-rows // go.rows) * go.splits, x, _labels(plan, operands),
            _class_weight(plan, operands), _rows(plan, operands, found.dropped), found.m, found.l,
            a, b, c, out, *x_strides, *(t_strides or [x_strides])[0], *g_strides,
            rows, plan.num_classes, *layout.sizes, go.splits, a_step, b_step, c_step,
            DENSE=plan.label_kind == "dense", NDIM=layout.ndim, ROWS=go.rows, COLS=go.cols,
            num_warps=go.warps,
        )  # fmt: skip
    return out


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Run so many programs of a kernel."""
    with _quiet() if _kernels().INTERPRETED.value else nullcontext():
        kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the interpreter, which is NumPy, warns of: infinities, and rows of NaN."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@cache
def _kernels() -> Any:
    from unified_loss._backends import _triton_kernels as kernels

    return kernels


def _device(x: Array) -> AbstractContextManager[Any]:
    """Where Triton launches its kernels."""
    if x.device.type not in DEVICES:
        return nullcontext()
    return getattr(torch, x.device.type).device(x.device)  # pragma: no cover (needs a device)


def _laid(plan: Plan, operands: Operands, *others: Array) -> tuple[Operands, Layout]:
    """The layout of the logits, of labels that are dense, and of others of their shape.

    With more axes in an order of their own than the kernels know, copies take the places of both.
    """
    logits, labels = operands[:2]
    is_dense = plan.label_kind == "dense"
    tensors = (logits, labels, *others) if is_dense else (logits, *others)
    strides = (tensor.stride() for tensor in tensors)
    layout = layout_of(logits.shape, plan.axis, *strides)
    if layout is not None:
        return operands, layout
    labels = labels.contiguous() if is_dense else labels
    operands = operands._replace(logits=logits.contiguous(), labels=labels)
    return _laid(plan, operands, *others)


def _labels(plan: Plan, operands: Operands) -> Array:
    """The labels: dense ones as they lie, class ids row by row."""
    return operands.labels if plan.label_kind == "dense" else operands.labels.contiguous()


def _class_weight(plan: Plan, operands: Operands) -> Array | None:
    """The class weights in the dtype that is computed in, where the kernels need them."""
    if not plan.class_weight or (plan.label_kind == "index" and not plan.label_smoothing):
        return None
    return OPS.cast(operands.class_weight, plan.compute_dtype).contiguous()


def _share(plan: Plan, planes: Array) -> Array:
    """What smoothing adds to each label, as a part of what it leaves of T: see `examples_of`."""
    share = plan.label_smoothing / (1 - plan.label_smoothing)
    return planes.new_full((), share / plan.num_classes)


def _rows(plan: Plan, operands: Operands, part: Array | None) -> Array | None:
    """One number for each row, row by row."""
    if part is None:
        return None
    return part.expand(kept(operands.logits.shape, plan.axis)).contiguous()


def _rate(plan: Plan, operands: Operands, part: Any) -> tuple[Array | None, int]:
    """A coefficient, and the step from row to row: 0 if it is the same for all."""
    if part is None:
        return None, 0
    if not isinstance(part, torch.Tensor):
        part = operands.logits.new_full((), part, dtype=DTYPES[plan.compute_dtype])
    return (part, 0) if part.numel() == 1 else (_rows(plan, operands, part), 1)
