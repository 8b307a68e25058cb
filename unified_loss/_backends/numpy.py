"""NumPy."""

import math
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss import _host as host
from unified_loss._backend import Backend, LinearRoute, Route
from unified_loss._backends._array_ops import ArrayOps
from unified_loss._backends._numpy_short import FEW_CLASSES, along_rows, bare, serves, short
from unified_loss._blocks import Walk, walk_loss, walk_loss_and_gradient, walk_sums
from unified_loss._examples import Examples
from unified_loss._linear import _eager as eager
from unified_loss._linear import _two_steps as two_steps
from unified_loss._linear import _walks as walks
from unified_loss._ops import Factors
from unified_loss._shapes import kept, without
from unified_loss._statistics import Statistics, loss_and_gradient_of, loss_of
from unified_loss._sums import Sums, sums_of
from unified_loss._threads import number_of_threads
from unified_loss._types import Array, Form, Head, Operands, Plan, Shape, Spec

# Thresholds, in logits. Up to SHORT one thread that does without care and without blocks is ahead
# of two threads in blocks (1.2 million logits: 1.2 ms and 1.6); what it cannot do is done in
# blocks, or up to SMALL at once. With few classes a block is transposed, so that the reductions
# run over contiguous rows of many examples. A block stays in cache, and is so large that what
# Python does for each does not count: 4096 x 32000 take 102 ms in blocks of 2**16 logits, 74 of
# 2**17, 57 of 2**18 and 54 of 2**19 or 2**20 on two cores; 65536 x 10 take 1.6 ms transposed in
# blocks of 2**15, 0.9 of 2**17. Threads pay from PARALLEL on, where blocks are even in number,
# whatever that of threads.
SMALL = 2**15
SHORT = 2**20
TRANSPOSED_BLOCK = 2**17
BLOCK = 2**19
PARALLEL = 2**18
PRODUCT = 2**12  # rows of a product that is made to be added


_SHORT = Route("log-sum-exp in one pass", is_native=True)
_AT_ONCE = Route("row statistics")
_NAMES = {False: "row statistics in blocks", True: "row statistics in transposed blocks"}


def _quietly(share: Callable[[], None]) -> None:
    with np.errstate(all="ignore"):  # the error state belongs to a thread
        share()


