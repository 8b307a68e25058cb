"""The linear form on PyTorch.

Ordinary tensors walk outside of autograd, in one function that knows its gradient. All others, and
second derivatives, are differentiated by torch: tile by tile, each made again for its backward.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._C import _functorch
from torch.utils.checkpoint import checkpoint

from unified_loss import _messages as messages
from unified_loss._backend import Backend, LinearRoute
from unified_loss._backends import _torch_blocks as blocks
from unified_loss._backends._torch_compat import is_compiling
from unified_loss._backends._torch_ops import (
    DTYPES,
    GRAPH_OPS,
    OPS,
    is_distributed,
    is_transformed,
    is_watched,
)
from unified_loss._examples import Examples, examples_and_divisor
from unified_loss._linear import _eager as eager
from unified_loss._linear import _two_steps as two_steps
from unified_loss._linear import _walks as walks
from unified_loss._linear._tiles import (
    Labels,
    Sums,
    added,
    judged,
    nothing,
    statistics_of,
    terms_of_tiles,
)
from unified_loss._statistics import combine, loss_and_gradient_of, loss_of
from unified_loss._sums import Sums as Totals
from unified_loss._sums import added_up, plan_of_own, sums_of
from unified_loss._types import Array, Form, Head, Operands, Plan
from unified_loss.exceptions import BackendError

_ORDINARY = frozenset({torch.Tensor, torch.nn.Parameter})


def loss(backend: Backend, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, differentiable."""
    if form.plan.route is not None and _is_one_product(form, head):
        logits = torch.nn.functional.linear(*head)
        return backend.loss(form.plan, Operands(logits, *operands[1:]))
    head, operands = _on_one_mesh(form, head, operands)
    with as_given(head):
        is_ordinary = _is_ordinary(form, head, operands)
        if form.plan.class_group is not None:
            return _split(head).loss(form, head, operands, is_ordinary=is_ordinary)
        if is_ordinary:
            wanted = wanted_of(head)
            tour = _tour(form, head, wanted)
            if tour is not None:
                if any(wanted):
                    return _Loss.apply(tour, form, *head, *operands[1:])
                return _walked(tour, form, head, operands, wanted)[0]
        elif _other_tour(form, head) is not None:
            return tiled(form, head, operands)
        return backend.loss(*_with_logits(form, head, operands, is_ordinary=is_ordinary))


