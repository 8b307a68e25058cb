"""PyTorch."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch._C import _functorch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss._backend import Backend, LinearRoute, Route
from unified_loss._backends import _torch_blocks as blocks
from unified_loss._backends import _torch_fused as fused
from unified_loss._backends import _torch_linear as linear
from unified_loss._backends import _torch_pair as pair
from unified_loss._backends import _torch_softmax as softmax
from unified_loss._backends._torch_compat import guard_or_true, is_compiling, statically_known_true
from unified_loss._backends._torch_native import has_native_loss, native_loss
from unified_loss._backends._torch_ops import (
    DTYPES,
    GRAPH_OPS,
    NAMES,
    OPS,
    TorchOps,
    fake_mode_of,
    is_distributed,
    is_recorded,
)
from unified_loss._backends.numpy import SMALL as FEW
from unified_loss._backends.numpy import on_numpy
from unified_loss._shapes import operand_axes, sizes_along
from unified_loss._split_classes import loss_and_gradient_of, loss_of
from unified_loss._sums import Sums, sums_of
from unified_loss._types import Array, Form, Head, Operands, Plan, Size, Spec
from unified_loss.exceptions import BackendError, OptionError, ShapeError

# Integers of fewer bits, which torch holds for others to unpack.
_NAMES_ALONE = {DTYPES[name] for name in ("int1", "int2", "int4", "uint1", "uint2", "uint4")
                if name in DTYPES}  # fmt: skip

_NOT_OF_NUMPY = _NAMES_ALONE | {torch.bfloat16}

_ORDINARY = frozenset({torch.Tensor, torch.nn.Parameter})


def _has_own_values(array: Array) -> bool:
    """Whether no function transform and no wrapper stands before the values."""
    own = type(array).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return own and not _functorch.is_functorch_wrapped_tensor(array)


def _akin(operands: Operands) -> Operands:
    """`operands`, and as plain tensors those whose class torch combines with none before them.

    A class refuses tensors of another one that is neither above it nor below, as fastai's images
    refuse its masks; both stand for the same numbers.
    """
    kinds: list[type] = []

    def plain(array: Array | None) -> Array | None:
        kind = type(array)
        if array is None or not _has_function(kind):
            return array
        if all(issubclass(kind, other) or issubclass(other, kind) for other in kinds):
            kinds.append(kind)
            return array
        return array.as_subclass(torch.Tensor)

    return Operands(*map(plain, operands))


def _has_function(kind: Any) -> bool:
    """Whether a class, whose tensors hold their own numbers, has a say in what torch does."""
    return (
        kind is not torch.Tensor
        and kind.__torch_function__ is not torch._C._disabled_torch_function_impl  # noqa: SLF001
        and kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    )


def _values(array: Array) -> Any:
    """The numbers of an ordinary tensor on the processor, as NumPy's array of the same memory."""
    return (array.detach() if array.requires_grad else array).numpy()


def run(kernel: Callable[..., Any], ops: TorchOps, plan: Plan, operands: Operands) -> Any:
    """`kernel`, with `ops` unless where the logits are asks for others."""
    operands = _akin(operands)
    _refuse_other_meshes(operands)
    _compare_sizes(plan, operands)
    plan, operands = _signed(plan, operands)
    if is_distributed(_unwrapped(operands.logits)):
        from unified_loss._backends import _dtensor

        if plan.class_group is not None:
            reason = "it tells how its classes are split; leave class_group out"
            raise BackendError(messages.refused("logits", "a DTensor", reason))
        return _dtensor.run(kernel, plan, operands)
    if plan.class_group is not None:
        from unified_loss._backends import _torch_split

        ops = _torch_split.OPS
    elif is_compiling():
        ops = GRAPH_OPS
    return kernel(ops, plan, operands)


def _refuse_other_meshes(operands: Operands) -> None:
    mesh = getattr(operands.logits, "device_mesh", None)
    for name, operand in zip(Operands._fields, operands, strict=True):
        if is_distributed(operand) and operand.device_mesh != mesh:
            reason = "it is a DTensor on a mesh that the logits are not on"
            raise BackendError(messages.cannot_combine(name, reason, f"{name}.full_tensor()"))


