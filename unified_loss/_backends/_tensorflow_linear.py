"""The linear form on TensorFlow, with class ids: a tile of classes at a time.

The statistics have a backward made by hand, which walks again. Both walks are loops of a graph,
whose bodies no compiler merges, over inputs that no tape records; tiles have static sizes, as XLA
wants them. The last one begins so early that it is whole, and leaves out what was seen before.

The backward has one of its own, for second derivatives and forward mode: there the logits are made.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from unified_loss._backend import LinearRoute
from unified_loss._backends._tensorflow_statistics import masked_as_zero
from unified_loss._examples import Examples, examples_and_divisor
from unified_loss._linear import _walks as walks
from unified_loss._linear._tiles import judged
from unified_loss._linear._two_steps import in_compute_dtype, without_garbage
from unified_loss._ops import INFINITY
from unified_loss._statistics import Statistics, combine
from unified_loss._sums import Sums as Totals
from unified_loss._sums import added_up, plan_of_own
from unified_loss._types import Array, Form, Head, Operands, Plan


def size_of_tiles(form: Form, head: Head) -> int | None:
    """How many classes a tile has; None for two steps."""
    hidden, weight, _ = head
    classes, features = weight.shape[0], weight.shape[1]
    if classes is None or features is None or hidden.shape.rank is None:
        return None
    if form.plan.label_kind == "dense":
        return None  # which are as large as the logits
    number = hidden.shape[:-1].num_elements()
    number = walks.TILE_ROWS if number is None else number
    tour = walks.tour_of(form, number, classes, features, in_one_pass=False)
    if tour is None:
        return None
    size = min(classes, walks.classes_of_all_rows(number))
    return -(-classes // -(-classes // size))


def route(form: Form, head: Head) -> LinearRoute:
    """How a call goes, by the `Spec`s of its head."""
    parts = (None if part is None else tf.TensorSpec(part.shape, part.dtype) for part in head)
    size = size_of_tiles(form, Head(*parts))
    if size is None:
        return LinearRoute()
    tour = walks.Tour("classes", walks.sizes_of(head)[0], size)
    return LinearRoute(tour, tour, tiles=(3, 4), casts_all=True, keeps_weight=True)


def loss_of(ops: Any, size: int, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, differentiable in hidden, weight and bias, and in the weights of the loss."""
    batch = tf.shape(head.hidden)[:-1]
    ops, plan, given, known = _flattened(ops, form, head, operands)
    examples, _ = examples_and_divisor(ops, plan, known)
    found = _statistics_of(size, form.softcap, plan, given, known, examples)
    examples, divisor, found = judged(ops, plan, examples, known, found)
    value = combine(ops, plan, examples, found, divisor)
    if plan.reduction == "none":
        value = tf.reshape(value, batch)
        value.set_shape(head.hidden.shape[:-1])
    return _never_minus_zero(value)


def sums_of(ops: Any, size: int, form: Form, head: Head, operands: Operands) -> Totals:
    """What `Totals` holds, differentiable as the loss is."""
    ops, plan, given, known = _flattened(ops, form, head, operands)
    examples, _ = examples_and_divisor(ops, plan, known)
    own = plan_of_own(plan)
    terms = _statistics_of(size, form.softcap, own, given, known, examples)
    found = terms
    if own is not plan:
        found = _statistics_of(size, form.softcap, plan, given, known, examples)
    examples, _, found = judged(ops, plan, examples, known, found)
    loss, *others = added_up(ops, plan, examples, found, terms.p, terms.p == 0)
    return (_never_minus_zero(loss), *others)


def _never_minus_zero(value: Array) -> Array:
    # Compilers drop an addition of 0, which makes 0 of -0; this is one, but for NaN.
    return value + tf.cast(tf.math.is_nan(value), value.dtype)


def _flattened(
    ops: Any, form: Form, head: Head, operands: Operands
) -> tuple[Any, Plan, Head, Operands]:
    """A call whose examples have one axis, in the compute dtype."""
    plan = form.plan
    batch = tf.shape(head.hidden)[:-1]
    labels = operands.labels
    if plan.label_kind == "index":
        labels = tf.reshape(labels, [-1])
    weight = operands.sample_weight
    if weight is not None:
        missing = head.hidden.shape.rank - 1 - weight.shape.rank
        weight = tf.reshape(weight, tf.concat([tf.shape(weight), [1] * missing], 0))
        weight = tf.reshape(tf.broadcast_to(weight, batch), [-1])
    hidden = tf.reshape(head.hidden, [-1, head.hidden.shape[-1]])
    plan = plan._replace(axis=1, ndim=2, labels_keep_axis=False)
    operands = operands._replace(labels=labels, sample_weight=weight)
    hidden, weights, bias = in_compute_dtype(ops, plan, head._replace(hidden=hidden))
    ops = _Hollow(ops, weights.shape[0])
    known = operands._replace(logits=ops.hollow(plan, hidden, weights))
    plan, hidden, known = without_garbage(ops, plan, hidden, known)
    return ops, plan, Head(hidden, weights, bias), known


