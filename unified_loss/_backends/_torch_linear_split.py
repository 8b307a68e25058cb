"""The linear form on PyTorch, of classes that are split over a process group.

Each process walks over its part of the weight. Where in the vocabulary that part is, the walk does
not know yet: the first reduction tells. So the logits of class ids are products of their own, one
a row. All processes have hidden, whose gradient is the sum of what each makes of it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch._C import _functorch

from unified_loss._backends import _torch_blocks as blocks
from unified_loss._backends import _torch_linear as linear
from unified_loss._backends._torch_ops import is_watched
from unified_loss._backends._torch_split import OPS
from unified_loss._examples import NAN, Examples, weights_of
from unified_loss._linear import _eager as eager
from unified_loss._linear import _split as split
from unified_loss._linear import _tiles as tiles
from unified_loss._linear import _two_steps as two_steps
from unified_loss._linear import _walks as walks
from unified_loss._ops import INFINITY
from unified_loss._split_classes import (
    LabelSums,
    Part,
    highest_label,
    labels_of,
    loss_and_gradient_of,
    loss_of,
    of_all,
    part_of,
    silent_rows,
    sums_of_labels,
    without_broken,
)
from unified_loss._statistics import Statistics, combine
from unified_loss._types import Array, Form, Head, Operands, Plan


class BlockOps(blocks.TorchBlockOps):
    """`WalkOps` whose gradient of hidden is that of all members."""

    def added_over_members(self, plan: Plan, x: Array) -> Array:
        return OPS.added(plan, x)


BLOCK_OPS = BlockOps(blocks.LONG_OF_ROWS)


def loss(form: Form, head: Head, operands: Operands, *, is_ordinary: bool) -> Array:
    """The loss, differentiable."""
    if not is_ordinary:
        return tiled(form, head, operands)
    if any(linear.wanted_of(head)):
        return _Loss.apply(form, *head, *operands[1:])
    return _walked(form, head, operands).loss()


def loss_and_gradients(
    form: Form, head: Head, operands: Operands, *, is_ordinary: bool
) -> tuple[Array, Head]:
    """The loss, and the gradients of its sum."""
    if not is_ordinary or any(linear.wanted_of(head)):
        from unified_loss._backends.torch import run  # which needs this package's form

        return loss_and_gradients_in_two_steps(run, form, head, operands)
    walked = _walked(form, head, operands)
    return walked.loss(), walked.gradients(eager.all_of(head))


class _Walked(NamedTuple):
    """A call whose statistics all members know."""

    field: eager.Field
    statistics: Statistics

    def loss(self) -> Array:
        return eager.loss_of(self.field, self.statistics)

    def gradients(self, wanted: eager.Wanted, slope: Array | None = None) -> Head:
        with torch.no_grad():
            return eager.gradients_of(self.field, self.statistics, wanted, slope)


def _walked(form: Form, head: Head, operands: Operands) -> _Walked:
    """The walk over the classes here, and the two reductions."""
    with torch.no_grad():
        flat = linear.flat_of(form, head, operands)
        plan, tour = flat.plan, walks.tour_of_part(form, *walks.sizes_of(head))
        known = flat.operands._replace(logits=OPS.hollow(plan, flat.head.hidden, flat.head.weight))
        field = _field(flat, tour, _before(plan, known), None)
        sums = _of_all_rows(field, eager.sums_of_tiles(field))
        highs = [highest_label(OPS, plan, known, t) for _, t in _label_rows(field)]
        high = None if None in highs or not highs else torch.cat(highs)
        m = split.highest_of(OPS, sums)
        part, high = part_of(OPS, plan, known, m, None, high)
        if plan.label_kind == "dense":
            of_labels = _sums_of_rows(field, part)
        else:
            of_labels = sums_of_labels(OPS, plan, part)
            sums = sums._replace(p=_terms_of_ids(field, part, sums))
        own = split.sums_of_walk(OPS, plan, part, of_labels, sums)
        total, number = OPS.added_over_all(plan, own, flat.sizes[1])
        examples, statistics, divisor = of_all(OPS, plan, known, part, high, total, number)
        field = _field(flat, tour, examples, divisor)
        if field.places is not None:
            statistics = Statistics._make(
                one if one is None else one[field.places, :] for one in statistics
            )
        return _Walked(field, statistics)


def _before(plan: Plan, operands: Operands) -> Examples:
    """What is known of the examples before the walk: of ids, that they are of no class so far."""
    num_classes, w, _ = weights_of(OPS, plan, operands)
    ids = None
    if plan.label_kind == "index":
        ids = operands.labels.new_full((*operands.labels.shape, 1), -1, dtype=torch.int64)
    dropped = silent_rows(OPS, plan, operands)
    return Examples(num_classes, ids, None, w, None, 1.0, 1.0, dropped, None)


def _field(
    flat: walks.Flat, tour: walks.Tour, examples: Examples, divisor: Array | None
) -> eager.Field:
    walk = blocks.any_walk(flat.plan)
    return eager.field_with(BLOCK_OPS, flat, tour, walk, examples, divisor)


def _of_all_rows(field: eager.Field, sums: tiles.Sums) -> tiles.Sums:
    """The sums of a walk that some rows took no part in, as if these had no class here."""
    places, number = field.places, field.flat.sizes[0]
    if places is None:
        return sums
    fills = tiles.Sums(-INFINITY, 0.0, 0.0, 0.0, 0.0, None)

    def spread(part: Any, fill: Any) -> Any:
        if part is None or fill is None:
            return part
        return part.new_full((number, 1), fill).index_copy_(0, places, part)

    return tiles.Sums._make(map(spread, sums, fills))


def _label_rows(field: eager.Field) -> Iterator[tuple[slice, Array]]:
    """Dense labels of all rows, a block at a time, in the compute dtype."""
    if field.flat.plan.label_kind == "dense":
        for rows in field.tour.blocks(field.flat.sizes[0]) or [slice(0, 0)]:
            yield rows, OPS.cast(field.flat.operands.labels[rows, :], field.dtype)


def _sums_of_rows(field: eager.Field, part: Part) -> LabelSums:
    """`sums_of_labels` of dense labels, a block of rows at a time."""
    found = []
    for rows, t in _label_rows(field):
        per_row = {
            name: getattr(part, name)[rows, :]
            for name in ("logits", "m", "lost", "silent")
            if getattr(part, name) is not None
        }
        found.append(sums_of_labels(OPS, field.flat.plan, part._replace(labels=t, **per_row)))
    whole = (None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True))
    # Those of class weights alone are one for all rows.
    return LabelSums._make(whole)._replace(weight=found[0].weight, weighing=found[0].weighing)


def _terms_of_ids(field: eager.Field, part: Part, sums: tiles.Sums) -> Array | None:
    """The logit of each class id less the largest one here; anything where it is not here."""
    if sums.p is None:
        return None
    number, classes, features = field.flat.sizes
    step = max(1, walks.TILE // max(1, features))
    rows = [slice(i, i + step) for i in range(0, number, step)] or [slice(0, 0)]
    if not classes:
        return sums.p
    return torch.cat([_terms(field.flat.form, field.flat.head, part, sums, each) for each in rows])


def _terms(form: Form, head: Head, part: Part, sums: tiles.Sums, rows: slice) -> Array:
    """These of some rows: a product that rounds as another one does is no larger than the most."""
    hidden, weight, bias = head
    dtype = form.plan.compute_dtype
    m = sums.m[rows, :].detach()
    ids = part.ids[rows, 0]
    ids = ids.masked_fill((ids < 0) | (ids >= len(weight)), 0)
    u = (OPS.cast(hidden[rows, :], dtype) * OPS.cast(weight[ids], dtype)).sum(1, keepdim=True)
    u = u if bias is None else u + OPS.cast(bias[ids], dtype)[:, None]
    found = two_steps.capped(OPS, form.softcap, u) - m.masked_fill(m == -INFINITY, 0.0)
    above = found.detach()
    return found - above.masked_fill(~(above > 0), 0.0)


class _Loss(torch.autograd.Function):
    """The walk for the loss, and the one for the gradients when they are asked for."""

    @staticmethod
    def forward(ctx: Any, form: Form, *arrays: Array | None) -> Array:
        walked = _walked(form, Head(*arrays[:3]), Operands(None, *arrays[3:]))
        ctx.save_for_backward(*arrays)  # what is saved may move elsewhere until then
        field, ctx.statistics = walked
        ctx.form, ctx.wanted = form, eager.Wanted(*ctx.needs_input_grad[1:4])
        ctx.known = field.examples, field.divisor, field.places
        value = walked.loss()
        return value.clone() if form.plan.reduction == "none" else value

    @staticmethod
    def backward(ctx: Any, *slopes: Array) -> Any:
        (slope,) = slopes
        arrays = ctx.saved_tensors
        form, head, operands = ctx.form, Head(*arrays[:3]), Operands(None, *arrays[3:])
        gradients: Any
        if torch.is_grad_enabled() or is_watched() or _functorch.is_legacy_batchedtensor(slope):
            gradients = linear.differentiable(tiled, form, head, operands, ctx.wanted, slope)
        else:
            with linear.as_given(head):
                flat = linear.flat_of(form, head, operands)
                field = _field(
                    flat,
                    walks.tour_of_part(form, *walks.sizes_of(head)),
                    Examples(*[None] * 9),
                    None,
                )
                examples, divisor, places = ctx.known
                field = field._replace(examples=examples, divisor=divisor, places=places)
                gradients = _Walked(field, ctx.statistics).gradients(ctx.wanted, slope)
        return None, *gradients, None, None, None, None


def tiled(form: Form, head: Head, operands: Operands) -> Array:
    """The loss as torch differentiates it, all rows and a tile of classes at a time."""
    flat = linear.flat_of(form, head, operands)
    plan = flat.plan
    bad, head = _shared(form, flat.head)
    flat = flat._replace(head=head)
    known = flat.operands._replace(logits=linear.hollow_of(form, head))
    examples = _before(plan, known)
    t = high = None
    if plan.label_kind == "dense":
        t = labels_of(OPS, plan, known, known.logits)
        high = highest_label(OPS, plan, known, t)
        w = known.class_weight
        w = None if w is None else OPS.cast(w, plan.compute_dtype)
        k, _ = without_broken(OPS, plan, Part(t, t, w, None, None, None, examples.dropped))
        k = k if examples.class_weight is None else examples.class_weight * k
        examples = examples._replace(weighted_labels=k)
    sums = linear.sums_of_tiles(flat, examples)
    m = split.highest_of(OPS, sums)
    m = m if bad is None else m.masked_fill(bad, INFINITY)
    part, high = part_of(OPS, plan, known, m, t, high)
    if not flat.sizes[1]:  # all members wait for the gradient of hidden here as well
        sums = sums._replace(s=sums.s + OPS.sum(OPS.affine(*head), 1))
    elif t is None and sums.p is not None:
        sums = sums._replace(p=_terms(flat.form, head, part, sums, slice(None)))
    own = split.sums_of_walk(OPS, plan, part, sums_of_labels(OPS, plan, part), sums)
    total, number = OPS.added_over_all(plan, own, flat.sizes[1])
    value = combine(OPS, plan, *of_all(OPS, plan, known, part, high, total, number))
    return value.reshape(flat.batch) if plan.reduction == "none" else value


class _Finite(torch.autograd.Function):
    """Hidden states, 0 in some rows, whose slopes they are: NaN where the loss is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Array, bad: Array) -> Array:
        return hidden.masked_fill(bad, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Array, Array], _hidden: Array) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(_ctx: Any, *slopes: Array) -> Any:
        return slopes[0], None

    @staticmethod
    def jvp(_ctx: Any, tangent: Array, _bad: None) -> Array:
        return tangent.clone()