class NumpyOps(ArrayOps):
    """`Ops` on NumPy; totals are accumulated in float64."""

    compacts = True

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype, copy=False)

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype, copy=False)

    def total(self, x: Array) -> Array:
        return x.sum(dtype=np.float64).astype(x.dtype)

    def max(self, x: Array, axis: int) -> Array:
        return along_rows(np.maximum, x, axis)

    def sum(self, x: Array, axis: int) -> Array:
        is_last = math.prod(x.shape[axis + 1 :]) == 1
        if is_last and x.strides[axis] > x.itemsize and x.shape[axis] > FEW_CLASSES:
            x = np.ascontiguousarray(x)  # or it adds one by one
        return along_rows(np.add, x, axis)

    def number(self, x: Array) -> Array:
        return np.int64(np.count_nonzero(x))

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        f = self.differences(factors)
        return np.log(self.sum(np.exp(f, out=f), axis))

    def scaled(self, x: Array, a: Array) -> Array:
        return np.multiply(x, a, out=x)

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        np.put_along_axis(x, ids, np.take_along_axis(x, ids, axis) - b, axis)
        return x

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        return np.broadcast_to(np.zeros((), hidden.dtype), (*hidden.shape[:-1], len(weight)))

    # Of the walks of the linear form.

    def zeros(self, shape: Shape, dtype: str, like: Array) -> Array:
        return np.zeros(shape, dtype)

    def places(self, dropped: Array) -> Array | None:
        return np.flatnonzero(~dropped) if dropped.any() else None

    def scratch(self, size: int, dtype: str, like: Array) -> Any:
        return np.empty(size, dtype)

    def affine_into(self, scratch: Any, hidden: Array, weight: Array, bias: Array | None) -> Array:
        shape = len(hidden), len(weight)
        found = scratch[: math.prod(shape)].reshape(shape)
        np.matmul(hidden, weight.T, out=found)
        if bias is not None:
            found += bias
        return found

    def subtracted(self, x: Array, b: Array) -> Array:
        return np.subtract(x, b, out=x)

    def exponential(self, x: Array) -> Array:
        return np.exp(x, out=x)

    def cap(self, x: Array, softcap: float) -> Array:
        x /= softcap
        np.tanh(x, out=x)
        x *= softcap
        return x

    def add_product(self, total: Array, place: Any, a: Array, b: Array) -> None:
        if not isinstance(place, slice):
            total[place] += a @ b
            return
        rows = total[place]
        for start in range(0, len(rows), PRODUCT):  # NumPy has no sum of a product and an array
            part = slice(start, start + PRODUCT)
            rows[part] += a[part] @ b

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        return np.empty(shape, like.dtype if dtype == like.dtype.name else dtype)

    def broadcast(self, x: Array, shape: Shape) -> Array:
        return np.broadcast_to(x, shape)

    def contiguous(self, x: Array) -> Array:
        return np.ascontiguousarray(x)

    def plain_statistics(self, plan: Plan, x: Array, examples: Examples) -> Statistics:
        return self.plain_exponentials(plan, x, examples)[0]

    def plain_exponentials(
        self, plan: Plan, x: Array, examples: Examples
    ) -> tuple[Statistics, Array, Array]:
        axis = plan.axis
        k, w = examples.weighted_labels, examples.class_weight
        m = self.max(x, axis)
        f = x - m
        p = q = None
        if k is not None:
            p = self._dot(k, f, axis)
        elif plan.label_smoothing != 1:
            p = self.pick(f, examples.ids, axis)
        if plan.label_smoothing:
            q = self.sum(f, axis) if w is None else self._dot(w, f, axis)
        e = np.exp(f, out=f)
        sums = self.sum(e, axis)
        return Statistics(m, np.log(sums), p, q), e, sums

    def _dot(self, weights: Array, f: Array, axis: int) -> Array:
        """The sum of products: along rows that lie in memory, without an array of them."""
        if math.prod(f.shape[axis + 1 :]) == 1:
            rows = np.ascontiguousarray(weights).swapaxes(axis, -1)
            sums = np.vecdot(rows, f.swapaxes(axis, -1))
            return sums.reshape(kept(f.shape, axis))
        return self.sum(weights * f, axis)

    def softmax(self, x: Array, statistics: Statistics, axis: int) -> Array:
        f = x - statistics.m  # before anything is rounded to the size of m
        f -= statistics.l
        return np.exp(f, out=f)

    def is_finite(self, x: Array) -> bool:
        return math.isfinite(x.sum())

    def all(self, x: Array) -> bool:
        return bool(x.all())


OPS = NumpyOps(np)


def _order_in_memory(x: Array) -> list[int] | None:
    """The axes of an array in the order of memory; None if they are in it, or in none."""
    if min(x.strides) <= 0:
        return None
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    return None if order == list(range(x.ndim)) else order


def _reordered(plan: Plan, operands: Operands, order: list[int]) -> tuple[Plan, Operands]:
    """The same call of views whose axes are in another order."""
    x, labels, _, weight, _ = operands
    batch = _batch_of(plan, order)
    has_classes = plan.label_kind == "dense" or plan.labels_keep_axis
    if weight is not None:
        weight = weight.reshape(weight.shape + (1,) * (len(batch) - weight.ndim))
        weight = np.broadcast_to(weight, without(x.shape, plan.axis)).transpose(batch)
    operands = operands._replace(
        logits=x.transpose(order),
        labels=labels.transpose(order if has_classes else batch),
        sample_weight=weight,
    )
    return plan._replace(axis=order.index(plan.axis)), operands


def _batch_of(plan: Plan, order: list[int]) -> list[int]:
    """The order of the axes of one number for each example."""
    return [axis - (axis > plan.axis) for axis in order if axis != plan.axis]


def _evaluate_as_it_lies(
    order: list[int], plan: Plan, operands: Operands, *, with_gradient: bool
) -> tuple[Array, Any]:
    """`_evaluate` with the axes in the order of memory, in which the gradient is as well."""
    moved, operands = _reordered(plan, operands, order)
    route = BACKEND.route(moved, operands.logits.size)
    loss, slope = _evaluate(route, moved, operands, with_gradient=with_gradient)
    if plan.reduction == "none":
        loss = loss.transpose(np.argsort(_batch_of(plan, order)))
    return loss, slope.transpose(np.argsort(order)) if with_gradient else None