def _statistics_of(
    size: int,
    softcap: float | None,
    plan: Plan,
    given: Head,
    known: Operands,
    examples: Examples,
) -> Statistics:
    """The statistics, infinite also where they have no influence."""
    kernel = _Kernel(
        size=size,
        classes=given.weight.shape[0],
        softcap=softcap,
        has_p=plan.label_smoothing != 1,
        has_q=plan.label_smoothing != 0,
        ids=tf.cast(examples.ids, tf.int64),
        dropped=examples.dropped,
    )
    w = None
    if plan.class_weight and kernel.has_q:
        w = tf.cast(known.class_weight, plan.compute_dtype)
    return Statistics(*kernel.statistics(*given, w))


class _Hollow:
    """The operations, for logits that have the rows alone, and so many classes."""

    def __init__(self, ops: Any, classes: int) -> None:
        self._ops, self._classes = ops, classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def size(self, x: Array, axis: int) -> Any:
        return self._classes

    def hollow(self, plan: Any, hidden: Array, weight: Array) -> Array:
        return tf.zeros_like(hidden[:, :1])


class _Kernel(NamedTuple):
    size: int  # of a tile
    classes: int
    softcap: float | None
    has_p: bool
    has_q: bool
    ids: Array  # (N, 1)
    dropped: Array | None

    @property
    def number(self) -> int:
        """How many tiles there are."""
        return -(-self.classes // self.size)

    def statistics(
        self, hidden: Array, weight: Array, bias: Array | None, w: Array | None
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """The statistics m, which is a constant, l, p and q."""
        given = [part for part in (hidden, weight, bias, w) if part is not None]
        has_bias, has_w = bias is not None, w is not None

        def named(parts: Any) -> list[Any]:
            found = list(parts)
            full = [*found[:2], found.pop(2) if has_bias else None]
            return [*full, found[2] if has_w else None]

        @tf.custom_gradient
        def of(*parts: Array) -> Any:
            m, l, p, q = self._forward(*named(map(tf.stop_gradient, parts)))
            dead = None
            if self.dropped is not None:
                dead = self.dropped & ~tf.math.is_finite(m + l)
                m, l = (tf.where(dead, tf.zeros_like(part), part) for part in (m, l))
            results = [part for part in (m, l, p, q) if part is not None]

            def backward(*slopes: Array) -> Any:
                slopes = slopes[1:]  # m is a constant
                if dead is not None:
                    slopes = tuple(tf.where(dead, tf.zeros_like(one), one) for one in slopes)
                return self._backward(parts, named, m, l, slopes)

            return results, backward

        m, l, *others = of(*given)
        m = tf.stop_gradient(m)
        return m, l, others[0] if self.has_p else None, others[-1] if self.has_q else None

    def tile(self, number: Array, hidden: Array, weight: Array, bias: Any, w: Any) -> Any:
        """Logits, labels and weights of a tile, and which classes are new."""
        start = tf.minimum(number * self.size, self.classes - self.size)
        weight = tf.slice(weight, [start, 0], [self.size, weight.shape[1]])
        u = tf.matmul(hidden, weight, transpose_b=True)
        if bias is not None:
            u += tf.slice(bias, [start], [self.size])
        x = u if self.softcap is None else self.softcap * tf.tanh(u / self.softcap)
        ids = tf.cast(start, tf.int64) + tf.range(self.size, dtype=tf.int64)
        fresh = None
        if self.classes % self.size:
            fresh = (ids >= tf.cast(number * self.size, tf.int64))[None]
        hit = self.ids == ids[None]
        ones = tf.ones([1, self.size], x.dtype)
        if w is not None:
            ones = tf.slice(w, [start], [self.size])[None]
        if fresh is not None:
            hit &= fresh
            ones = tf.where(fresh, ones, tf.zeros_like(ones))
            x = tf.where(fresh, x, tf.constant(-INFINITY, x.dtype))
        return x, weight, hit, ones

    def _forward(self, hidden: Array, weight: Array, bias: Any, w: Any) -> Any:
        zero = tf.zeros_like(hidden[:, :1])

        def add(number: Array, m: Array, s: Array, p: Array, q: Array, total: Array) -> Any:
            x, _, hit, ones = self.tile(number, hidden, weight, bias, w)
            now = tf.maximum(m, tf.reduce_max(x, 1, keepdims=True))
            shift = tf.where(tf.math.is_inf(now) & (now < 0), tf.zeros_like(now), now)
            f = x - shift
            moved = tf.where(m == now, tf.zeros_like(m), m - shift)
            s = s * tf.exp(moved) + tf.reduce_sum(tf.exp(f), 1, keepdims=True)
            if self.has_p:
                p += tf.reduce_sum(tf.where(hit, x, tf.zeros_like(x)), 1, keepdims=True)
            if self.has_q:
                q += tf.math.multiply_no_nan(moved, total)
                q += tf.reduce_sum(tf.math.multiply_no_nan(f, ones), 1, keepdims=True)
                total += tf.reduce_sum(ones)
            return number + 1, now, s, p, q, total

        start = (tf.constant(0), zero - INFINITY, zero, zero, zero, tf.zeros([], zero.dtype))
        _, m, s, p, q, _ = tf.while_loop(
            lambda number, *_: number < self.number, add, start, parallel_iterations=1
        )
        m = tf.where(tf.math.is_inf(m) & (m < 0), tf.zeros_like(m), m)
        l = tf.math.log(s)
        m = tf.where(tf.math.is_nan(l), l, m)  # which XLA's maxima lose
        return m, l, p - m if self.has_p else None, q if self.has_q else None

    def _backward(self, parts: Any, named: Any, m: Array, l: Array, slopes: Any) -> Any:
        """The slopes in the inputs, by a walk; the slopes of those with all logits."""
        number = len(parts)

        @tf.function(autograph=False)  # in which no tape, nor its absence, is of any concern
        def at_once(given: list[Array], ups: list[Array]) -> Any:
            whole = self._slopes_at_once(named(given[:number]), m, given[number:])
            return tf.gradients(whole, given, ups, unconnected_gradients="zero")

        @tf.custom_gradient
        def of(*given: Array) -> Any:
            stopped = [tf.stop_gradient(part) for part in given]
            found = self._walk_back(named(stopped[:number]), m, l, stopped[number:])

            def again(*ups: Array) -> Any:
                return at_once(list(given), list(ups))

            return found, again

        return of(*parts, *slopes)

    def _of_slopes(self, slopes: Any) -> Any:
        dl = slopes[0]
        return dl, slopes[1] if self.has_p else None, slopes[-1] if self.has_q else None

    def slope(self, x: Array, hit: Array, ones: Array, m: Array, l: Array, slopes: Any) -> Array:
        """The slope in the logits of a tile before their cap."""
        dl, dp, dq = self._of_slopes(slopes)
        dx = tf.math.multiply_no_nan(tf.exp((x - m) - l), dl)
        if dp is not None:
            dx += tf.where(hit, dp, tf.zeros_like(dp))
        if dq is not None:
            dx += dq * ones
        if self.softcap is not None:
            ratio = x / self.softcap
            dx = tf.math.multiply_no_nan(1 - ratio * ratio, dx)
        return dx

    def _walk_back(self, given: Any, m: Array, l: Array, slopes: Any) -> list[Array]:
        hidden, weight, bias, w = given
        features = weight.shape[1]

        def pieces(*shape: int) -> Any:
            return tf.TensorArray(hidden.dtype, self.number, element_shape=[self.size, *shape])

        def step(number: Array, dh: Array, dweight: Any, dbias: Any, dw: Any) -> Any:
            x, rows, hit, ones = self.tile(number, hidden, weight, bias, w)
            dx = self.slope(x, hit, ones, m, l, slopes)
            if self.classes % self.size:  # no slope in what was seen before
                seen = number * self.size - tf.minimum(number * self.size, self.classes - self.size)
                fresh = (tf.range(self.size) >= seen)[None]
                dx = tf.where(fresh, dx, tf.zeros_like(dx))
            dh += tf.matmul(dx, rows)
            dweight = dweight.write(number, tf.matmul(dx, hidden, transpose_a=True))
            if bias is not None:
                dbias = dbias.write(number, tf.reduce_sum(dx, 0))
            if w is not None:
                f = tf.math.multiply_no_nan(masked_as_zero(x - m, ones == 0), slopes[-1])
                dw = dw.write(number, tf.reduce_sum(f, 0))
            return number + 1, dh, dweight, dbias, dw

        start = (tf.constant(0), tf.zeros_like(hidden), pieces(features), pieces(), pieces())
        _, dh, dweight, dbias, dw = tf.while_loop(
            lambda number, *_: number < self.number, step, start, parallel_iterations=1
        )
        found = [dh, self._whole(dweight)]
        if bias is not None:
            found.append(self._whole(dbias))
        if w is not None:
            found.append(self._whole(dw))
        return found

    def _whole(self, pieces: Any) -> Array:
        """The pieces of all tiles, without what the last one repeats."""
        stacked = pieces.stack()
        rest = stacked.shape[2:]
        repeated = self.number * self.size - self.classes
        if not repeated:
            return tf.reshape(stacked, [self.classes, *rest])
        first = tf.reshape(stacked[:-1], [(self.number - 1) * self.size, *rest])
        return tf.concat([first, stacked[-1, repeated:]], 0)

    def _slopes_at_once(self, given: Any, m: Array, slopes: Any) -> list[Array]:
        """The same with all logits, as TensorFlow differentiates it."""
        hidden, weight, bias, w = given
        whole = self._replace(size=self.classes)
        x, _, hit, ones = whole.tile(tf.constant(0), hidden, weight, bias, w)
        l = tf.math.log(tf.reduce_sum(tf.exp(x - m), 1, keepdims=True))
        dx = whole.slope(x, hit, ones, m, l, slopes)
        found = [tf.matmul(dx, weight), tf.matmul(dx, hidden, transpose_a=True)]
        if bias is not None:
            found.append(tf.reduce_sum(dx, 0))
        if w is not None:
            f = tf.math.multiply_no_nan(masked_as_zero(x - m, ones == 0), slopes[-1])
            found.append(tf.reduce_sum(f, 0))
        return found
