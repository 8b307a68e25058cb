"""A device of torch, "elsewhere", that stands for an accelerator where there is none.

It computes on the processor, but torch takes its tensors for those of a device: `.numpy()` refuses
them, and whatever would wait for a device can be made an error. All of them are said to be
contiguous, since tensors made in Python can have no other strides. There is no inference mode, no
backward inside of a backward, and no `torch.compile`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
KEY = "PrivateUse1"
# Operations that torch makes of others, some of them by strides.
COMPOSED = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
# What has numbers or shapes for results, which the host waits for.
READS = {"_local_scalar_dense", "_unique2", "equal", "masked_select", "nonzero", "unique_dim"}


class WaitedError(RuntimeError):
    """Something waited for the device, and must not."""


class Elsewhere:
    """What the process knows of the device."""

    kernels: "list[torch.library.Library]" = []  # noqa: RUF012 (which live as long as they do)
    hosts: "dict[int, torch.Tensor]" = {}  # noqa: RUF012 (what stands for which storage)
    may_wait = True


@contextmanager
def without_waiting() -> Iterator[None]:
    """What waits for the device is an error, as in `torch.cuda.set_sync_debug_mode("error")`."""
    Elsewhere.may_wait = False
    try:
        yield
    finally:
        Elsewhere.may_wait = True


def register() -> None:
    """Make the device known to torch, for the rest of the process."""
    if Elsewhere.kernels:
        return
    _setup_privateuseone_for_python_backend(NAME)
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(_call, KEY)
    kernels = torch.library.Library("aten", "IMPL")
    for key in COMPOSED:
        for full_name in torch._C._dispatch_get_registrations_for_dispatch_key(key):
            library, _, name = full_name.partition("::")
            if library == "aten" and not _has_kernel(name):
                kernels.impl(name, partial(_call, _operation(name)), KEY)
    Elsewhere.kernels = [rest, kernels]
    torch.Event = Event


class Event:
    """An event, which on this device has always come; torch's own need C++."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self) -> None:
        """All that it follows is done."""

    def query(self) -> bool:
        """It has come."""
        return True

    def synchronize(self) -> None:
        """Nobody waits."""


def _has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", KEY)


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _call(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the host, by which those who wait for the device are known."""
    away: dict[int, torch.Tensor] = {}

    def at_home(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, torch.Tensor):
            return value
        host = value if value.is_cpu else Elsewhere.hosts[_storage(value)]
        away[id(host)] = value
        return host

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        known = away.get(id(value))  # what was written into
        return _taken_away(value) if known is None else known

    host_args, host_kwargs = pytree.tree_map(at_home, (args, kwargs))
    name = op._schema.name.partition("::")[2]
    device = kwargs.get("device")
    goes_home = name == "_to_copy" and device is not None and device.type == "cpu"
    is_copied_home = name == "copy_" and args[0].is_cpu
    waits = (goes_home or is_copied_home or name in READS) and not kwargs.get("non_blocking")
    if waits and not Elsewhere.may_wait:
        raise WaitedError(f"{op} waits for the device")
    if name == "_copy_from":
        host_args[1].copy_(host_args[0])
        return args[1]
    if name == "view":  # of strides that the device does not show
        return _taken_away(host_args[0].reshape(host_args[1]))
    found = op(*host_args, **host_kwargs)
    return found if goes_home else pytree.tree_map(back, found)


def _taken_away(host: torch.Tensor) -> torch.Tensor:
    found = torch._C._acc.create_empty_tensor(tuple(host.shape), host.dtype)
    Elsewhere.hosts[_storage(found)] = host
    return found


def _storage(tensor: torch.Tensor) -> int:
    """What a tensor shares with its `data`; of one that is gone, the number is given again."""
    return tensor.untyped_storage()._cdata