def _shared(form: Form, head: Head) -> tuple[Array | None, Head]:
    """The head in the compute dtype, whose hidden all members have, and the rows that are lost.

    Which rows are dropped is not known to any member alone. Hidden states that are not finite are
    0 here, since they would be NaN in all gradients of a product; their rows have no logits.
    """
    hidden, weight, bias = two_steps.in_compute_dtype(OPS, form.plan, head)
    bad = None
    if two_steps.can_drop(form.plan):
        bad = OPS.any(~OPS.isfinite(hidden), -1)
        hidden = _Finite.apply(hidden, bad)
    return bad, Head(OPS.shared(form.plan, hidden), weight, bias)


def _logits(form: Form, head: Head) -> tuple[Array, Head]:
    """The logits of the classes here, and what they are made of."""
    bad, head = _shared(form, head)
    x = two_steps.capped(OPS, form.softcap, OPS.affine(*head))
    return x if bad is None else x + (0.0 * bad).masked_fill(bad, NAN), head


def loss_in_two_steps(run: Any, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, of logits that are made."""
    x, _ = _logits(form, head)
    return run(loss_of, OPS, form.plan, operands._replace(logits=x))


def loss_and_gradients_in_two_steps(
    run: Any, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss and the gradients of its sum, which are differentiable in turn."""
    x, known = _logits(form, head)
    operands = operands._replace(logits=x)
    value, slope = run(loss_and_gradient_of, OPS, form.plan, operands)
    found = two_steps.pulled_back(OPS, form, known, x, slope)
    found = found._replace(hidden=OPS.added(form.plan, found.hidden))
    return value, two_steps.cast_like(OPS, found, head)
