"""Classes that are split over a process group: plain tensors that hold those of this process."""

from typing import Any

import torch
from torch import distributed
from torch._C import _functorch
from torch.distributed.device_mesh import DeviceMesh

from unified_loss import _messages as messages
from unified_loss._backends._torch_compat import is_compiling
from unified_loss._backends._torch_ops import TorchOps, is_transformed
from unified_loss._ops import INFINITY
from unified_loss._split_classes import Part, Sums, local_sums, without_broken
from unified_loss._types import Array, Plan
from unified_loss.exceptions import BackendError, OptionError

_WANTED = "a torch ProcessGroup that this process is in, or a DeviceMesh of one axis"


def group_of(group: Any) -> Any:
    """The process group that a `class_group` stands for."""
    found = group
    if isinstance(group, DeviceMesh) and group.ndim == 1:
        found = group.get_group()
    if not isinstance(found, distributed.ProcessGroup) or distributed.get_rank(found) < 0:
        raise OptionError(messages.option("class_group", group, _WANTED))
    return found


def group_named(name: Any) -> Any:
    """The process group that a graph has by its name; anything else as it is."""
    groups: Any = distributed.distributed_c10d
    known = {group.group_name: group for group in groups._world.pg_map}  # noqa: SLF001
    return known.get(name, name) if isinstance(name, str) else name


class SplitOps(TorchOps):
    """`SplitOps` on PyTorch. What is sent to a group is one flat tensor."""

    def maxima_of_all(
        self, plan: Plan, rows: list[Array], size: int | None
    ) -> tuple[list[Array], Any]:
        group, sent = plan.class_group, rows
        rank = distributed.get_rank(group)
        if size is not None:  # each in a place of its own, since classes need not be split evenly
            sizes = rows[0].new_zeros(distributed.get_world_size(group))
            sizes[rank] = size
            sent = [*rows, sizes]
        found = _like(_reduced(_flat(sent), "max", group), sent)
        start = None if size is None else found.pop()[:rank].to(torch.int64).sum()
        return found, start

    def sums_of_all(self, plan: Plan, part: Part) -> tuple[Sums, Any]:
        *sums, size = _Sums.apply(plan, *part)
        return Sums(*sums), size.to(torch.int64)

    def added_over_all(self, plan: Plan, sums: Sums, size: int) -> tuple[Sums, Any]:
        sent = [*_present(sums), sums.e.new_full((1,), size)]
        *found, sizes = _like(self.added(plan, _flat(sent)), sent)
        return _filled(found, sums), sizes[0].detach().to(torch.int64)

    def added(self, plan: Plan, rows: Array) -> Array:
        """The sum over the members, each of which takes its slope as it is."""
        return _Added.apply(rows, plan.class_group)

    def shared(self, plan: Plan, rows: Array) -> Array:
        return _Shared.apply(rows, plan.class_group)

    def less(self, ids: Array, start: Any) -> Array:
        return ids.to(torch.int64) - start

    def factors(self, x: Array, m: Array, lost: Array) -> Array:
        return (x - m).masked_fill_(lost, 0.0)  # whose slope _Sums knows

    def exponential(self, x: Array) -> Array:
        return torch.exp(x) if _is_seen(x) else x.exp_()


OPS = SplitOps()


def _is_seen(slope: Array) -> bool:
    """Whether more than these numbers depends on what is done, which must be written anew."""
    is_mapped = is_transformed() or _functorch.is_legacy_batchedtensor(slope)
    return torch.is_grad_enabled() or is_mapped


def _flat(parts: list[Array]) -> Array:
    return torch.cat([part.reshape(-1) for part in parts])


def _like(flat: Array, parts: list[Array]) -> list[Array]:
    found = torch.split(flat, [part.numel() for part in parts])
    return [one.reshape(part.shape) for one, part in zip(found, parts, strict=True)]


def _reduced(flat: Array, operation: str, group: Any) -> Array:
    """The sum or the maximum over the members of a new tensor, which is given away."""
    refuse_mapped(flat, "logits")
    if is_compiling():
        functions = torch.ops._c10d_functional  # noqa: SLF001 (what a graph can hold)
        return functions.wait_tensor(functions.all_reduce(flat, operation, group.group_name))
    distributed.all_reduce(flat, getattr(distributed.ReduceOp, operation.upper()), group=group)
    return flat


def refuse_mapped(array: Array | None, name: str) -> None:
    """R25: `BackendError` for a tensor that a vectorizing map has in its hands."""
    while array is not None and _functorch.is_functorch_wrapped_tensor(array):
        if _functorch.is_batchedtensor(array):
            reason = "torch maps no reduction over processes; give the batch another axis"
            raise BackendError(messages.refused(name, "a tensor of torch.vmap", reason))
        array = _functorch.get_unwrapped(array)


class _Shared(torch.autograd.Function):
    """The same number on each member, whose slopes add up."""

    @staticmethod
    def forward(rows: Array, _group: Any) -> Array:
        return rows.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Any], _rows: Array) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        return _Added.apply(slopes[0], ctx.group), None

    @staticmethod
    def jvp(_ctx: Any, tangent: Array, _group: None) -> Array:
        return tangent.clone()


class _Added(torch.autograd.Function):
    """The sum over the members, each of which takes its slope as it is."""

    @staticmethod
    def forward(rows: Array, group: Any) -> Array:
        sent = rows.clone(memory_format=torch.contiguous_format)  # on all members alike
        return _reduced(sent, "sum", group)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Any], _rows: Array) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        return _Shared.apply(slopes[0], ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Array, _group: None) -> Array:
        return _Added.apply(tangent, ctx.group)