def _unwrapped(array: Array) -> Array:
    """What a transform of `torch.func` has wrapped."""
    while _functorch.is_functorch_wrapped_tensor(array):
        array = _functorch.get_unwrapped(array)
    return array


def _compare_sizes(plan: Plan, operands: Operands) -> None:
    """Compare the sizes that the plan could not: in the tracer, or when the program runs."""
    for name, axes in operand_axes(plan, operands)._asdict().items():
        if axes is None:
            continue
        shape = getattr(operands, name).shape
        wanted = sizes_along(axes, operands.logits.shape)
        for size, other in zip(shape, wanted, strict=True):
            if _is_known(size) and _is_known(other):
                continue
            if not guard_or_true(size == other):
                raise ShapeError(messages.sizes_differ(name, shape, wanted))
            torch._check(size == other)  # noqa: SLF001 (torch documents it under this name)


def _is_known(size: Size) -> bool:
    return not isinstance(size, torch.SymInt)


def _signed(plan: Plan, operands: Operands) -> tuple[Plan, Operands]:
    """Labels as int64 if unsigned, for which torch has few kernels, or if they may not hold a size.

    A size: that of the classes, or the ignored label, where those are symbols.
    """
    ignore_index = plan.ignore_index
    fits = plan.is_ordinary or (_is_known(plan.num_classes) and _is_known(ignore_index))
    if plan.label_kind == "dense" or (fits and not plan.labels_dtype.startswith("uint")):
        return plan, operands
    below = plan.labels_dtype == "uint64"  # from 2**63 on they become negative
    if below and ignore_index is not None and ignore_index >= 2**63:
        ignore_index -= 2**64
    operands = operands._replace(labels=operands.labels.to(torch.int64))
    return plan._replace(ignore_index=ignore_index, below=below), operands


_AT_ONCE = Route("log_softmax")
_WHOLE = Route("log_softmax", walk=blocks.IN_ONE_BLOCK)
_NATIVE = {
    (kind, walk): Route(name, is_native=True, walk=walk)
    for kind, name in (("index", "F.cross_entropy"), ("dense", "log_softmax"))
    for walk in (None, blocks.IN_ONE_BLOCK)
}
_ROWS = Route("row statistics (torch)")
_SPLIT = Route("row statistics of split classes (torch)")
_FUSED = Route("fused kernels (Triton)", is_fused=True, kernels=fused.KERNELS)
_SOFTMAX = Route("log_softmax in place", walk=softmax.WALK, kernels=softmax.KERNELS)
_NAMES = {False: "log_softmax in blocks", True: "log_softmax in transposed blocks"}


_LAZY = frozenset({"lazy", "meta", "xla"})  # devices that compute nothing when they are told to
_OF_ANY_DEVICE = {"fused": _FUSED, "softmax": _SOFTMAX, "rows": _ROWS}
_CHOICES = ("auto", "fused", "softmax", "blocks", "native", "rows")
_FORCED = os.environ.get("UNIFIED_LOSS_KERNEL", "auto")


def _route(name: str, plan: Plan, size: int) -> Route:
    """The route of a call whose tensors are ordinary: the forced one, or that of an accelerator."""
    if name not in _CHOICES:
        raise OptionError(messages.kernel_setting(name, _CHOICES))
    if name == "auto":
        pairs = (route for route in (_FUSED, _SOFTMAX) if not route.kernels.refusal(plan.device))
        return next(pairs, _ROWS)
    route, reason = _OF_ANY_DEVICE.get(name), None
    if route is not None:
        reason = route.kernels and route.kernels.refusal(plan.device)
    elif plan.device is not None:
        reason = f"it would wait for the device {plan.device}"
    elif name == "native" and not has_native_loss(plan):
        reason = "F.cross_entropy cannot do what it asks for, or loses digits"
    if reason is not None:
        raise OptionError(messages.kernel_cannot(name, reason))
    if name == "blocks":
        walk = blocks.walk_for(plan, size)
        if walk is None or walk is blocks.IN_ONE_BLOCK:
            return _AT_ONCE if walk is None else _WHOLE
        return Route(_NAMES[walk.transposed], walk=walk)
    return route or _NATIVE[plan.label_kind, None]