def loss_and_gradients(
    backend: Backend, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss, and the gradients of its sum."""
    head, operands = _on_one_mesh(form, head, operands)
    with as_given(head):
        is_ordinary = _is_ordinary(form, head, operands)
        if form.plan.class_group is not None:
            return _split(head).loss_and_gradients(form, head, operands, is_ordinary=is_ordinary)
        if is_ordinary and not any(wanted_of(head)):
            wanted = eager.all_of(head)
            tour = _tour(form, head, wanted)
            if tour is not None:
                value, gradients, _ = _walked(tour, form, head, operands, wanted)
                return value, gradients
        plan, operands = _with_logits(form, head, operands, is_ordinary=is_ordinary)
        value, slope = backend.loss_and_gradient(plan, operands)
        return value, two_steps.gradients_of(OPS, form, head, operands, slope)


def sums(backend: Backend, form: Form, head: Head, operands: Operands) -> Totals:
    """What `Totals` holds; loss and nll are differentiable."""
    head, operands = _on_one_mesh(form, head, operands)
    with as_given(head):
        is_ordinary = _is_ordinary(form, head, operands)
        tour = _other_tour(form, head)
        if tour is not None and is_ordinary and not any(wanted_of(head)):
            with torch.no_grad():
                return eager.totals_of(_field(tour, form, head, operands))
        if tour is not None:
            return tiled_sums(form, head, operands)
        return backend.sums(*_with_logits(form, head, operands, is_ordinary=is_ordinary))


def deliver(backend: Backend, form: Form, head: Head, operands: Operands) -> Any | None:
    """The same, of no gradient, on its way to the host."""
    head, operands = _on_one_mesh(form, head, operands)
    with torch.no_grad(), as_given(head):
        if _other_tour(form, head) is not None:
            return backend.send(sums(backend, form, head, operands))
        is_ordinary = _is_ordinary(form, head, operands)
        return backend.deliver(*_with_logits(form, head, operands, is_ordinary=is_ordinary))


def traced_sums(run: Any, form: Form, head: Head, operands: Operands) -> Totals:
    """What `Totals` holds, for a graph."""
    with as_given(head):
        call = two_steps.with_logits(GRAPH_OPS, form, head, operands)
        found: Totals = run(sums_of, GRAPH_OPS, *call)
        return found


def traced_loss(run: Any, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, for a graph."""
    with as_given(head):
        if form.plan.class_group is not None:
            return _split(head).loss_in_two_steps(run, form, head, operands)
        return run(loss_of, GRAPH_OPS, *two_steps.with_logits(GRAPH_OPS, form, head, operands))


def traced_loss_and_gradients(
    run: Any, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss and the gradients of its sum, for a graph."""
    with as_given(head):
        if form.plan.class_group is not None:
            return _split(head).loss_and_gradients_in_two_steps(run, form, head, operands)
        plan, operands = two_steps.with_logits(GRAPH_OPS, form, head, operands)
        value, slope = run(loss_and_gradient_of, GRAPH_OPS, plan, operands)
        return value, two_steps.gradients_of(GRAPH_OPS, form, head, operands, slope)


def _is_one_product(form: Form, head: Head) -> bool:
    """Whether nothing but a product makes the logits of a familiar call in two steps.

    Nothing is cast, capped or dropped, nor would autocast cast it.
    """
    plan, (hidden, weight, bias) = form.plan, head
    if form.softcap is not None or two_steps.can_drop(plan):
        return False
    dtype = DTYPES[plan.compute_dtype]
    is_cast = not hidden.dtype == weight.dtype == (dtype if bias is None else bias.dtype) == dtype
    return not (is_cast or torch.is_autocast_enabled(hidden.device.type))


def as_given(head: Head) -> AbstractContextManager[Any]:
    """Where products are of the dtypes of what is multiplied (R28)."""
    device = head.hidden.device.type
    is_cast = torch.is_autocast_enabled(device) if device != "meta" else False
    return torch.autocast(device, enabled=False) if is_cast else nullcontext()


def _with_logits(
    form: Form, head: Head, operands: Operands, *, is_ordinary: bool
) -> tuple[Plan, Operands]:
    """The call of the logits, which is ordinary if all that they are made of is."""
    plan, operands = two_steps.with_logits(OPS, form, head, operands)
    return plan._replace(is_ordinary=is_ordinary), operands


def _is_ordinary(form: Form, head: Head, operands: Operands) -> bool:
    """Whether nothing but autograd's backward, of the head alone, has an eye on the call."""
    normalizer = operands.normalizer
    if normalizer is not None and normalizer.requires_grad and torch.is_grad_enabled():
        return False
    return form.plan.is_ordinary and all(
        part is None
        or (type(part) in _ORDINARY and part.layout is torch.strided and not part.is_neg())
        for part in (head.weight, head.bias, normalizer)
    )


def _other_tour(form: Form, head: Head) -> walks.Tour | None:
    """The walk by classes, None for two steps.

    Those of a `DTensor` make the logits that are here, and move no part of the weight as tiles,
    which cut the axis that is split, would have to.
    """
    if is_distributed(head.hidden):
        return None
    return walks.tour_of(form, *walks.sizes_of(head), in_one_pass=False)


def _on_one_mesh(form: Form, head: Head, operands: Operands) -> tuple[Head, Operands]:
    """The arguments; beside a `DTensor` of the head all others are replicas of one."""
    if form.plan.class_group is not None or not any(map(is_distributed, head)):
        return head, operands
    from unified_loss._backends import _dtensor  # which imports torch.distributed

    arrays = _dtensor.on_one_mesh(head._asdict() | operands._asdict())
    return Head(*arrays[:3]), Operands(*arrays[3:])


def _split(head: Head) -> Any:
    """The module for split classes, which imports torch.distributed."""
    from unified_loss._backends import _torch_linear_split
    from unified_loss._backends._torch_split import refuse_mapped

    for name, part in head._asdict().items():
        refuse_mapped(part, name)
        if is_distributed(part):
            reason = "it tells how its classes are split; leave class_group out"
            raise BackendError(messages.refused(name, "a DTensor", reason))
    return _torch_linear_split


def wanted_of(head: Head) -> eager.Wanted:
    """Which gradients autograd may ask for."""
    is_recorded = torch.is_grad_enabled()
    return eager.Wanted(*(part is not None and part.requires_grad and is_recorded for part in head))


def route(form: Form, head: Head) -> LinearRoute:
    """How an eager call of ordinary tensors goes, by their `Spec`s."""
    plan, sizes = form.plan, walks.sizes_of(head)
    if plan.class_group is not None:
        tour = walks.tour_of_part(form, *sizes)
        return LinearRoute(tour, tour)
    in_one_pass = walks.fits_one_pass(plan, head, plan.compute_dtype)
    return LinearRoute(
        walks.tour_of(form, *sizes, in_one_pass=False),
        walks.tour_of(form, *sizes, in_one_pass=in_one_pass),
    )


def _tour(form: Form, head: Head, wanted: eager.Wanted) -> walks.Tour | None:
    plan = form.plan
    in_one_pass = any(wanted) and walks.fits_one_pass(plan, head, DTYPES[plan.compute_dtype])
    return walks.tour_of(form, *walks.sizes_of(head), in_one_pass=in_one_pass)


def flat_of(form: Form, head: Head, operands: Operands) -> walks.Flat:
    """The call with one axis of examples, and class ids that have a sign."""
    flat = walks.flattened(blocks.OPS, form, head, operands)
    if flat.plan.label_kind == "index" and flat.operands.labels.dtype in _UNSIGNED:
        labels = flat.operands.labels.to(torch.int64)
        flat = flat._replace(operands=flat.operands._replace(labels=labels))
    return flat


def _field(tour: walks.Tour, form: Form, head: Head, operands: Operands) -> eager.Field:
    flat = flat_of(form, head, operands)
    return eager.field_of(blocks.OPS, flat, tour, blocks.any_walk(flat.plan))


_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


def _walked(
    tour: walks.Tour, form: Form, head: Head, operands: Operands, wanted: eager.Wanted
) -> tuple[Array, Any, Any]:
    """The loss, the gradients that are wanted, and the statistics of a walk by classes."""
    with torch.no_grad():
        field = _field(tour, form, head, operands)
        if tour.by == "rows":
            return *eager.loss_and_gradients_in_one_pass(field, wanted), None
        statistics = eager.statistics_of(field)
        gradients = eager.gradients_of(field, statistics, wanted) if any(wanted) else None
        return eager.loss_of(field, statistics), gradients, statistics


class _Loss(torch.autograd.Function):
    """The walk for the loss, by rows with the gradients; else they are made when asked for."""

    @staticmethod
    def forward(ctx: Any, tour: walks.Tour, form: Form, *arrays: Array | None) -> Array:
        head, operands = Head(*arrays[:3]), Operands(None, *arrays[3:])
        wanted = eager.Wanted(*ctx.needs_input_grad[2:5])
        if tour.by == "rows":
            value, ctx.gradients, ctx.statistics = _walked(tour, form, head, operands, wanted)
        else:
            value, _, ctx.statistics = _walked(tour, form, head, operands, eager.NONE)
            ctx.gradients = None
        ctx.save_for_backward(*arrays)  # what is saved may move elsewhere until then
        ctx.tour, ctx.form, ctx.wanted = tour, form, wanted
        return value.clone() if form.plan.reduction == "none" else value

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        (slope,) = slopes
        gradients: Any
        arrays = ctx.saved_tensors
        head, operands = Head(*arrays[:3]), Operands(None, *arrays[3:])
        if torch.is_grad_enabled() or is_watched() or _functorch.is_legacy_batchedtensor(slope):
            gradients = differentiable(tiled, ctx.form, head, operands, ctx.wanted, slope)
        elif ctx.tour.by == "classes":
            with as_given(head):
                field = _field(ctx.tour, ctx.form, head, operands)
                gradients = eager.gradients_of(field, ctx.statistics, ctx.wanted, slope)
        else:
            gradients, ctx.gradients = ctx.gradients, None  # given away: no copy is kept
            if gradients is None:
                _, gradients, _ = _walked(ctx.tour, ctx.form, head, operands, ctx.wanted)
            if slope.item() != 1:
                gradients = [None if part is None else part.mul_(slope) for part in gradients]
        return None, None, *gradients, None, None, None, None


def differentiable(
    loss: Callable[[Form, Head, Operands], Array],
    form: Form,
    head: Head,
    operands: Operands,
    wanted: eager.Wanted,
    slope: Array,
) -> list[Array | None]:
    """The gradients, by torch, of which it can make further ones."""
    inputs = [part for part, is_wanted in zip(head, wanted, strict=True) if is_wanted]
    with torch.enable_grad(), as_given(head):
        value = loss(form, head, operands)
        found = iter(torch.autograd.grad(value, inputs, slope, create_graph=True))
    return [next(found) if is_wanted else None for is_wanted in wanted]


def tiled(form: Form, head: Head, operands: Operands) -> Array:
    """The loss as torch differentiates it, all rows and a tile of classes at a time."""
    flat, examples, known = _seen(form, head, operands)
    plan = flat.plan
    found = statistics_of(OPS, examples, sums_of_tiles(flat, examples))
    examples, divisor, statistics = judged(OPS, plan, examples, known, found)
    value = combine(OPS, plan, examples, statistics, divisor)
    return value.reshape(flat.batch) if plan.reduction == "none" else value


def tiled_sums(form: Form, head: Head, operands: Operands) -> Totals:
    """What `Totals` holds, in the same way."""
    flat, examples, known = _seen(form, head, operands)
    plan, own = flat.plan, plan_of_own(flat.plan)
    seen, first = examples, flat
    if own is not plan:
        first = flat._replace(form=flat.form._replace(plan=own))
        seen, _ = examples_and_divisor(OPS, own, known._replace(class_weight=None))
    highest = None
    if plan.label_kind == "dense":
        highest = OPS.max(OPS.cast(known.labels.detach(), plan.compute_dtype), 1)
    sums = sums_of_tiles(first, seen, highest)
    whole = sums if own is plan else sums_of_tiles(flat, examples)
    found = statistics_of(OPS, examples, whole)
    examples, _, statistics = judged(OPS, plan, examples, known, found)
    return added_up(OPS, plan, examples, statistics, *terms_of_tiles(plan, sums, found))


def _seen(form: Form, head: Head, operands: Operands) -> tuple[walks.Flat, Examples, Operands]:
    """A call laid out flat in the compute dtype, its examples, and what those come from."""
    ops: Any = OPS
    flat = walks.flattened(ops, form, head, operands)
    plan = flat.plan
    if plan.label_kind == "index":
        labels = flat.operands.labels.to(torch.int64)
        flat = flat._replace(operands=flat.operands._replace(labels=labels))
    hidden, weight, bias = two_steps.in_compute_dtype(ops, plan, flat.head)
    known = flat.operands._replace(logits=hollow_of(flat.form, Head(hidden, weight, bias)))
    plan, hidden, known = two_steps.without_garbage(ops, plan, hidden, known)
    flat = flat._replace(form=flat.form._replace(plan=plan), head=Head(hidden, weight, bias))
    examples, _ = examples_and_divisor(ops, plan, known)
    return flat, examples, known


def hollow_of(form: Form, head: Head) -> Array:
    """The logits of hidden states of 0: the shape of all, and which classes are masked.

    A zero label on these has no gradient (R18).
    """
    hidden, weight, bias = head
    if bias is None or form.softcap is not None:  # below which no logit is infinite
        return OPS.hollow(form.plan, hidden, weight)
    return bias.detach().expand(len(hidden), len(bias))


def sums_of_tiles(flat: walks.Flat, examples: Examples, highest: Array | None = None) -> Sums:
    """The sums over all classes; `highest`: the largest of each label row."""
    ops: Any = OPS
    form, plan, (hidden, weight, bias) = flat.form, flat.plan, flat.head
    number, classes_, _ = flat.sizes
    step = walks.classes_of_all_rows(number)
    zero = hidden.new_zeros(()).expand(number, 1)
    sums = nothing(plan, zero, has_top=highest is not None)
    k, w = examples.weighted_labels, examples.class_weight
    for start in range(0, classes_, step):
        stop = min(start + step, classes_)
        ids = inside = None
        if examples.ids is not None:
            ids = examples.ids - start
            inside = (ids >= 0) & (ids < stop - start)
            ids = ids.masked_fill(~inside, 0)

        def tile(
            sums: Sums, hidden: Array, weight: Array, bias: Array | None, labels: Labels
        ) -> Sums:
            x = two_steps.capped(ops, form.softcap, ops.affine(hidden, weight, bias))
            return added(ops, sums, x, labels)

        labels = Labels(
            ids,
            inside,
            None if k is None else k[:, start:stop],
            None if w is None else w[:, start:stop],
            float(stop - start),
            None if k is None or highest is None else k[:, start:stop] == highest,
        )
        part = None if bias is None else bias[start:stop]
        sums = _again(tile)(sums, hidden, weight[start:stop], part, labels)
    return sums


def _again(function: Callable[..., Sums]) -> Callable[..., Sums]:
    """The function, run again for its backward where torch can do that."""
    if is_transformed() or is_compiling() or not torch.is_grad_enabled():
        return function

    def run(*arguments: Any) -> Sums:
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)

    return run
