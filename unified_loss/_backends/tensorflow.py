"""TensorFlow."""

import math
from typing import Any, ClassVar

import tensorflow as tf

from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss._backend import Backend, LinearRoute, Route
from unified_loss._backends import _tensorflow_linear as linear
from unified_loss._backends._tensorflow_native import cast, has_native_loss, native_loss
from unified_loss._backends._tensorflow_statistics import pick, row_statistics
from unified_loss._backends.numpy import SMALL as FEW
from unified_loss._backends.numpy import on_numpy
from unified_loss._examples import Examples, examples_and_divisor
from unified_loss._linear import _two_steps as two_steps
from unified_loss._ops import Factors
from unified_loss._statistics import Statistics, combine, row_maximum, without_lost
from unified_loss._sums import Sums, added_up, own_terms
from unified_loss._types import Array, Form, Head, Operands, Plan, Spec

# In logits: what TensorFlow's own loss of class ids makes beside them, asked for or not, costs new
# pages above some 32 MB. Label rows are of that size themselves, and cost more in any other way.
NATIVE = 2**22

with tf.init_scope():  # this module may be loaded while TensorFlow traces
    _Eager = type(tf.zeros(()))

# Operations whose results are no constants of a graph, and those of which the shape alone counts.
_INPUTS = frozenset({"Placeholder", "PlaceholderWithDefault"})
_OF_SHAPES = frozenset({"Const", "OnesLike", "Rank", "Shape", "Size", "ZerosLike"})

_COMPOSITE = {
    tf.RaggedTensor: "a ragged tensor has rows of different lengths; pad it (.to_tensor()), and "
    "mask the padding",
    tf.SparseTensor: "convert it with tf.sparse.to_dense if that is meant",
    tf.IndexedSlices: "convert it with tf.convert_to_tensor if that is meant",
}


