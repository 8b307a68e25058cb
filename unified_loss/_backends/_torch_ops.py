"""The operations of PyTorch."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from unified_loss._backends._torch_compat import is_compiling, is_exporting
from unified_loss._ops import INFINITY, Factors, LinearOps
from unified_loss._shapes import kept, without
from unified_loss._types import Array, Plan, Shape

DTYPES = {str(dtype).rpartition(".")[2]: dtype for dtype in vars(torch).values()
           if isinstance(dtype, torch.dtype)}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {
    torch.float32: "float32", torch.float64: "float64", torch.float16: "float16",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16",
    torch.complex64: "complex64", torch.complex128: "complex128",
}  # fmt: skip


def fake_mode_of(x: Array) -> AbstractContextManager[Any]:
    """Where new tensors can be combined with `x`, which may be fake outside of its mode."""
    return getattr(x, "fake_mode", None) or nullcontext()


def is_distributed(array: Array) -> bool:
    """Whether it is a `DTensor`."""
    return hasattr(type(array), "placements")


def is_watched() -> bool:
    """Whether anything but autograd's backward has an eye on the operations that run."""
    return is_recorded() or is_compiling()


def is_recorded() -> bool:
    """The same where no compiler interprets Python."""
    return bool(
        _functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0  # noqa: SLF001
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch._C._is_tracing()  # noqa: SLF001
    )


def is_transformed() -> bool:
    """Whether a function transform or forward-mode autodiff is at work."""
    return (
        _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0  # noqa: SLF001
    )


class TorchOps(LinearOps):
    """`Ops` on PyTorch."""

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(DTYPES[dtype])

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.to(like.dtype)

    def cast_size(self, size: Any, dtype: str) -> Any:
        return size.to(DTYPES[dtype]) if isinstance(size, torch.Tensor) else size

    def as_index(self, x: Array) -> Array:
        return x.to(torch.int64)

    def equals(self, labels: Array, value: int) -> Array:
        return labels == value

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        if isinstance(a, torch.Tensor):
            return torch.where(condition, a, b)
        return b.masked_fill(condition, a)  # where() would make a tensor of the number first

    def exp(self, x: Array) -> Array:
        return torch.exp(x)

    def log(self, x: Array) -> Array:
        return torch.log(x)

    def isfinite(self, x: Array) -> Array:
        return x.abs() < INFINITY  # isfinite() is four operations in a graph

    def max(self, x: Array, axis: int) -> Array:
        return torch.amax(x, axis, keepdim=True)

    def sum(self, x: Array, axis: int) -> Array:
        return torch.sum(x, axis, keepdim=True)

    def any(self, x: Array, axis: int) -> Array:
        return torch.any(x, axis, keepdim=True)

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        f = self.differences(factors)
        return torch.log(self.sum(torch.exp(f), axis))

    def total(self, x: Array) -> Array:
        return torch.sum(x)

    def number(self, x: Array) -> Array:
        return torch.sum(x)

    def count(self, x: Array, dtype: str) -> Array:
        return self.cast(self.number(x), dtype)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        number = math.prod(without(logits.shape, axis))
        if isinstance(number, int):
            return number
        return logits.new_full((), number, dtype=DTYPES[dtype])

    def size(self, x: Array, axis: int) -> Any:
        return x.shape[axis]

    def stop_gradient(self, x: Array) -> Array:
        return x.detach() if x.requires_grad or is_watched() else x

    def expand(self, x: Array, axis: int) -> Array:
        return x.unsqueeze(axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return x.squeeze(axis)

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        return vector.reshape([-1 if i == axis else 1 for i in range(like.ndim)])

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        missing = like.ndim - 1 - weights.ndim
        weights = weights.reshape(weights.shape + (1,) * missing).unsqueeze(axis)
        return weights.expand(kept(like.shape, axis)) if missing else weights

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return torch.gather(x, axis, ids)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        return weights[ids]

    def scaled(self, x: Array, a: Array) -> Array:
        return x * a

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        return torch.where(ids == self.classes(x, axis), x - b, x)

    # Of the linear form.

    def tanh(self, x: Array) -> Array:
        return torch.tanh(x)

    def affine(self, hidden: Array, weight: Array, bias: Array | None) -> Array:
        return torch.nn.functional.linear(hidden, weight, bias)

    def product(self, a: Array, b: Array) -> Array:
        return torch.matmul(a, b)

    def transposed(self, x: Array) -> Array:
        return x.t()

    def as_matrix(self, x: Array) -> Array:
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])

    def reshape_like(self, x: Array, like: Array) -> Array:
        return x.reshape(like.shape)

    def reshaped(self, x: Array, shape: Shape) -> Array:
        return x.reshape(shape)

    def concatenated(self, parts: list[Array]) -> Array:
        return torch.cat(parts)

    def sum_of_rows(self, x: Array) -> Array:
        return torch.sum(x, 0)

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        return hidden.new_zeros(()).expand(*hidden.shape[:-1], weight.shape[0])

    def classes(self, x: Array, axis: int) -> Array:
        """The class ids, laid along the class axis of `x`."""
        with fake_mode_of(x):
            return self.along(torch.arange(x.shape[axis], device=x.device), x, axis)


