"""JAX."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unified_loss import _host as host
from unified_loss._backend import Backend, LinearRoute, Route
from unified_loss._backends import _jax_dense as dense
from unified_loss._backends import _jax_kernels as kernels
from unified_loss._backends import _jax_linear as linear
from unified_loss._backends import _jax_linear_split as linear_split
from unified_loss._backends._array_ops import ArrayOps
from unified_loss._backends._jax_groups import group_of, refuse_replicas
from unified_loss._backends._jax_operands import agreeing, beside_rows, joined, layout, split
from unified_loss._linear import _two_steps as two_steps
from unified_loss._ops import Factors
from unified_loss._split_classes import Part, local_sums, loss_and_gradient_of, loss_of
from unified_loss._split_classes import Sums as SplitSums
from unified_loss._sums import Sums, sums_of
from unified_loss._types import Array, Form, Head, Operands, Plan, Spec


class JaxOps(ArrayOps):
    """`Ops` on JAX."""

    maxima_lose_nan: ClassVar[bool] = True
    derivatives_mend: ClassVar[bool] = True

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype)

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype)

    def cast_size(self, size: Any, dtype: str) -> Any:
        return size if isinstance(size, int) else jnp.asarray(size, dtype)

    def as_index(self, x: Array) -> Array:
        return x if x.dtype.itemsize >= 4 else x.astype("int32")

    def equals(self, labels: Array, value: int) -> Array:
        return labels == np.asarray(value, labels.dtype)  # a Python integer would be an int32

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        x, m, _, dropped, f = factors
        return kernels.log_sum_exp(axis, f is not None, x, m, dropped)

    def weighted_sum(
        self, weights: Array, factors: Factors, silent: Array | None, axis: int
    ) -> Array:
        x, m, dead, *_ = factors
        return kernels.weighted_sum(axis, weights, x, m, dead, silent)

    def number(self, x: Array) -> Array:
        return jnp.sum(x)

    def count(self, x: Array, dtype: str) -> Array:
        if isinstance(x.size, int) and x.size <= EXACT:  # XLA is faster at sums of floats
            return jnp.sum(x, dtype=dtype)
        return super().count(x, dtype)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        count = super().count_rows(logits, axis, dtype)
        return count if isinstance(count, int) else jnp.asarray(count, dtype)

    def total(self, x: Array) -> Array:
        return jnp.sum(kernels.apart(x))

    def stop_gradient(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return kernels.pick(axis, x, ids)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        names = split(ids)
        # On an explicit mesh, a gather must be told the split of its result, which vmap can hide.
        hidden = jax.typeof(ids).sharding.mesh.explicit_axes and not any(names)
        if not hidden and not any(split(weights)):
            return weights.at[ids].get(mode="promise_in_bounds", out_sharding=layout(ids, *names))
        where = layout(ids, *names, *split(weights))
        rows = jnp.broadcast_to(weights, (*ids.shape, *weights.shape), out_sharding=where)
        return jnp.squeeze(kernels.compare_and_sum(ids.ndim, rows, ids[..., None]), -1)

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        return jnp.where(kernels.is_at(ids, x, axis), x - b, x)

    # Of split classes.

    def maxima_of_all(
        self, plan: Plan, rows: list[Array], size: int | None
    ) -> tuple[list[Array], Any]:
        refuse_replicas(rows[0], plan.class_group)
        found = jax.lax.pmax(jnp.stack(rows), plan.class_group)
        start = None if size is None else jax.lax.axis_index(plan.class_group) * size
        return list(found), start

    def sums_of_all(self, plan: Plan, part: Part) -> tuple[SplitSums, Any]:
        # What is kept for its derivative are the arguments and a few numbers a row.
        sums = jax.checkpoint(partial(local_sums, self, plan), prevent_cse=False)(part)
        return self.added_over_all(plan, sums, part.logits.shape[plan.axis])

    def added_over_all(self, plan: Plan, sums: SplitSums, size: int) -> tuple[SplitSums, Any]:
        names = [name for name in sums._fields[:-1] if getattr(sums, name) is not None]
        rows = jnp.stack([getattr(sums, name) for name in names])
        rows, weight = jax.lax.psum((rows, sums.weight), plan.class_group)  # one for XLA
        sums = sums._replace(**dict(zip(names, rows, strict=True)), weight=weight)
        return sums, size * jax.lax.axis_size(plan.class_group)

    def shared(self, plan: Plan, rows: Array) -> Array:
        return rows  # JAX knows what all members have

    def less(self, ids: Array, start: Any) -> Array:
        return ids.astype("int32") - start

    def factors(self, x: Array, m: Array, lost: Array) -> Array:
        return kernels.factors(x, m, lost)

    def product(self, a: Array, b: Array) -> Array:
        return jnp.matmul(a, b)

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        zero = jnp.zeros((), hidden.dtype)
        return jnp.broadcast_to(zero, (*hidden.shape[:-1], weight.shape[0]))


EXACT = 2**24  # ones add up to so many in float32
OPS = JaxOps(jnp)


def _never_minus_zero(value: Array) -> Array:
    return value + jnp.isnan(value).astype(value.dtype)  # XLA would drop an addition of 0


@partial(jax.jit, static_argnums=0)
def _loss(plan: Plan, operands: Operands) -> Array:
    operands = agreeing(plan, operands)
    find = dense.loss_of if dense.serves(plan, operands) else loss_of
    return _never_minus_zero(find(OPS, plan, operands))


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    value, gradient = loss_and_gradient_of(OPS, plan, agreeing(plan, operands))
    return _never_minus_zero(value), gradient


def _with_logits(form: Form, head: Head, operands: Operands) -> tuple[Plan, Operands]:
    """The call of the logits, the product that an explicit mesh can hold."""
    head, operands = joined(form.plan, head, operands, head.weight.shape[0])
    head = head._replace(weight=beside_rows(head.hidden, head.weight))
    plan, operands = two_steps.with_logits(OPS, form, head, operands)
    return plan, agreeing(plan, operands)


@partial(jax.jit, static_argnums=(0, 1))
def _linear_loss(form: Form, layout: linear.Layout | None, head: Head, operands: Operands) -> Array:
    if layout is None:
        return _never_minus_zero(loss_of(OPS, *_with_logits(form, head, operands)))
    if layout.is_part:
        return _never_minus_zero(linear_split.loss_of(OPS, layout, form, head, operands))
    head, operands = joined(form.plan, head, operands, layout.size)
    return _never_minus_zero(linear.loss_of(OPS, layout, form, head, operands))


@partial(jax.jit, static_argnums=(0, 1))
def _linear_loss_and_gradients(
    form: Form, layout: linear.Layout | None, head: Head, operands: Operands
) -> tuple[Array, Head]:
    if layout is not None and layout.is_part:
        value, slopes = linear_split.loss_and_gradients_of(OPS, layout, form, head, operands)
        return _never_minus_zero(value), slopes

    def loss(head: Head) -> Array:
        return _linear_loss(form, layout, head, operands)

    value, pull = jax.vjp(loss, head)
    return value, pull(jnp.ones_like(value))[0]


@partial(jax.jit, static_argnums=(0, 1))
def _linear_sums(form: Form, layout: linear.Layout | None, head: Head, operands: Operands) -> Sums:
    if layout is None:
        loss, *others = sums_of(OPS, *_with_logits(form, head, operands))
    else:
        head, operands = joined(form.plan, head, operands, layout.size)
        loss, *others = linear.sums_of(OPS, layout, form, head, operands)
    return (_never_minus_zero(loss), *others)


@partial(jax.jit, static_argnums=(0, 1))
def _few_linear_sums(
    form: Form, layout: linear.Layout | None, head: Head, operands: Operands
) -> tuple[Array, Array]:
    *floats, count = _linear_sums(form, layout, head, operands)
    return jnp.stack(floats), count


@partial(jax.jit, static_argnums=0)
def _sums(plan: Plan, operands: Operands) -> Sums:
    loss, *others = sums_of(OPS, plan, agreeing(plan, operands))
    return (_never_minus_zero(loss), *others)


@partial(jax.jit, static_argnums=0)
def _few_sums(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The sums in two arrays, since each that comes to the host takes its time."""
    *floats, count = _sums(plan, operands)
    return jnp.stack(floats), count