class _Sums(torch.autograd.Function):
    """The `local_sums` of all members, and the number of all classes.

    What is kept for its backward are the arguments of the call and a few numbers a row.
    """

    @staticmethod
    def forward(plan: Plan, *part: Any) -> tuple[Array | None, ...]:
        own = local_sums(OPS, plan, Part(*part))
        size = own.e.new_full((1,), part[0].shape[plan.axis])
        flat = _reduced(_flat([*_present(own), size]), "sum", plan.class_group)
        return (*_split(flat[:-1], own), flat[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], sums: tuple[Array | None, ...]) -> None:
        ctx.plan, *part = inputs
        ctx.mark_non_differentiable(sums[-1])
        ctx.save_for_backward(*part)
        ctx.save_for_forward(*part)

    @staticmethod
    def backward(ctx: Any, *slopes: Array | None) -> Any:
        given = _split(OPS.shared(ctx.plan, _flat(_present(slopes[:-1]))), slopes[:-1])
        wanted = ctx.needs_input_grad[1:4]
        found = _slopes(ctx.plan, Part(*ctx.saved_tensors), given, wanted)
        return None, *found, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _plan: None, *tangents: Array | None) -> Any:
        # The slopes are linear in those of the sums; this is their transpose.
        part = Part(*ctx.saved_tensors)
        wanted = tuple(tangent is not None for tangent in tangents[:3])
        sums = local_sums(OPS, ctx.plan, part)

        def slopes(given: list[Array]) -> list[Array]:
            return _present(_slopes(ctx.plan, part, _filled(given, sums), wanted))

        with torch.enable_grad():
            _, pull = torch.func.vjp(slopes, [torch.ones_like(one) for one in _present(sums)])
            (found,) = pull(_present(tangents[:3]))
        return (*_split(_Added.apply(_flat(found), ctx.plan.class_group), sums), None)


def _present(parts: Any) -> list[Array]:
    return [part for part in parts if part is not None]


def _split(flat: Array, like: Any) -> Sums:
    """One flat tensor as sums, those that `like` has."""
    return _filled(_like(flat, _present(like)), like)


def _filled(parts: list[Array], like: Any) -> Sums:
    """Sums of these parts, where `like` has any."""
    found = iter(parts)
    return Sums._make(None if part is None else next(found) for part in like)


def _slopes(plan: Plan, part: Part, given: Sums, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
    """The slopes in logits, labels and class weights here by those in the sums, in closed form.

    The operations can be differentiated in turn.
    """
    axis = plan.axis
    f = OPS.factors(OPS.cast(part.logits, plan.compute_dtype), part.m, part.lost)
    w = None if part.weight is None else OPS.along(part.weight, f, axis)
    t = k = None
    in_k: Any = None  # where it is asked for
    if part.labels is not None:
        t, _ = without_broken(OPS, plan, part)
        k = t if w is None else w * t
        if wanted[1] or wanted[2]:
            in_k = given.mass if given.p is None else given.mass + _by_factor(given.p, f, k)
    in_logits = in_labels = in_weight = None
    if wanted[1]:
        slope = in_k if w is None else in_k * w
        in_labels = (slope if given.total is None else slope + given.total).expand_as(f)
    if wanted[2]:
        in_weight = _in_weight(plan, part, given, f, w, None if t is None else in_k * t)
    if wanted[0]:
        in_logits = OPS.cast_like(_in_logits(plan, part, given, f, w, k), part.logits)
    return in_logits, in_labels, in_weight


def _in_logits(
    plan: Plan, part: Part, given: Sums, f: Array, w: Array | None, k: Array | None
) -> Array:
    """The slopes in the logits here; f is given away."""
    if _is_seen(given.e):
        slope = torch.exp(f) * given.e
        if given.p is not None:
            of_label = OPS.classes(f, plan.axis) == part.ids if k is None else k
            slope = slope + given.p * of_label
        return slope if given.q is None else slope + given.q * (1.0 if w is None else w)
    slope = f.exp_()
    slope *= given.e
    if given.p is not None and k is not None:
        slope.addcmul_(given.p, k)
    elif given.p is not None and f.shape[plan.axis]:
        is_other = (part.ids < 0) | (part.ids >= f.shape[plan.axis])
        ids, own = part.ids.masked_fill(is_other, 0), given.p.masked_fill(is_other, 0.0)
        slope.scatter_add_(plan.axis, ids, own)
    if given.q is not None:
        slope += given.q if w is None else given.q * w
    return slope


def _in_weight(
    plan: Plan, part: Part, given: Sums, f: Array, w: Array, of_labels: Array | None
) -> Array:
    """The slopes in the class weights here, some of which those in the labels tell."""
    terms = of_labels
    if terms is None:
        is_other = part.ids != OPS.classes(f, plan.axis)
        terms = OPS.where(is_other, 0.0, given.mass.expand_as(f))
    if given.q is not None:
        terms = terms + _by_factor(given.q, f, w)
    others = [axis for axis in range(f.ndim) if axis != plan.axis]
    slope = terms.sum(others) if others else terms
    return slope if given.weight is None else slope + given.weight.reshape(())


def _by_factor(slope: Array, f: Array, coefficient: Array) -> Array:
    """The slope of a coefficient of factors, of which -inf has none where something is 0."""
    nothing = (f == -INFINITY) & ((coefficient == 0) | (slope == 0))
    return slope * f.masked_fill(nothing, 0.0)
