"""Logits that are a `DTensor`: rows and classes may be spread over a mesh of devices.

Each device reduces the classes that it holds. What then travels are a few numbers a row, in the
all-reduces of partial maxima and sums that `DTensor` makes, and never the logits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from unified_loss import _messages as messages
from unified_loss._backends._torch_ops import TorchOps
from unified_loss._ops import INFINITY
from unified_loss._shapes import Axes, kept, operand_axes
from unified_loss._types import Array, Operands, Plan
from unified_loss.exceptions import BackendError


def run(kernel: Callable[..., Any], plan: Plan, operands: Operands) -> Any:
    """`kernel` on operands that are placed as the logits are."""
    logits = operands.logits
    if not isinstance(logits, DTensor):
        reason = "torch.func cannot differentiate or map a DTensor; use torch.autograd"
        raise BackendError(messages.refused("logits", "a DTensor", reason))
    _refuse_others(logits.placements)
    # In inference mode, `a & b` and `a | b` of two DTensors are a; leaving it turns gradients on.
    with_grad = torch.is_grad_enabled()
    with torch.inference_mode(mode=False), torch.set_grad_enabled(with_grad):
        return kernel(*_placed(plan, operands))


def _placed(plan: Plan, operands: Operands) -> tuple[TorchOps, Plan, Operands]:
    """The operations, and the operands placed as the logits are; a plain tensor is a replica."""
    logits = _whole(operands.logits)
    mesh, places = logits.device_mesh, logits.placements

    def spread(array: Array | None, axes: Axes | None) -> Array | None:
        """`array`, each axis of which goes with one of `axes` of the logits."""
        if array is None or axes is None:
            return None
        if not isinstance(array, DTensor):
            array = DTensor.from_local(array, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return array.redistribute(
            placements=[
                Shard(axes.index(place.dim))
                if place.is_shard() and place.dim in axes
                else Replicate()
                for place in places
            ]
        )

    operands = operands._replace(logits=logits)
    operands = Operands(*map(spread, operands, operand_axes(plan, operands)))
    classes = torch.arange(logits.shape[plan.axis], device=logits.device)
    return DTensorOps(spread(classes, (plan.axis,)), logits, plan.axis), plan, operands


def on_one_mesh(arrays: dict[str, Array | None]) -> list[Any]:
    """Arrays on the mesh of the first `DTensor` among them; a plain tensor is a replica."""
    mesh = next(array.device_mesh for array in arrays.values() if isinstance(array, DTensor))

    def placed(name: str, array: Array | None) -> Array | None:
        if array is None:
            return None
        if not isinstance(array, DTensor):
            return DTensor.from_local(array, mesh, [Replicate()] * mesh.ndim, run_check=False)
        if array.device_mesh != mesh:
            reason = "it is a DTensor on a mesh that the others are not on"
            fix = f"{name}.full_tensor()"
            raise BackendError(messages.cannot_combine(name, reason, fix, "hidden"))
        return array

    return [placed(name, array) for name, array in arrays.items()]


def _refuse_others(places: tuple[Placement, ...]) -> None:
    for place in places:
        if not (type(place) in {Shard, Replicate} or place.is_partial()):
            reason = f"placement {place} is none of Shard, Replicate and Partial; redistribute them"
            raise BackendError(messages.refused("logits", "a DTensor", reason))


def _whole(array: Array) -> Array:
    """`array` with its partial sums added up."""
    if not any(place.is_partial() for place in array.placements):
        return array
    return array.redistribute(
        placements=[Replicate() if place.is_partial() else place for place in array.placements]
    )


class DTensorOps(TorchOps):
    """`Ops` on `DTensor`, for logits that are placed as `like` is."""

    def __init__(self, classes: Array, like: Array, axis: int) -> None:
        self._axis = axis
        self._ndim = like.ndim
        self._classes = self.along(classes, like, axis)

    def max(self, x: Array, axis: int) -> Array:
        local = x.detach().to_local()
        # A collective maximum may lose a NaN, which +inf stands for; a device may have no class.
        local = local.masked_fill(local.isnan(), INFINITY)
        shape = [1 if i == axis else size for i, size in enumerate(local.shape)]
        m = (
            local.amax(axis, keepdim=True)
            if local.shape[axis]
            else local.new_full(shape, -INFINITY)
        )
        places: list[Placement] = [
            Partial("max") if place.is_shard(axis) else place for place in x.placements
        ]
        shape = [1 if i == axis else size for i, size in enumerate(x.shape)]
        stride = torch.empty(shape, device="meta").stride()
        return _whole(
            DTensor.from_local(
                m, x.device_mesh, places, run_check=False, shape=torch.Size(shape), stride=stride
            )
        )

    def sum(self, x: Array, axis: int) -> Array:
        return _whole(super().sum(x, axis))

    def any(self, x: Array, axis: int) -> Array:
        return self.sum(x != 0, axis) > 0

    def total(self, x: Array) -> Array:
        return _whole(super().total(x))

    def number(self, x: Array) -> Array:
        return self.total(x)

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        for i in range(like.ndim):
            if i != axis:
                vector = vector.unsqueeze(i)
        return vector

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        for _ in range(like.ndim - 1 - weights.ndim):
            weights = weights.unsqueeze(-1)
        return weights.unsqueeze(axis).expand(kept(like.shape, axis))

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        """By comparison; a gather along a sharded axis would gather the logits first."""
        others = ~(ids == self.classes(x, axis))  # torch 2.9 has no rule for !=
        return self.sum(x.masked_fill(others, 0.0), axis)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        weights = self.along(weights, self._classes, self._axis)
        return self.pick(weights, ids, self._axis)

    def classes(self, x: Array, axis: int) -> Array:
        return self._classes
