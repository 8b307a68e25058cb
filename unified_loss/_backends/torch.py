"""PyTorch."""

from typing import Any

import torch

from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Operands, Plan, Size, Spec

NAME = "torch"

_DTYPES = {str(dtype).rpartition(".")[2]: dtype for dtype in vars(torch).values()
           if isinstance(dtype, torch.dtype)}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()} | {
    torch.float32: "float32", torch.float64: "float64", torch.float16: "float16",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16",
    torch.complex64: "complex64", torch.complex128: "complex128",
}  # fmt: skip


class TorchOps:
    """`Ops` on PyTorch."""

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(_DTYPES[dtype])

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.to(like.dtype)

    def cast_size(self, size: Any, dtype: str) -> Any:
        return size

    def as_index(self, x: Array) -> Array:
        return x.to(torch.int64)

    def equals(self, labels: Array, value: int) -> Array:
        return labels == value

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return torch.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return torch.exp(x)

    def isfinite(self, x: Array) -> Array:
        return torch.isfinite(x)

    def max(self, x: Array, axis: int) -> Array:
        return torch.amax(x, axis, keepdim=True)

    def sum(self, x: Array, axis: int) -> Array:
        return torch.sum(x, axis, keepdim=True)

    def any(self, x: Array, axis: int) -> Array:
        return torch.any(x, axis, keepdim=True)

    def log_sum_exp(self, f: Array, axis: int) -> Array:
        return torch.log(torch.sum(torch.exp(f), axis, keepdim=True))

    def total(self, x: Array) -> Array:
        return torch.sum(x)

    def count(self, x: Array, dtype: str) -> Array:
        return torch.sum(x).to(_DTYPES[dtype])

    def examples(self, logits: Array, axis: int, dtype: str) -> Any:
        return logits.numel() // logits.shape[axis]

    def size(self, x: Array, axis: int) -> Any:
        return x.shape[axis]

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()

    def expand(self, x: Array, axis: int) -> Array:
        return x.unsqueeze(axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return x.squeeze(axis)

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        return vector.reshape([-1 if i == axis else 1 for i in range(like.ndim)])

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        missing = like.ndim - 1 - weights.ndim
        weights = weights.reshape(weights.shape + (1,) * missing).unsqueeze(axis)
        return weights.expand(rules.kept(like.shape, axis)) if missing else weights

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return torch.gather(x, axis, ids)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        return weights[ids]

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        classes = torch.arange(x.shape[axis], device=x.device)
        return torch.where(ids == self.along(classes, x, axis), x - b, x)


OPS = TorchOps()


def owns(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def refusal(array: Array) -> str | None:
    if array.is_nested:
        return "a nested tensor has rows of different lengths; pad it, and mask the padding"
    if array.layout != torch.strided:
        return f"its layout is {array.layout}; call .to_dense() if that is meant"
    if array.is_quantized:
        return "it is quantized; call .dequantize() if that is meant"
    if type(array).__name__ == "MaskedTensor":
        return "its mask would be lost; pass the data, and the mask as sample_weight="
    return None


def is_tracing() -> bool:
    return torch.compiler.is_compiling()


def spec(array: Array) -> Spec:
    return Spec(NAME, tuple(array.shape), _NAMES[array.dtype])


def same_size(a: Size, b: Size) -> bool | None:
    return rules.same_size(a, b)


def combinable(logits: Array, other: Array) -> str | None:
    if other.device == logits.device:
        return None
    return f"it is on device {other.device}, the logits on {logits.device}"


def convert(name: str) -> str:
    return f"torch.as_tensor({name}, device=logits.device)"


def move(name: str) -> str:
    return f"{name}.to(logits.device)"


def read(array: Array, *, wait: bool) -> Any | None:
    if is_tracing() or type(array) not in (torch.Tensor, torch.nn.Parameter):
        return None
    if array.device.type != "cpu" and not wait:
        return None
    try:
        return array.detach().cpu().numpy()
    except (RuntimeError, TypeError):  # wrapped by a function transform, or bfloat16
        return None


def from_host(values: Any, logits: Array, dtype: str) -> Array:
    return torch.as_tensor(host.cast(values, dtype)).to(logits.device)


def loss(plan: Plan, operands: Operands) -> Array:
    return loss_of(OPS, *_signed(plan, operands))


def loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    return loss_and_gradient_of(OPS, *_signed(plan, operands))


def kernel(plan: Plan, operands: Operands) -> str:
    return "row statistics (torch)"


def _signed(plan: Plan, operands: Operands) -> tuple[Plan, Operands]:
    """Unsigned labels, for which torch has few kernels, as int64."""
    if plan.label_kind == "dense" or not plan.labels_dtype.startswith("uint"):
        return plan, operands
    ignore_index = plan.ignore_index
    below = plan.labels_dtype == "uint64"  # from 2**63 on they become negative
    if below and ignore_index is not None and ignore_index >= 2**63:
        ignore_index -= 2**64
    operands = operands._replace(labels=operands.labels.to(torch.int64))
    return plan._replace(ignore_index=ignore_index, below=below), operands