class TensorflowOps:
    """`Ops` on TensorFlow, where sizes and even ranks can be unknown until the graph runs."""

    maxima_lose_nan: ClassVar[bool] = True  # in a graph that XLA compiles

    def cast(self, x: Array, dtype: str) -> Array:
        return cast(x, dtype)

    def cast_size(self, size: Any, dtype: str) -> Any:
        return size if isinstance(size, int) else tf.cast(size, dtype)

    def as_index(self, x: Array) -> Array:
        return x

    def equals(self, labels: Array, value: int) -> Array:
        return labels == value

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        if not tf.is_tensor(a):
            a = tf.constant(a, b.dtype)
        elif not tf.is_tensor(b):
            b = tf.constant(b, a.dtype)
        return tf.where(condition, a, b)

    def isfinite(self, x: Array) -> Array:
        return tf.math.is_finite(x)

    def sum(self, x: Array, axis: int) -> Array:
        return tf.reduce_sum(x, axis, keepdims=True)

    def max(self, x: Array, axis: int) -> Array:
        return tf.reduce_max(x, axis, keepdims=True)

    def any(self, x: Array, axis: int) -> Array:
        if x.dtype == tf.bool:
            return tf.reduce_any(x, axis, keepdims=True)
        ends = self.max(x, axis), tf.reduce_min(x, axis, keepdims=True)
        return (ends[0] != 0) | (ends[1] != 0)

    def total(self, x: Array) -> Array:
        return tf.reduce_sum(x)

    def number(self, x: Array) -> Array:
        return tf.reduce_sum(tf.cast(x, tf.int64))

    def count(self, x: Array, dtype: str) -> Array:
        return tf.cast(self.number(x), dtype)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        if logits.shape.is_fully_defined():
            return logits.shape.num_elements() // logits.shape[axis]
        whole = tf.shape(logits, tf.int64)
        here = tf.range(tf.rank(logits)) == axis % tf.rank(logits)
        return tf.cast(tf.reduce_prod(tf.where(here, tf.constant(1, tf.int64), whole)), dtype)

    def size(self, x: Array, axis: int) -> Any:
        size = x.shape[axis] if x.shape.rank is not None else None
        return tf.shape(x, tf.int64)[axis] if size is None else size

    def stop_gradient(self, x: Array) -> Array:
        return tf.stop_gradient(x)

    def expand(self, x: Array, axis: int) -> Array:
        return tf.expand_dims(x, axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return tf.squeeze(x, axis)

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        if like.shape.rank is not None:
            return tf.reshape(vector, [-1 if i == axis else 1 for i in range(like.shape.rank)])
        rank = tf.rank(like)
        here = tf.range(rank) == axis % rank
        return tf.reshape(vector, tf.where(here, -1, 1))

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        missing = tf.rank(like) - 1 - tf.rank(weights)
        shape = tf.concat([tf.shape(weights), tf.ones([missing], tf.int32)], 0)
        weights = tf.expand_dims(tf.reshape(weights, shape), axis)
        whole = tf.shape(like)
        here = tf.range(tf.rank(like)) == axis % tf.rank(like)
        return tf.broadcast_to(weights, tf.where(here, 1, whole))

    def exp(self, x: Array) -> Array:
        return tf.exp(x)

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return pick(self, x, ids, axis)

    def weighted_sum(
        self, weights: Array, factors: Factors, silent: Array | None, axis: int
    ) -> Array:
        found = self.sum(tf.math.multiply_no_nan(factors.f, weights), axis)
        return found if silent is None else self.where(silent & ~self.isfinite(found), 0.0, found)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        # The gradient of a reshape is dense, that of a gather alone is not.
        return tf.gather(tf.reshape(weights, [-1]), ids)

    def cast_like(self, x: Array, like: Array) -> Array:
        return tf.cast(x, like.dtype)

    def tanh(self, x: Array) -> Array:
        return tf.tanh(x)

    def affine(self, hidden: Array, weight: Array, bias: Array | None) -> Array:
        found = tf.tensordot(hidden, weight, [[-1], [1]])
        if hidden.shape.rank is not None:
            found.set_shape([*hidden.shape[:-1], weight.shape[0]])
        return found if bias is None else found + bias

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        shape = tf.concat([tf.shape(hidden)[:-1], tf.shape(weight)[:1]], 0)
        found = tf.zeros(shape, hidden.dtype)
        if hidden.shape.rank is not None:
            found.set_shape([*hidden.shape[:-1], weight.shape[0]])
        return found


OPS = TensorflowOps()


def _prepared(plan: Plan, operands: Operands, whole: Array | None = None) -> tuple[Plan, Operands]:
    """Variables read, labels in int64, shapes that tracing does not know checked in the graph.

    TensorFlow has few kernels for other integers. `whole`: the shape of logits that something of
    their rank stands for.
    """
    logits, *others, normalizer = (
        None if part is None else tf.convert_to_tensor(part) for part in operands
    )
    labels, class_weight, sample_weight = (_unfolded(part, logits) for part in others)
    below, ignore_index, keeps = plan.below, plan.ignore_index, plan.labels_keep_axis
    if plan.label_kind == "index":
        labels = tf.cast(labels, tf.int64)
        if plan.labels_dtype == "uint64":  # from 2**63 on they become negative
            below = True
            if ignore_index is not None and ignore_index >= 2**63:
                ignore_index -= 2**64
    if not all(part is None or part.shape.is_fully_defined() for part in operands):
        whole = tf.shape(logits) if whole is None else whole
        axis = plan.axis % tf.rank(logits)
        batch = tf.concat([whole[:axis], whole[axis + 1 :]], 0)
        kept = tf.concat([whole[:axis], [1], whole[axis + 1 :]], 0)
        if plan.label_kind == "dense":
            labels = _of_shape(labels, "labels", whole, whole)
        elif keeps is None:
            labels = tf.reshape(_of_shape(labels, "labels", whole, batch, kept), kept)
            keeps = True
        else:
            labels = _of_shape(labels, "labels", whole, kept if keeps else batch)
        if class_weight is not None:
            classes = whole[axis : axis + 1]
            class_weight = _of_shape(class_weight, "class_weight", whole, classes)
        if sample_weight is not None:
            sample_weight = _of_shape(sample_weight, "sample_weight", whole, batch, batch[:1])
        if normalizer is not None:
            normalizer = _of_shape(normalizer, "normalizer", whole, tf.zeros([0], tf.int32))
    plan = plan._replace(below=below, ignore_index=ignore_index, labels_keep_axis=keeps)
    return plan, Operands(logits, labels, class_weight, sample_weight, normalizer)


def _examined(
    plan: Plan, operands: Operands, *, apart: bool = False
) -> tuple[Examples, Array | None, Statistics]:
    """The examples, what "mean" divides by, and the statistics."""
    x = tf.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(OPS, plan, x)
    examples, divisor = examples_and_divisor(OPS, plan, operands, m, smoothed=True)
    statistics = row_statistics(OPS, plan, x, m, examples, apart=apart)
    if tf.inside_function():  # perhaps compiled by XLA, whose maxima lose NaN
        statistics = without_lost(OPS, examples, statistics)
    return examples, divisor, statistics


def _never_minus_zero(value: Array) -> Array:
    if not tf.inside_function():
        return value
    # Compilers drop an addition of 0, which makes 0 of -0; this is one, but for NaN.
    return value + tf.cast(tf.math.is_nan(value), value.dtype)


def _unfolded(array: Array | None, logits: Array) -> Array | None:
    """`array` such that XLA does not reduce it while it compiles, at microseconds an entry.

    A constant becomes one that depends on the logits, in a way that no compiler sees through.
    """
    if array is None or not tf.inside_function() or not _is_constant(array):
        return array
    first = tf.slice(logits, tf.zeros_like(tf.shape(logits)), tf.minimum(tf.shape(logits), 1))
    never = tf.reduce_any(tf.math.is_nan(first) & tf.math.is_finite(first))
    return tf.where(never, tf.zeros([], array.dtype), array)


def _is_constant(array: Array) -> bool:
    """Whether an array of a graph comes from nothing but constants and shapes."""
    seen, waiting = set(), [array.op]
    while waiting:
        operation = waiting.pop()
        if operation.type in _OF_SHAPES or operation.name in seen:
            continue
        if operation.type in _INPUTS or operation.op_def.is_stateful:
            return False
        seen.add(operation.name)
        waiting += [part.op for part in operation.inputs]
    return True


def _of_shape(array: Array, name: str, logits_shape: Array, *allowed: Array) -> Array:
    """`array`, whose shape must be one of those allowed when the graph runs.

    Where it is not, the sizes are known to the graph alone, which holds no diagnosis: the text says
    where to ask for one. XLA drops assertions, but refuses the negative sizes that a mismatch gives
    the reshape.
    """
    shape = tf.shape(array)
    fits = tf.reduce_any([_equal(shape, wanted) for wanted in allowed])
    check = tf.debugging.Assert(
        fits, [messages.sizes_differ_in_graph(name), logits_shape, allowed[0], shape]
    )
    with tf.control_dependencies([check]):
        padded = tf.where(fits, tf.concat([shape, [1]], 0), -2)
    result = tf.squeeze(tf.reshape(array, padded), -1)
    result.set_shape(array.shape)
    return result


def _equal(a: Array, b: Array) -> Array:
    """Whether two shapes are equal, whatever their ranks."""
    rank = tf.maximum(tf.size(a), tf.size(b))
    a, b = (tf.concat([x, tf.fill([rank - tf.size(x)], -1)], 0) for x in (a, b))
    return tf.reduce_all(a == b)


def _linear(walk: Any, two: Any, form: Form, head: Head, operands: Operands) -> Any:
    """A call of the linear form by its walk, or by a kernel for logits."""
    head = Head(*(None if part is None else tf.convert_to_tensor(part) for part in head))
    ops: Any = OPS  # which has what is asked for here
    size = linear.size_of_tiles(form, head)
    if size is not None or not form.plan.is_ordinary:
        whole = tf.concat([tf.shape(head.hidden)[:-1], tf.shape(head.weight)[:1]], 0)
        plan, prepared = _prepared(form.plan, operands._replace(logits=head.hidden), whole)
        checked = form._replace(plan=plan)
        if size is not None:
            return walk(ops, size, checked, head, prepared)
        form, operands = checked, prepared
    plan, operands = two_steps.with_logits(ops, form, head, operands)
    is_ordinary = plan.is_ordinary and isinstance(operands.logits, _Eager)
    return two(plan._replace(is_ordinary=is_ordinary), operands)


_NATIVE = Route("SparseSoftmaxCrossEntropyWithLogits", is_native=True)
_LOG_SOFTMAX = Route("log_softmax", is_native=True)
_STATISTICS = Route("row statistics (TensorFlow)")


class TensorflowBackend(Backend):
    """TensorFlow."""

    name = "tensorflow"

    def owns(self, value: object) -> bool:
        return isinstance(value, (tf.Tensor, tf.Variable, *_COMPOSITE))

    def outline(self, *arrays: Array | None) -> Any:
        if not tf.executing_eagerly():
            return None
        parts: list[Any] = [self.name]
        for array in arrays:
            if array is None:
                parts.append(None)
            elif isinstance(array, _Eager) and "CPU" in array.device:
                parts += (tuple(array.shape), array.dtype)
            else:
                return None
        return tuple(parts)

    def values(self, labels: Array) -> Any:
        return labels.numpy()

    def refusal(self, array: Array) -> str | None:
        for kind, reason in _COMPOSITE.items():
            if isinstance(array, kind):
                return reason
        if array.dtype.name in {"int2", "uint2"}:
            return f"TensorFlow cannot compute with {array.dtype.name}; make it from int8 values"
        if not tf.compat.v1.executing_eagerly_outside_functions():
            return "in a TensorFlow 1 graph, == compares identities; trace with tf.function"
        return None

    def spec(self, array: Array) -> Spec:
        shape = array.shape
        return Spec(self.name, None if shape.rank is None else tuple(shape), array.dtype.name)

    def convert(self, name: str) -> str:
        return f"tf.convert_to_tensor({name})"

    def move(self, name: str) -> str:  # pragma: no cover (TensorFlow combines across devices)
        return f"tf.identity({name}) under tf.device(logits.device)"

    def read(self, array: Array, *, wait: bool) -> Any | None:
        if not hasattr(array, "numpy") or not (tf.executing_eagerly()):
            return None
        if not wait and "CPU" not in array.device:  # pragma: no cover (needs an accelerator)
            return None
        return array.numpy()

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        return tf.constant(host.cast(values, dtype))

    def route(self, plan: Plan, size: int) -> Route:
        if not (plan.is_ordinary and has_native_loss(plan)):
            return _STATISTICS
        if plan.label_kind == "dense":
            return _LOG_SOFTMAX
        if size > NATIVE:
            return _STATISTICS
        return _LOG_SOFTMAX if plan.label_smoothing else _NATIVE

    def loss(self, plan: Plan, operands: Operands) -> Array:
        size = math.prod(operands.logits.shape) if plan.is_ordinary else 0  # unknown in a graph
        if self.route(plan, size).is_native:
            value = native_loss(plan, operands)
            if value is not None:
                return value
        plan, operands = _prepared(plan, operands)
        examples, divisor, statistics = _examined(plan, operands)
        return _never_minus_zero(combine(OPS, plan, examples, statistics, divisor))

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        plan, operands = _prepared(plan, operands)
        examples, _, statistics = _examined(plan, operands, apart=True)
        terms = own_terms(OPS, plan, operands, examples, statistics)
        loss, *others = added_up(OPS, plan, examples, statistics, *terms)
        return (_never_minus_zero(loss), *others)

    def deliver(self, plan: Plan, operands: Operands) -> Any | None:
        if plan.is_ordinary and math.prod(operands.logits.shape) <= FEW:
            return on_numpy(plan, operands, lambda array: array.numpy())
        return super().deliver(plan, operands)

    def send(self, numbers: tuple[Array, ...]) -> Any | None:
        return numbers if tf.executing_eagerly() else None

    def has_arrived(self, sent: Any) -> bool | None:
        return True if "CPU" in sent[0].device else None

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        logits = tf.convert_to_tensor(operands.logits)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = self.loss(plan, operands._replace(logits=logits))
        return value, tape.gradient(value, logits)

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        return linear.route(form, head)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        return _linear(linear.loss_of, self.loss, form, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        found: Sums = _linear(linear.sums_of, self.sums, form, head, operands)
        return found

    def linear_deliver(self, form: Form, head: Head, operands: Operands) -> Any | None:
        def delivered(*call: Any) -> Any | None:
            return self.send(linear.sums_of(*call))

        return _linear(delivered, self.deliver, form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        parts = [tf.convert_to_tensor(part) for part in head if part is not None]
        with tf.GradientTape() as tape:
            tape.watch(parts)
            whole = Head(*parts, *[None] * (3 - len(parts)))
            value = self.linear_loss(form, whole, operands)
        slopes = tape.gradient(value, parts)
        return value, Head(*slopes, *[None] * (3 - len(parts)))


BACKEND = TensorflowBackend()