class TorchBackend(Backend):
    """PyTorch."""

    name = "torch"

    def owns(self, value: object) -> bool:
        return isinstance(value, torch.Tensor)

    def outline(self, *arrays: Array | None) -> Any:
        if is_recorded():
            return None
        parts: list[Any] = []
        logits: Any = arrays[0]
        on_cpu = logits.is_cpu
        for array in arrays:
            if array is None:
                parts.append(None)
                continue
            if (
                type(array) not in _ORDINARY
                or array.is_cpu != on_cpu
                or array.is_neg()
                or array.is_nested
            ):
                return None
            if not on_cpu:  # pragma: no cover (needs an accelerator)
                device = array.device
                if device.type in _LAZY or device != logits.device:
                    return None
                parts.append(device)
            if array.layout is not torch.strided:
                return None
            if parts and array.requires_grad and torch.is_grad_enabled():
                return None  # labels and weights with gradients are differentiated in other ways
            parts += (type(array), array.shape, array.dtype)
        return tuple(parts)

    def values(self, labels: Array) -> Any:
        return labels.numpy() if labels.is_cpu else None

    def device(self, logits: Array) -> Any:
        return None if logits.is_cpu else logits.device

    def refusal(self, array: Array) -> str | None:
        if array.is_nested:
            return "a nested tensor has rows of different lengths; pad it, and mask the padding"
        if array.layout != torch.strided:
            return f"its layout is {array.layout}; call .to_dense() if that is meant"
        if array.is_quantized:
            return "it is quantized; call .dequantize() if that is meant"
        if array.dtype in _NAMES_ALONE:
            return f"{array.dtype} is a name alone: torch cannot compute with it; use torch.uint8"
        if type(array).__name__ == "MaskedTensor":
            return "its mask would be lost; pass the data, and the mask as sample_weight="
        return None

    def in_graph(self) -> Callable[..., Any] | None:
        if not torch.compiler.is_dynamo_compiling():
            return None
        # Imported here, since it needs this class. Dynamo reads what comes, and runs it elsewhere.
        from unified_loss._backends import _dynamo  # pragma: no cover (see above)

        return _dynamo.enter  # pragma: no cover (see above)

    def linear_in_graph(self) -> Callable[..., Any] | None:
        if not torch.compiler.is_dynamo_compiling():
            return None
        # Imported here, since it needs this class. Dynamo reads what comes, and runs it elsewhere.
        from unified_loss._backends import _dynamo  # pragma: no cover (see above)

        return _dynamo.enter_linear  # pragma: no cover (see above)

    def spec(self, array: Array) -> Spec:
        return Spec(self.name, tuple(array.shape), NAMES[array.dtype])

    def same_size(self, a: Size, b: Size) -> bool | None:
        if _is_known(a) and _is_known(b):
            return a == b
        return True if statically_known_true(a == b) else None

    def combinable(self, logits: Array, other: Array) -> str | None:
        if other.device == logits.device:
            return None
        return f"it is on device {other.device}, the logits on {logits.device}"

    def convert(self, name: str) -> str:
        return f"torch.as_tensor({name}, device=logits.device)"

    def move(self, name: str) -> str:
        return f"{name}.to(logits.device)"

    def read(self, array: Array, *, wait: bool) -> Any | None:
        if is_compiling() or torch.jit.is_tracing() or get_proxy_mode() is not None:
            return None
        if wait and is_distributed(array):
            array = array.full_tensor()
        if not _has_own_values(array) or (array.device.type != "cpu" and not wait):
            return None
        try:
            values = array.detach().as_subclass(torch.Tensor).cpu()
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        except (RuntimeError, TypeError):  # on the meta device
            return None

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        values = host.cast(values, dtype)
        with fake_mode_of(logits):  # a copy, which a backward can rely on
            return torch.tensor(values, device=logits.device)

    def group(self, group: Any) -> Any:
        from unified_loss._backends import _torch_split  # which imports torch.distributed

        return _torch_split.group_of(group)

    def route(self, plan: Plan, size: int) -> Route:
        if plan.class_group is not None:
            return _SPLIT
        if not plan.is_ordinary:
            return _ROWS
        if plan.device is not None or _FORCED != "auto":
            return _route(_FORCED, plan, size)
        walk = blocks.walk_for(plan, size)
        if walk is not None and walk is not blocks.IN_ONE_BLOCK:
            return Route(_NAMES[walk.transposed], walk=walk)
        if has_native_loss(plan):
            return _NATIVE[plan.label_kind, walk]
        return _AT_ONCE if walk is None else _WHOLE

    def finds_wrong_ids(self, plan: Plan) -> bool:
        if plan.sample_weight != "none":  # a mask for the ignored would cost more than the look
            return False
        # Torch ignores some label always, and signed ones may be it.
        return plan.ignore_index is not None and plan.labels_dtype != "uint64"

    def loss(self, plan: Plan, operands: Operands) -> Array:
        route = plan.route or self.route(plan, operands.logits.numel())
        if route is _ROWS or route is _SPLIT:
            return run(loss_of, OPS, plan, operands)
        plan, operands = _signed(plan, operands)
        if route.kernels is not None:
            return pair.loss(route.kernels, plan, operands)
        value = native_loss(plan, operands) if route.is_native else None
        return blocks.loss(route.walk, plan, operands) if value is None else value

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        route = self.route(plan, operands.logits.numel())
        is_common = route is _ROWS or route is _SPLIT
        if is_common or (torch.is_grad_enabled() and operands.logits.requires_grad):
            return run(loss_and_gradient_of, OPS, plan, operands)
        if route.kernels is not None:
            return pair.loss_and_gradient(route.kernels, *_signed(plan, operands))
        return blocks.loss_and_gradient(route.walk, *_signed(plan, operands))

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        return linear.route(form, head)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        return linear.loss(self, form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        return linear.loss_and_gradients(self, form, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        return linear.sums(self, form, head, operands)

    def linear_deliver(self, form: Form, head: Head, operands: Operands) -> Any | None:
        return linear.deliver(self, form, head, operands)

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        has_gradient = torch.is_grad_enabled() and operands.logits.requires_grad
        route = self.route(plan, operands.logits.numel())
        if route is _ROWS or route is _SOFTMAX or has_gradient:
            return run(sums_of, OPS, plan, operands)
        module: Any = fused if route is _FUSED else blocks
        return module.sums(*_signed(plan, operands))

    def deliver(self, plan: Plan, operands: Operands) -> Any | None:
        is_few = plan.is_ordinary and plan.device is None and operands.logits.numel() <= FEW
        if is_few and _NOT_OF_NUMPY.isdisjoint([a.dtype for a in operands if a is not None]):
            return on_numpy(plan, operands, _values)
        with torch.no_grad():
            return super().deliver(plan, operands)

    def send(self, numbers: tuple[Array, ...]) -> Any | None:
        if is_distributed(numbers[0]):
            numbers = tuple(number.full_tensor() for number in numbers)
        if is_compiling() or not _has_own_values(numbers[0]) or numbers[0].is_meta:
            return None
        return _Sent(numbers)

    def has_arrived(self, sent: "_Sent") -> bool:
        return sent.event is None or sent.event.query()

    def receive(self, sent: "list[_Sent]") -> list[list[float]]:
        return [each.numbers() for each in sent]


class _Sent:
    """0-d tensors that are copied to the host in the device's own time."""

    def __init__(self, numbers: tuple[Array, ...]) -> None:
        self.event: Any = None
        *floats, count = (number.detach() for number in numbers)
        self._parts = (*floats, count)
        if not count.is_cpu:  # pragma: no cover (needs an accelerator)
            # Into memory that is pinned, which neither the host nor the device waits for.
            parts = torch.stack(floats), count
            self._parts = tuple(part.to("cpu", non_blocking=True) for part in parts)
            self.event = torch.Event(count.device)
            self.event.record()

    def numbers(self) -> list[float]:
        if self.event is not None:  # pragma: no cover (needs an accelerator)
            self.event.synchronize()
            floats, count = self._parts
            return [*floats.tolist(), count.item()]
        return [part.item() for part in self._parts]


BACKEND = TorchBackend()
