"""The linear form on JAX, a block of classes at a time.

The statistics over all classes are one function, whose derivative is a scan like its own, of which
a body is made again for the backward. So nothing of the logits' size is kept, in any derivative.

Where there are several devices the blocks are strided: the k-th of K holds the classes k, k + K,
k + 2 K and so on, of each of as many equal parts of the classes as a mesh may split them into. An
axis that is split stays so; blocks of neighbors, or uneven ones, would be gathered. Nor are rows
laid out in one axis there, as a batch can be split along any.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from unified_loss._backend import LinearRoute
from unified_loss._backends._jax_operands import beside_rows, whole, with_whole_features
from unified_loss._examples import Examples, either, examples_and_divisor
from unified_loss._linear import _walks as walks
from unified_loss._linear._tiles import Sums, judged
from unified_loss._linear._two_steps import in_compute_dtype, without_garbage
from unified_loss._ops import INFINITY
from unified_loss._statistics import Statistics, combine
from unified_loss._sums import Sums as Totals
from unified_loss._sums import added_up, plan_of_own
from unified_loss._types import Array, Form, Head, Operands

UNEVEN = 4  # how many times as many blocks may be taken for even ones


class Given(NamedTuple):
    """What the statistics are a function of; absent parts are None."""

    hidden: Array
    weight: Array
    bias: Array | None
    t: Array | None  # dense labels, (N, C)
    w: Array | None  # class weights, (C,)


class Layout(NamedTuple):
    """How the classes are laid out in blocks, and what is asked of them."""

    blocks: int
    size: int  # of a block
    classes: int
    strided: bool
    softcap: float | None
    has_p: bool
    has_q: bool
    has_top: bool = False
    is_part: bool = False  # of the classes: there may be none that is not masked
    parts: int = 1  # equal ones of the classes, of each of which a strided block has as many

    @property
    def is_padded(self) -> bool:
        """Whether the last places of some block hold no class."""
        return self.blocks * self.size != self.classes

    def cut(self, x: Array) -> Array:
        """Rows of classes as blocks of them, one below the other."""
        dealt = jnp.moveaxis(self._dealt(x, 0), 2 if self.strided else 1, 0)
        return dealt.reshape(self.blocks, self.size, *x.shape[1:])

    def columns(self, x: Array, block: Array) -> Array:
        """The columns of a block, where all columns are those of the classes."""
        axis = x.ndim - 1
        dealt = self._dealt(x, axis)
        dealt = lax.dynamic_index_in_dim(dealt, block, axis + 1 + self.strided, keepdims=False)
        return dealt.reshape(*x.shape[:-1], self.size)

    def ids(self, block: Array, like: Array, dtype: Any) -> Array:
        """The class ids of a block, in one row of `like`; C where there is no class."""
        place = lax.broadcasted_iota(dtype, (1,) * (like.ndim - 1) + like.shape[-1:], like.ndim - 1)
        block = block.astype(dtype)
        if not self.strided:
            return block * self.size + place
        own, each = self.size // self.parts, self.classes // self.parts
        inside = place % own * self.blocks + block
        return jnp.where(inside < each, place // own * each + inside, self.classes)

    def _dealt(self, x: Array, axis: int) -> Array:
        """The axis of classes as three: of parts, and of blocks before or behind their places."""
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = x.reshape(*before, self.parts, self.classes // self.parts, *after)
        missing = (self.blocks * self.size - self.classes) // self.parts
        if missing:
            x = jnp.pad(x, [(0, missing if i == axis + 1 else 0) for i in range(x.ndim)])
        own = self.size // self.parts
        pair = (own, self.blocks) if self.strided else (self.blocks, own)
        return x.reshape(*before, self.parts, *pair, *after)


def layout_of(form: Form, head: Head) -> Layout | None:
    """The blocks of a call, None for two steps."""
    hidden, weight, _ = head
    plan, classes = form.plan, weight.shape[0]
    is_part, is_known = plan.class_group is not None, isinstance(classes, int)
    devices = 1 if is_part else len(jax.devices())
    rows = [size if isinstance(size, int) else None for size in hidden.shape[:-1]]
    number = walks.TILE_ROWS if None in rows else walks.sizes_of(head)[0]
    features = weight.shape[1] if isinstance(weight.shape[1], int) else 0
    size, blocks, parts = classes, 1, 1
    if is_known and walks.tour_of(form, number, classes, features, in_one_pass=False) is not None:
        parts = math.gcd(classes, devices)
        least = min(-(-classes // walks.classes_of_all_rows(number)), classes // parts)
        even = (n for n in range(least, UNEVEN * least + 1) if classes // parts % n == 0)
        blocks = next(even, least)
        size = parts * -(-classes // (parts * blocks))
    elif not is_part:
        return None
    return Layout(
        blocks=blocks,
        size=size,
        classes=classes,
        strided=devices > 1,
        softcap=form.softcap,
        has_p=plan.label_smoothing != 1,
        has_q=plan.label_smoothing != 0,
        is_part=is_part,
        parts=parts,
    )


def route(form: Form, head: Head) -> LinearRoute:
    """How a call goes, by the `Spec`s of its head."""
    layout = layout_of(form, head)
    if layout is None:
        return LinearRoute()
    tour = walks.Tour("classes", walks.sizes_of(head)[0], layout.size)
    is_moved = layout.is_padded or layout.strided
    return LinearRoute(tour, tour, tiles=(2, 2), casts_all=True, keeps_weight=is_moved)


def loss_of(ops: Any, layout: Layout, form: Form, head: Head, operands: Any) -> Array:
    """The loss, differentiable in every argument."""
    flat, examples, known = _seen(ops, _laid_out(ops, layout, form, head, operands))
    plan = flat.plan
    found, _ = _statistics_of(layout, flat, examples, known)
    examples, divisor, settled = judged(ops, plan, examples, known, found)
    value = combine(ops, plan, examples, settled, divisor)
    return value.reshape(flat.batch) if plan.reduction == "none" else value


def sums_of(ops: Any, layout: Layout, form: Form, head: Head, operands: Any) -> Totals:
    """What `Totals` holds, differentiable as the loss is."""
    flat, examples, known = _seen(ops, _laid_out(ops, layout, form, head, operands))
    plan, own = flat.plan, plan_of_own(flat.plan)
    first, has_top = layout, plan.label_kind == "dense"
    if own is not plan:
        first = layout._replace(has_p=True, has_q=False)
    alone = flat._replace(form=flat.form._replace(plan=own))
    terms, top = _statistics_of(first._replace(has_top=has_top), alone, examples, known)
    found = terms if own is plan else _statistics_of(layout, flat, examples, known)[0]
    examples, _, settled = judged(ops, plan, examples, known, found)
    hit = terms.p == 0 if top is None else top == terms.m
    return added_up(ops, plan, examples, settled, terms.p, hit)


def _laid_out(ops: Any, layout: Layout, form: Form, head: Head, operands: Operands) -> walks.Flat:
    """A call with one axis of examples, or with all of them where a mesh may split any."""
    if layout.strided:
        return walks.Flat(form, head, operands, tuple(head.hidden.shape[:-1]))
    return walks.flattened(ops, form, head, operands)


def _seen(ops: Any, flat: walks.Flat) -> tuple[walks.Flat, Examples, Operands]:
    """A call in the compute dtype, its examples, and what those come from."""
    head = in_compute_dtype(ops, flat.plan, flat.head)
    known = flat.operands._replace(logits=hollow_of(flat.form, head))
    plan, hidden, known = without_garbage(ops, flat.plan, head.hidden, known)
    examples, _ = examples_and_divisor(ops, plan, known)
    form, head = flat.form._replace(plan=plan), head._replace(hidden=hidden)
    return flat._replace(form=form, head=head), examples, known


def hollow_of(form: Form, head: Head) -> Array:
    """The logits of hidden states of 0: the shape of all, and which classes are masked.

    A zero label on these has no gradient (R18).
    """
    hidden, weight, bias = head
    row = jnp.zeros((), hidden.dtype)
    if bias is not None and form.softcap is None:  # below which no logit is infinite
        row = whole(lax.stop_gradient(bias))  # beside labels that are split in any way
    return jnp.broadcast_to(row, (*hidden.shape[:-1], weight.shape[0]))


def _statistics_of(
    layout: Layout, flat: walks.Flat, examples: Examples, known: Operands
) -> tuple[Statistics, Array | None]:
    """What `statistics` has of a call, with m a constant."""
    plan = flat.plan
    t: Any = None
    w: Any = None
    if plan.label_kind == "dense" and layout.has_p:
        t = known.labels.astype(plan.compute_dtype)
        if examples.sample_weight is not None and examples.dropped is not None:
            garbage = examples.dropped & ~jnp.isfinite(lax.stop_gradient(t))
            t = jnp.where(garbage, 0.0, t)  # R30: whatever such labels hold
    if plan.class_weight and (layout.has_q or t is not None):
        w = jnp.asarray(known.class_weight, plan.compute_dtype)
    ids = examples.ids if layout.has_p else None
    found, top = statistics(layout, Given(*flat.head, t, w), ids, examples.dropped)
    return found._replace(m=lax.stop_gradient(found.m)), top


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def statistics(
    layout: Layout, given: Given, ids: Array | None, dropped: Array | None
) -> tuple[Statistics, Array | None]:
    """The statistics of all classes, of which m is a constant; `dropped` has no slope if dead.

    And the largest logit of each row in a place of its largest label, also a constant.
    """
    hidden, _, _, t, _ = given
    nothing = _nothing(given)
    sums = Sums(
        nothing - INFINITY,
        nothing,
        nothing if layout.has_p else None,
        nothing if layout.has_q else None,
        nothing if t is not None else None,
        nothing if layout.has_q else None,
        nothing - INFINITY if layout.has_top and t is not None else None,
    )
    largest = None if sums.top is None else jnp.max(t, -1, keepdims=True)

    def add(sums: Sums, block: Any) -> tuple[Sums, None]:
        x, hit, k, w, valid = _tile(layout, t, ids, *_together(hidden, block))
        highest = jnp.max(x, -1, keepdims=True)
        m = jnp.maximum(sums.m, highest)
        shift = jnp.where(m == -INFINITY, 0.0, m)
        f = x - shift
        moved = jnp.where(sums.m == m, 0.0, sums.m - shift)
        s = sums.s * jnp.exp(moved) + _sum(jnp.exp(f))
        p, q, mass, total = sums.p, sums.q, sums.mass, sums.weight
        if hit is not None:
            p = p + _sum(jnp.where(hit, x, 0.0))
        if k is not None:
            p = p + _times(mass, moved) + _sum(k * _muted(k, f))
            mass = mass + _sum(k)
        if layout.has_q:
            ones = _class_weights(x, w, valid)
            q = q + _times(total, moved) + _sum(ones * _muted(ones, f))
            total = total + _sum(ones)
        top = sums.top
        if top is not None:
            is_top = t_of(layout, t, block) == largest
            top = jnp.maximum(top, jnp.max(jnp.where(is_top, x, -INFINITY), -1, keepdims=True))
        return Sums(m, s, p, q, mass, total, top), None

    sums, _ = lax.scan(add, sums, _blocks(layout, given, hidden.ndim))
    l = jnp.log(sums.s)
    m = jnp.where(sums.m == -INFINITY, 0.0, sums.m)
    p = sums.p - m if ids is not None else sums.p
    return Statistics(m, l, p, sums.q), sums.top


@partial(statistics.defjvp, symbolic_zeros=True)
def _statistics_jvp(layout: Layout, primals: Any, tangents: Any) -> Any:
    given, ids, dropped = primals
    found, top = statistics(layout, given, ids, dropped)
    changes = Given(*(None if isinstance(one, SymbolicZero) else one for one in tangents[0]))
    m, dead = lax.stop_gradient(found.m), _dead(layout, found, dropped)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(hidden: Array, dh: Any, t: Any, dt: Any, l: Array, block: Any, change: Any) -> Any:
        hidden, block = _together(hidden, block)
        x, hit, k, w, valid = _tile(layout, t, ids, hidden, block)
        _, weight, *_ = block
        _, dweight, dbias, dw = change
        dweight = beside_rows(hidden, dweight)
        f = x - m
        e = jnp.exp(f - l)
        e = e if dead is None else jnp.where(dead, 0.0, e)
        dx = _change_of_logits(layout, x, (hidden, weight), (dh, dweight, dbias))
        dl, dp, dq = _sum(e * dx), None, None
        if hit is not None:
            dp = _sum(jnp.where(hit, dx, 0.0))
        if k is not None:
            dp = _sum(k * dx)
            dk = _product_change(t_of(layout, t, block), w, t_of(layout, dt, block), dw)
            if dk is not None:
                dp = dp + _sum(dk * _quiet(_muted(k, f), dead))
        if layout.has_q:
            ones = _class_weights(x, w, valid)
            dq = _sum(ones * dx)
            if dw is not None:
                dq = dq + _sum(dw * _quiet(_muted(ones, f), dead))
        return dl, dp, dq

    def walk(changes: Given) -> Any:
        def step(carry: Any, blocks: Any) -> Any:
            block, change = blocks
            more = body(given.hidden, changes.hidden, given.t, changes.t, found.l, block, change)
            return jax.tree.map(jnp.add, carry, more), None

        zero = _nothing(given)
        start = (zero, zero if layout.has_p else None, zero if layout.has_q else None)
        parts = (_blocks(layout, each, given.hidden.ndim) for each in (given, changes))
        return lax.scan(step, start, tuple(parts))[0]

    # The walk is linear; to be turned, a scan has to know, which until JAX 0.10 only jvp told it.
    _, (dl, dp, dq) = jax.jvp(walk, (jax.tree.map(jnp.zeros_like, changes),), (changes,))
    change = Statistics(jnp.zeros_like(found.m), dl, dp, dq)
    return (found, top), (change, None if top is None else jnp.zeros_like(top))


def _dead(layout: Layout, found: Statistics, dropped: Array | None) -> Array | None:
    """Rows without a slope."""
    m, l = (lax.stop_gradient(part) for part in found[:2])
    dead = None if dropped is None else dropped & ~jnp.isfinite(l + m)
    return either(dead, l == -INFINITY) if layout.is_part else dead


def _blocks(layout: Layout, given: Given, ndim: int) -> Any:
    """What the scan goes through: the number of a block, its rows of weight, and its vectors.

    These run along the last of so many axes.
    """
    weight, bias, w = (
        None if part is None else layout.cut(part) for part in (given.weight, given.bias, given.w)
    )
    rows = (v if v is None else jnp.expand_dims(v, tuple(range(1, ndim))) for v in (bias, w))
    return (jnp.arange(layout.blocks), weight, *rows)


def _together(hidden: Array, block: Any) -> tuple[Array, Any]:
    """Hidden and a block, as they can be multiplied on a mesh."""
    number, weight, *vectors = block
    hidden, weight = with_whole_features(hidden, beside_rows(hidden, weight))
    return hidden, (number, weight, *vectors)


def _tile(layout: Layout, t: Any, ids: Any, hidden: Array, block: Any) -> Any:
    """The logits of a block, where the labels are, K, class weights, and where classes are."""
    number, weight, bias, w = block
    u = _products(hidden, weight)
    u = u if bias is None else u + bias
    x = u if layout.softcap is None else layout.softcap * jnp.tanh(u / layout.softcap)
    hit = k = valid = None
    if ids is not None:
        hit = layout.ids(number, x, ids.dtype) == ids
    if layout.is_padded:
        valid = layout.ids(number, x, jnp.int32) < layout.classes
        x = jnp.where(valid, x, -INFINITY)
    if t is not None:
        k = t_of(layout, t, block)
        k = k if w is None else w * k
    return x, hit, k, w, valid


def t_of(layout: Layout, t: Any, block: Any) -> Any:
    """The dense labels of a block."""
    return None if t is None else layout.columns(t, block[0])


def _change_of_logits(layout: Layout, x: Array, given: Any, changes: Any) -> Array:
    """How the logits of a block change; what does not change costs no product."""
    (hidden, weight), (dh, dweight, dbias) = given, changes
    dx = jnp.zeros((), x.dtype)
    if dh is not None:
        dx = dx + _products(dh, weight)
    if dweight is not None:
        dx = dx + _products(hidden, dweight)
    if dbias is not None:
        dx = dx + dbias
    if layout.softcap is not None:
        dx = dx * (1 - (x / layout.softcap) * (x / layout.softcap))
    return jnp.broadcast_to(dx, x.shape)


def _products(rows: Array, classes: Array) -> Array:
    """The product of each row and each class, whose features are last in both.

    A matrix that is turned first would be another one to a partitioner, and be gathered apart from
    the one that gradients take.
    """
    return lax.dot_general(rows, classes, (((rows.ndim - 1,), (1,)), ((), ())))


def _class_weights(x: Array, w: Array | None, valid: Array | None) -> Array:
    ones = jnp.ones((1,) * (x.ndim - 1) + x.shape[-1:], x.dtype) if w is None else w
    return ones if valid is None else jnp.where(valid, ones, 0.0)


def _product_change(t: Any, w: Any, dt: Any, dw: Any) -> Any:
    """How K = w t changes; None: not at all."""
    change = None
    if dt is not None:
        change = dt if w is None else w * dt
    if dw is not None:
        more = t * dw
        change = more if change is None else change + more
    return change


def _nothing(given: Given) -> Array:
    """Zeros, one a row, that vary over the devices as the logits do."""
    hidden, weight, *_ = given
    is_there = jnp.any(hidden == hidden, -1, keepdims=True) | jnp.any(weight == weight)  # noqa: PLR0124
    return is_there.astype(hidden.dtype) * 0


def _sum(x: Array) -> Array:
    return jnp.sum(x, -1, keepdims=True)


def _times(coefficient: Array, moved: Array) -> Array:
    return jnp.where(coefficient == 0, 0.0, coefficient * moved)


def _muted(weights: Array, f: Array) -> Array:
    """Factors, with 0 in place of a -inf that a weight of 0 multiplies."""
    return jnp.where((weights == 0) & (f == -INFINITY), 0.0, f)


def _quiet(f: Array, dead: Array | None) -> Array:
    return f if dead is None else jnp.where(dead, 0.0, f)