def _on_cpu(array: Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


_ROUTE = Route("row statistics (XLA)")
_SPLIT = Route("row statistics of split classes (XLA)")


class JaxBackend(Backend):
    """JAX."""

    name = "jax"

    def owns(self, value: object) -> bool:
        return isinstance(value, jax.Array)

    def outline(self, *arrays: Array | None) -> Any:
        parts: list[Any] = []
        for array in arrays:
            if array is None:
                parts.append(None)
            elif not self.owns(array) or isinstance(array, jax.core.Tracer):
                return None
            else:
                parts += (array.shape, array.dtype, array.sharding, array.committed)
        return tuple(parts)

    def spec(self, array: Array) -> Spec:
        return Spec(self.name, array.shape, array.dtype.name)

    def combinable(self, logits: Array, other: Array) -> str | None:
        if any(
            isinstance(array, jax.core.Tracer) or not array.committed for array in (logits, other)
        ):
            return None
        here, there = logits.sharding, other.sharding
        meshes = {sharding.mesh for sharding in (here, there) if hasattr(sharding, "mesh")}
        if here.device_set == there.device_set and len(meshes) < 2:
            return None
        return f"it is committed to {there}, the logits to {here}"

    def convert(self, name: str) -> str:
        return f"jnp.asarray({name})"

    def move(self, name: str) -> str:
        return f"numpy.asarray({name}), since host data joins the logits wherever they are"

    def read(self, array: Array, *, wait: bool) -> Any | None:
        if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable:
            return None
        if not wait and not _on_cpu(array):  # pragma: no cover (needs an accelerator)
            return None
        return np.asarray(array)

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        # An uncommitted array joins the logits wherever they are.
        return jnp.asarray(host.cast(values, dtype))

    def group(self, group: Any) -> Any:
        return group_of(group)

    def route(self, plan: Plan, size: int) -> Route:
        return _ROUTE if plan.class_group is None else _SPLIT

    def loss(self, plan: Plan, operands: Operands) -> Array:
        return _loss(plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        return _loss_and_gradient(plan, operands)

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        return linear.route(form, head)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        return _linear_loss(form, linear.layout_of(form, head), head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        layout = linear.layout_of(form, head)
        return _linear_loss_and_gradients(form, layout, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        return _linear_sums(form, linear.layout_of(form, head), head, operands)

    def linear_deliver(self, form: Form, head: Head, operands: Operands) -> Any | None:
        return self.send(_few_linear_sums(form, linear.layout_of(form, head), head, operands))

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        return _sums(plan, operands)

    def deliver(self, plan: Plan, operands: Operands) -> Any | None:
        return self.send(_few_sums(plan, operands))

    def send(self, numbers: tuple[Array, ...]) -> Any | None:
        if isinstance(numbers[0], jax.core.Tracer):
            return None
        if not _on_cpu(numbers[0]):  # pragma: no cover (needs an accelerator)
            for number in numbers:
                number.copy_to_host_async()
        return numbers

    def has_arrived(self, sent: Any) -> bool:
        return all(number.is_ready() for number in sent)

    def receive(self, sent: list[Any]) -> list[list[float]]:
        return [[value for part in each for value in np.ravel(part).tolist()] for each in sent]


BACKEND = JaxBackend()
