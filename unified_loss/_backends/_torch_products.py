"""Products of matrices by oneDNN, which torch has beside MKL and gives to compiled graphs.

Torch's own `mm` of float32 is MKL's where there is MKL, which on processors that are not Intel's
takes up to twice the time: 256 x 768 times 768 x 32000 on two cores of an AMD EPYC takes 74 ms, by
oneDNN 32. Others were not measured.
"""

import math
from functools import cache
from typing import Any

import torch

from unified_loss._types import Array

FEW = 2**20  # products of numbers, of which the call costs more than it gains


class Room:
    """Memory for one product after the other, where the operation takes some."""

    def __init__(self, size: int, dtype: Any, device: Any) -> None:
        self._made: Array | None = None
        self._size, self._options = size, {"dtype": dtype, "device": device}

    def of(self, *shape: int) -> Array:
        """An array of that shape."""
        if self._made is None:
            self._made = torch.empty(self._size, **self._options)
        return self._made[: math.prod(shape)].view(shape)


def product(a: Array, b: Array, bias: Array | None = None, room: Room | None = None) -> Array:
    """`a` times the transpose of `b`, and a bias."""
    multiply = _onednn() if len(a) * b.numel() > FEW and _is_dense(a, b) else None
    if multiply is not None:
        found: Array = multiply(a, b, None, "none", [], "")
        return found if bias is None else found.add_(bias)  # it would not ask for a bias's strides
    out = None if room is None else room.of(len(a), len(b))
    if bias is None:
        return torch.mm(a, b.t(), out=out)
    return torch.addmm(bias, a, b.t(), out=out)


def _is_dense(a: Array, b: Array) -> bool:
    """Whether oneDNN has a kernel for it; other layouts it copies, or takes a number at a time."""
    return (
        a.dtype == torch.float32
        and a.is_cpu
        and a.is_contiguous()
        and (b.is_contiguous() or b.t().is_contiguous())
        and torch.backends.mkldnn.enabled
    )


@cache
def _onednn() -> Any | None:
    """The operation; None in a build without it."""
    is_there = torch.backends.mkldnn.is_available()
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if is_there else None
