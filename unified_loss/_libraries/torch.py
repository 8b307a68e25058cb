"""PyTorch."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions, listed, one_or_all, paired, sizes
from unified_loss._libraries._library import Function, HostArray, Library
from unified_loss._types import Array


class Torch(Library):
    """PyTorch, on the GPU if there is one."""

    floats = ("float16", "bfloat16", "float32", "float64")
    has_autodiff = True
    compiler = "`torch.compile`"
    dialect = functions(
        "torch",
        argmax=lambda x, axis: f"{x}.argmax(dim={axis})",
        cast=lambda x, dtype: f"{x}.{ {'int64': 'long()'}.get(dtype, f'to(torch.{dtype})') }",
        reshape=lambda x, shape: f"{x}.reshape({listed(sizes(shape))})",
        squeeze=lambda x, axis: f"{x}.squeeze({axis})",
        insert=lambda x, axis: f"{x}.unsqueeze({axis})",
        permute=lambda x, order: f"{x}.permute({listed(str(order))})",
        pad=lambda x, value: f"F.pad({x}, (0, 1), value={value[1]})",
        pair=paired("torch", "cat", "dim"),
        mean=lambda x, axes: f"{x}.mean(dim={one_or_all(axes)})",
        broadcast=lambda x, shape: f"{x}.expand({listed(sizes(shape))})",
        exp=lambda x, _: f"{x}.exp()",
        one_hot=lambda x, classes: f"F.one_hot({x}, {classes})",
        resize=lambda x, value: f"F.interpolate({x}, size={value[1]})",
    )
    aliases: ClassVar = {"torch": "torch", "F": "torch.nn.functional"}

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """A tensor."""
        gpu = "cuda" if self.xp.cuda.is_available() else "cpu"
        dtype = dtype and getattr(self.xp, dtype)
        return self.xp.tensor(np.asarray(values), dtype=dtype, device=self.chosen_device or gpu)

    def to_numpy(self, array: Array) -> HostArray:
        """NumPy cannot read PyTorch's bfloat16, nor its graph."""
        return np.asarray(array.detach().double().cpu())

    def device(self, array: Array) -> str:
        """As PyTorch prints it."""
        return str(array.device)

    def mapped(self, array: Array) -> tuple[int, ...]:
        """By `torch.func.vmap`, the innermost last."""
        wrapped = self.package._C._functorch  # noqa: SLF001 (torch tells of them nowhere else)
        sizes: list[int] = []
        while wrapped.is_functorch_wrapped_tensor(array):
            inner = wrapped.get_unwrapped(array)
            if wrapped.is_batchedtensor(array):
                sizes.append(inner.shape[wrapped.maybe_get_bdim(array)])
            array = inner
        return tuple(sizes[::-1])

    def compiled(self, function: Function, **options: Any) -> Function:
        """By `torch.compile`, as one graph."""
        options = {"dynamic": False} | options
        compiled: Function = self.xp.compile(function, fullgraph=True, **options)
        return compiled

    def value_and_gradients(self, function: Function, places: Sequence[int] = (0,)) -> Function:
        """By autograd."""

        def both(*arrays: Array) -> tuple[Array, Sequence[Array]]:
            chosen = [arrays[place].requires_grad_() for place in places]
            value = function(*arrays)
            return value.detach(), self.xp.autograd.grad(value, chosen)

        return both


LIBRARY = Torch