def _evaluate(
    route: Route, plan: Plan, operands: Operands, *, with_gradient: bool
) -> tuple[Array, Any]:
    with np.errstate(all="ignore"):
        # Subclasses have operators that could mean something else.
        operands = operands._replace(logits=np.asarray(operands.logits))
        is_usual = operands.logits.flags.c_contiguous
        order = None if is_usual else _order_in_memory(operands.logits)
        if order is not None:
            return _evaluate_as_it_lies(order, plan, operands, with_gradient=with_gradient)
        if route.is_native:
            if plan.is_bare and plan.axis + 1 == plan.ndim and not with_gradient:
                found = bare(plan, operands)
            else:
                found = short(plan, operands, with_gradient=with_gradient)
            if found is not None:
                return found.loss, found.gradient
        if route.walk is not None:
            if with_gradient:
                loss, slope = walk_loss_and_gradient(OPS, route.walk, plan, operands)
            else:
                (loss, _), slope = walk_loss(OPS, route.walk, plan, operands), None
            return loss[()], slope  # a scalar of NumPy where there is no axis
        if with_gradient:
            return loss_and_gradient_of(OPS, plan, operands)
        return loss_of(OPS, plan, operands), None


def _sums(route: Route, plan: Plan, operands: Operands) -> Sums:
    with np.errstate(all="ignore"):
        operands = operands._replace(logits=np.asarray(operands.logits))
        is_usual = operands.logits.flags.c_contiguous
        order = None if is_usual else _order_in_memory(operands.logits)
        if order is not None:
            plan, operands = _reordered(plan, operands, order)
            route = BACKEND.route(plan, operands.logits.size)
        is_short = route.is_native and plan.is_bare
        found = short(plan, operands, with_gradient=False) if is_short else None
        if found is None:
            if route.walk is not None:
                return walk_sums(OPS, route.walk, plan, operands)
            return sums_of(OPS, plan, operands)
        loss, _, p, s = found
        count = np.int64(p.size)
        confidence = np.add.reduce(np.reciprocal(s), dtype=np.float64)
        numbers = count, np.count_nonzero(p == 0), confidence
        weight, correct, confidence = map(operands.logits.dtype.type, numbers)
        return loss, weight, loss, weight, correct, confidence, count


