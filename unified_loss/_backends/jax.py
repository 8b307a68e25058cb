"""JAX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._backends.array_api import ArrayOps
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Operands, Plan, Size, Spec

NAME = "jax"


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_sum_exp(f: Array, axis: int) -> Array:
    """Without it, autodiff would keep exp f as well."""
    return jnp.log(jnp.sum(jnp.exp(f), axis, keepdims=True))


@log_sum_exp.defjvp
def _log_sum_exp_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (f,), (df,) = primals, tangents
    l = log_sum_exp(f, axis)
    return l, jnp.sum(jnp.exp(f - l) * df, axis, keepdims=True)


class JaxOps(ArrayOps):
    """`Ops` on JAX.

    A comparison with an iota, which fuses, serves for gathers: it shards, and its gradient
    scatters nothing.
    """

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

    def log_sum_exp(self, f: Array, axis: int) -> Array:
        return log_sum_exp(f, axis)

    def count(self, x: Array, dtype: str) -> Array:
        return jnp.sum(x).astype(dtype)

    def examples(self, logits: Array, axis: int, dtype: str) -> Any:
        count = super().examples(logits, axis, dtype)
        return count if isinstance(count, int) else jnp.asarray(count, dtype)

    def stop_gradient(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return self.sum(jnp.where(self._hit(ids, x, axis), x, 0.0), axis)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        return weights[ids]

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        return jnp.where(self._hit(ids, x, axis), x - b, x)

    def _hit(self, ids: Array, like: Array, axis: int) -> Array:
        return ids == jax.lax.broadcasted_iota(ids.dtype, like.shape, axis)


OPS = JaxOps(jnp)


def owns(value: object) -> bool:
    return isinstance(value, jax.Array)


def refusal(array: Array) -> str | None:
    return None


def is_tracing() -> bool:
    return False


def spec(array: Array) -> Spec:
    return Spec(NAME, array.shape, array.dtype.name)


def same_size(a: Size, b: Size) -> bool | None:
    return rules.same_size(a, b)


def combinable(logits: Array, other: Array) -> str | None:
    here, there = _committed(logits), _committed(other)
    if here is None or there is None or here == there:
        return None
    return f"it is committed to {_shown(there)}, the logits to {_shown(here)}"


def _committed(array: Array) -> Any:
    if isinstance(array, jax.core.Tracer) or not array.committed:
        return None
    return array.sharding.device_set


def _shown(devices: Any) -> str:
    return ", ".join(sorted(map(str, devices)))


def convert(name: str) -> str:
    return f"jnp.asarray({name})"


def move(name: str) -> str:
    return f"jax.device_put({name}, logits.sharding)"


def read(array: Array, *, wait: bool) -> Any | None:
    if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable:
        return None
    if not wait and any(device.platform != "cpu" for device in array.devices()):
        return None
    return np.asarray(array)


def from_host(values: Any, logits: Array, dtype: str) -> Array:
    # An uncommitted array joins the logits wherever they are.
    return jnp.asarray(host.cast(values, dtype))


@partial(jax.jit, static_argnums=0)
def loss(plan: Plan, operands: Operands) -> Array:
    return loss_of(OPS, plan, operands)


@partial(jax.jit, static_argnums=0)
def loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    return loss_and_gradient_of(OPS, plan, operands)


def kernel(plan: Plan, operands: Operands) -> str:
    return "row statistics (XLA)"