class GraphOps(TorchOps):
    """`Ops` for a graph that a compiler fuses."""

    def stop_gradient(self, x: Array) -> Array:
        # A graph that is exported may be given others, that are no constants.
        is_constant = not (x.requires_grad or is_transformed() or is_exporting())
        return x if is_constant else x.detach()

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        x, m, dead, *_ = factors
        return _LogSumExp.apply(x, m, dead, axis)

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return _Pick.apply(x, ids, axis)


def _written(rows: Array) -> Array:
    """`rows`, which a compiler for the processor is to write out, one number a row.

    It would compute them again for each entry that they meet in a sum or a gradient, where that
    takes more time than the exponentials. A view by strides has to see them in memory.
    """
    if not rows.is_cpu or is_transformed() or is_exporting():
        return rows
    return rows.as_strided(rows.shape, rows.stride())


class _LogSumExp(torch.autograd.Function):
    """Log sum exp(x - m), with m a constant, and without a slope in rows that are dead."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Array, m: Array, _dead: Array | None, axis: int) -> Array:
        return torch.log(torch.sum(torch.exp(x - _written(m)), axis, keepdim=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Array, Array | None, int], l: Array) -> None:
        x, m, dead, ctx.axis = inputs
        # A NaN marks dead rows, since masks are slow to read; in others all slopes are NaN anyway.
        known = x, m if dead is None else m.masked_fill(dead, math.nan), l, dead
        ctx.save_for_backward(*known)
        ctx.save_for_forward(*known)

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        (slope,) = slopes
        return _scaled_softmax(slope, *ctx.saved_tensors), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Array, *_: None) -> Array:
        slope = tangent * _scaled_softmax(1.0, *ctx.saved_tensors)
        return torch.sum(slope, ctx.axis, keepdim=True)


def _scaled_softmax(scale: Any, x: Array, m: Array, l: Array, dead: Array | None) -> Array:
    """The softmax times a number a row, and 0 in rows that are dead, whose m is NaN."""
    scale = scale * torch.exp(-l)
    if dead is None:
        return torch.exp(x - _written(m)) * _written(scale)
    m, scale = _written(m), _written(scale.masked_fill(dead, 0.0))
    is_dead = m != m  # noqa: PLR0124 (isnan() is slow in a compiled loop)
    return torch.exp((x - m).masked_fill(is_dead, -INFINITY)) * scale


class _Pick(torch.autograd.Function):
    """A gather whose gradient is a comparison, which fuses; torch has a scatter, which does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Array, ids: Array, axis: int) -> Array:
        return torch.gather(x, axis, ids)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Array, int], _: Array) -> None:
        x, ids, ctx.axis = inputs
        known = ids, OPS.classes(x, ctx.axis)
        ctx.save_for_backward(*known)
        ctx.save_for_forward(*known)

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        ids, classes = ctx.saved_tensors
        (slope,) = map(_written, slopes)
        return torch.where(_written(ids) == classes, slope, 0.0), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Array, *_: None) -> Array:
        ids, _ = ctx.saved_tensors
        return torch.gather(tangent, ctx.axis, ids)


OPS = TorchOps()
GRAPH_OPS = GraphOps()