def _walk_for(plan: Plan, size: int) -> Walk:
    """The way through `size` logits in blocks."""
    transposed = plan.num_classes < FEW_CLASSES and plan.axis + 1 == plan.ndim
    threads, block = 1, TRANSPOSED_BLOCK if transposed else BLOCK
    if size >= PARALLEL:
        threads = number_of_threads()
        pairs = -(size // (-2 * block))
        block = size // (2 * pairs) + plan.num_classes  # with a row to spare
    return Walk(block, transposed, threads, _quietly)


class NumpyBackend(Backend):
    """NumPy."""

    name = "numpy"

    def owns(self, value: object) -> bool:
        return isinstance(value, np.ndarray | np.generic)

    def outline(self, *arrays: Array | None) -> Any:
        parts: list[Any] = [self.name]
        for array in arrays:
            if array is None:
                parts.append(None)
            elif type(array) is np.ndarray and array.dtype != object:
                parts += (array.shape, array.dtype)
            else:
                return None
        labels: Any = arrays[1] if len(arrays) > 1 else arrays[0]
        return None if labels.dtype.kind == "V" else tuple(parts)

    def values(self, labels: Array) -> Any:
        return labels

    def refusal(self, array: Array) -> str | None:
        return host.refusal(array)

    def spec(self, array: Array) -> Spec:
        return Spec(self.name, array.shape, array.dtype.name)

    def convert(self, name: str) -> str:
        return f"np.asarray({name})"

    def read(self, array: Array, *, wait: bool) -> npt.NDArray[Any]:
        return np.asarray(array)

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        # Class ids may keep their integer dtype.
        if dtype == "int32":
            return values
        return host.converted(values, dtype)

    def route(self, plan: Plan, size: int) -> Route:
        walk = None if size <= SMALL else _walk_for(plan, size)
        if size <= SHORT and plan.is_ordinary and serves(plan):
            return _SHORT._replace(walk=walk)
        return _AT_ONCE if walk is None else Route(_NAMES[walk.transposed], walk=walk)

    def loss(self, plan: Plan, operands: Operands) -> Array:
        # In a copy of the context, so that no interrupt leaves an error state behind.
        route = plan.route or self.route(plan, operands.logits.size)
        return copy_context().run(_evaluate, route, plan, operands, with_gradient=False)[0]

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        route = self.route(plan, operands.logits.size)
        return copy_context().run(_sums, route, plan, operands)

    def deliver(self, plan: Plan, operands: Operands) -> list[float]:
        return [number.item() for number in self.sums(plan, operands)]

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        route = plan.route or self.route(plan, operands.logits.size)
        return copy_context().run(_evaluate, route, plan, operands, with_gradient=True)

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        alone, together = (_tour(form, head, with_gradients=one) for one in (False, True))
        return LinearRoute(alone, together)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        return copy_context().run(_linear, form, head, operands, with_gradients=False)[0]

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        return copy_context().run(_linear, form, head, operands, with_gradients=True)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        return copy_context().run(_linear_sums, form, head, operands)

    def linear_deliver(self, form: Form, head: Head, operands: Operands) -> list[float]:
        return [number.item() for number in self.linear_sums(form, head, operands)]


def _linear_sums(form: Form, head: Head, operands: Operands) -> Sums:
    with np.errstate(all="ignore"):
        head = Head(*(None if part is None else np.asarray(part) for part in head))
        tour = walks.tour_of(form, *walks.sizes_of(head), in_one_pass=False)
        if tour is not None:
            return eager.totals_of(_field(tour, form, head, operands))
        plan, operands = _with_logits(form, head, operands)
        return _sums(BACKEND.route(plan, operands.logits.size), plan, operands)


def _linear(
    form: Form, head: Head, operands: Operands, *, with_gradients: bool
) -> tuple[Array, Any]:
    with np.errstate(all="ignore"):
        head = Head(*(None if part is None else np.asarray(part) for part in head))
        tour = _tour(form, head, with_gradients=with_gradients)
        if tour is not None:
            return _linear_walk(tour, form, head, operands, with_gradients=with_gradients)
        plan, operands = _with_logits(form, head, operands)
        route = BACKEND.route(plan, operands.logits.size)
        loss, slope = _evaluate(route, plan, operands, with_gradient=with_gradients)
        if not with_gradients:
            return loss, None
        return loss, two_steps.gradients_of(OPS, form, head, operands, slope)


def _with_logits(form: Form, head: Head, operands: Operands) -> tuple[Plan, Operands]:
    """The call of the logits, which are an array also where there is one alone."""
    plan, operands = two_steps.with_logits(OPS, form, head, operands)
    return plan, operands._replace(logits=np.asarray(operands.logits))


def _field(tour: walks.Tour, form: Form, head: Head, operands: Operands) -> eager.Field:
    walk = Walk(BLOCK, transposed=False, threads=number_of_threads(), around=_quietly)
    return eager.field_of(OPS, walks.flattened(OPS, form, head, operands), tour, walk)


def _tour(form: Form, head: Head, *, with_gradients: bool) -> walks.Tour | None:
    """The walk of a head of arrays or `Spec`s; None for two steps."""
    plan = form.plan
    in_one_pass = with_gradients and walks.fits_one_pass(plan, head, plan.compute_dtype)
    return walks.tour_of(form, *walks.sizes_of(head), in_one_pass=in_one_pass)


def _linear_walk(
    tour: walks.Tour, form: Form, head: Head, operands: Operands, *, with_gradients: bool
) -> tuple[Array, Any]:
    field = _field(tour, form, head, operands)
    wanted = eager.all_of(head)
    if tour.by == "rows":
        loss, gradients = eager.loss_and_gradients_in_one_pass(field, wanted)
        return np.asarray(loss)[()], gradients
    statistics = eager.statistics_of(field)
    loss = np.asarray(eager.loss_of(field, statistics))[()]
    return loss, eager.gradients_of(field, statistics, wanted) if with_gradients else None


BACKEND = NumpyBackend()


def on_numpy(plan: Plan, operands: Operands, read: Callable[[Array], Array]) -> list[float]:
    """The sums of few logits that are on the host, where an operation of NumPy costs the least."""
    arrays = (None if array is None else read(array) for array in operands)
    return BACKEND.deliver(plan, Operands(*arrays))
