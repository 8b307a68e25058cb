"""Operands that agree in size, and in how an explicit mesh splits them.

JAX computes only with sizes that it can prove equal. And it splits no operand of a selection or a
gather to match another one, so all get one layout first; splitting a replicated one moves nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jax.sharding import NamedSharding, PartitionSpec

from unified_loss import _messages as messages
from unified_loss._offered import hinted
from unified_loss._shapes import Axes, operand_axes, sizes_along
from unified_loss._types import Array, Operands, Plan
from unified_loss.exceptions import BackendError, ShapeError


def agreeing(plan: Plan, operands: Operands) -> Operands:
    """The operands, ready to be computed with."""
    of_all = operand_axes(plan, operands)._asdict()
    axes = {field: own for field, own in of_all.items() if own and field != "normalizer"}
    _prove_sizes(plan, operands, axes)
    operands = _split_alike(operands, axes)
    others = {field: opaque(getattr(operands, field)) for field in axes if field != "logits"}
    return operands._replace(**others)


@jax.custom_jvp
def opaque(x: Array) -> Array:
    """`x`, and no constant to XLA, which would take seconds to compute sums of a large one."""
    return jax.lax.platform_dependent(x, cpu=optimization_barrier, default=_with_nothing_added)


@opaque.defjvp
def _opaque_jvp(primals: Any, tangents: Any) -> Any:
    return opaque(*primals), tangents[0]


def _with_nothing_added(x: Array) -> Array:
    """`x`, from which a barrier of its own size would keep what could fuse with it."""
    if x.dtype == bool:
        return x | optimization_barrier(jnp.zeros((), bool))
    nothing = jnp.zeros((), x.dtype)
    return x + optimization_barrier(-nothing if jnp.issubdtype(x.dtype, jnp.floating) else nothing)


def with_whole_features(hidden: Array) -> Array:
    """Hidden states each of which is whole on a device, on an explicit mesh."""
    *rows, features = split(hidden)
    return _reshard(hidden, *rows, None) if features else hidden


def whole(x: Array) -> Array:
    """An array that is whole on each device, on an explicit mesh."""
    return _reshard(x, *(None for _ in x.shape)) if any(split(x)) else x


def beside_rows(hidden: Array, part: Any) -> Any:
    """Rows of a weight, or numbers of classes, split over no mesh axis that the rows have.

    An explicit mesh cannot split a product in two ways by one axis. Features, where there are any,
    are whole, since each logit would be a sum over devices. None stays None.
    """
    if part is None:
        return None
    rows = _axes(split(hidden)[:-1])
    classes, *features = split(part)
    if not any(features) and not rows & _axes([classes]):
        return part
    return _reshard(part, None if rows & _axes([classes]) else classes, *(None for _ in features))


def placed_like(x: Array | None, like: Array) -> Array | None:
    """`x`, split as the type of another array says."""
    return x if x is None or split(x) == split(like) else _reshard(x, *split(like))


def _axes(names: Any) -> set[Any]:
    """Mesh axes, one by one."""
    groups = (name if isinstance(name, tuple) else (name,) for name in names if name is not None)
    return {each for group in groups for each in group}


def _reshard(x: Array, *names: Any) -> Array:
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*names)))


def split(x: Array) -> tuple[Any, ...]:
    """The mesh axes over which the type of `x` splits each axis, None where it does not."""
    return tuple(jax.typeof(x).sharding.spec)


def layout(like: Array, *names: Any) -> NamedSharding | None:
    """Axes split over these mesh axes, on the mesh of `like`; None where none is split."""
    if not any(names):
        return None
    return NamedSharding(jax.typeof(like).sharding.mesh, PartitionSpec(*names))


def _prove_sizes(plan: Plan, operands: Operands, axes: dict[str, Axes]) -> None:
    """R3, R5: symbolic sizes that may differ are refused; one symbol equals only itself."""
    sizes = operands.logits.shape
    for field, own in axes.items():
        shape = getattr(operands, field).shape
        wanted = sizes_along(own, sizes)
        if shape != wanted:
            text = messages.sizes_differ(field, shape, wanted)
            fix = "JAX needs sizes that are provably equal: use the same symbols."
            raise ShapeError(hinted(text, fix)).with_details(
                logits_shape=sizes, labels_shape=operands.labels.shape, axis=plan.axis
            )


def _split_alike(operands: Operands, axes: dict[str, Axes]) -> Operands:
    """Each axis of the logits split in the one way that one of the operands asks for."""
    names: dict[int | None, Any] = {}
    guide = operands.logits
    for field, own in axes.items():
        array = getattr(operands, field)
        for axis, name in zip(own, split(array), strict=True):
            if name is not None and axis is not None:
                guide = array
                if names.setdefault(axis, name) != name:
                    raise _conflict(field, operands)
        if _repeats(names):
            raise _conflict(field, operands)
    changes = {
        field: _split_as(getattr(operands, field), guide, tuple(map(names.get, own)))
        for field, own in axes.items()
    }
    return operands._replace(**changes)


def _repeats(names: dict[int | None, Any]) -> bool:
    """Whether two axes are split over the same mesh axis."""
    groups = [name if isinstance(name, tuple) else (name,) for name in names.values()]
    return len({each for group in groups for each in group}) < sum(map(len, groups))


def _split_as(array: Array, guide: Array, names: tuple[Any, ...]) -> Array:
    return array if split(array) == names else jax.sharding.reshard(array, layout(guide, *names))


def _conflict(field: str, operands: Operands) -> BackendError:
    here, there = (jax.typeof(getattr(operands, each)) for each in ("logits", field))
    reason = f"the mesh splits it as {there.str_short()}, the logits as {here.str_short()}"
    fix = f"jax.sharding.reshard({field}, jax.P()) before the call"
    return BackendError(messages.cannot_combine(field, reason, fix))
