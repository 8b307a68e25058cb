"""Operands that agree in size, and in how an explicit mesh splits them.

JAX computes only with sizes that it can prove equal. And it splits no operand of a selection or a
gather to match another one, so all get one layout first; splitting a replicated one moves nothing.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jax.sharding import NamedSharding, PartitionSpec

from unified_loss import _messages as messages
from unified_loss._offered import hinted
from unified_loss._shapes import Axes, operand_axes, sizes_along
from unified_loss._types import Array, Head, Operands, Plan
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


def _axes(names: Any) -> set[Any]:
    """Mesh axes, one by one."""
    groups = (name if isinstance(name, tuple) else (name,) for name in names if name is not None)
    return {each for group in groups for each in group}


def _reshard(x: Array, *names: Any, mesh: Any = None) -> Array:
    where = NamedSharding(mesh or jax.typeof(x).sharding.mesh, PartitionSpec(*names))
    return jax.sharding.reshard(x, where)


def split(x: Array) -> tuple[Any, ...]:
    """The mesh axes over which the type of `x` splits each axis, None where it does not."""
    return tuple(jax.typeof(x).sharding.spec)


def layout(like: Array, *names: Any) -> NamedSharding | None:
    """Axes split over these mesh axes, on the mesh of `like`; None where none is split."""
    if not any(names):
        return None
    return NamedSharding(jax.typeof(like).sharding.mesh, PartitionSpec(*names))


# Of the linear form.


def joined(plan: Plan, head: Head, operands: Operands, block: Any) -> tuple[Head, Operands]:
    """The arguments, split as an explicit mesh can multiply them; `block`: its classes.

    Rows are split as one of the arguments says, and classes as the weight or dense labels say; of
    hidden the features are whole. Where rows and classes are split over one mesh axis, either has
    to move: the rows if they are fewer than the classes of a block, else each block in its turn.
    """
    hidden, weight, bias = head
    last = hidden.ndim - 1
    of_all = operand_axes(plan, operands._replace(logits=hidden))
    axes = {"hidden": (*range(last), None), "labels": of_all.labels}
    if plan.sample_weight != "none":
        axes["sample_weight"] = of_all.sample_weight
    arrays = operands._asdict() | head._asdict()
    names, guide = _names(arrays, axes)
    over, features = split(weight)
    met = {axis for axis, name in names.items() if axis != last and _meet(name, over)}
    if met and _is_below(hidden.shape[:-1], block):
        names = {axis: name for axis, name in names.items() if axis not in met}
        met = set()
    if over is not None:
        field, guide = "weight", weight
        if names.setdefault(last, over) != over:
            raise _conflict(field, arrays, "hidden")
        if met:
            del names[last]
    else:
        own = names.get(last)
        weight = _split_as(weight, guide, (own, None if _meet(features, own) else features))

    def laid(array: Array | None, own: Any) -> Array | None:
        return None if array is None else _split_as(array, guide, tuple(map(names.get, own)))

    operands = operands._replace(
        labels=laid(operands.labels, axes["labels"]),
        class_weight=laid(operands.class_weight, (last,)),
        sample_weight=laid(operands.sample_weight, of_all.sample_weight),
    )
    return Head(laid(hidden, axes["hidden"]), weight, laid(bias, (last,))), operands


def whole(x: Array) -> Array:
    """An array that is whole on each device, on an explicit mesh."""
    return _reshard(x, *(None for _ in x.shape)) if any(split(x)) else x


def beside_rows(hidden: Array, weight: Any) -> Any:
    """Rows of a weight, split over no mesh axis that the rows of hidden have; None stays None.

    An explicit mesh cannot split a product in two ways by one axis. Features, where there are any,
    are whole, since each logit would be a sum over devices.
    """
    if weight is None:
        return None
    classes, features = split(weight)
    is_met = any(_meet(name, classes) for name in split(hidden)[:-1])
    if features is None and not is_met:
        return weight
    return _reshard(weight, None if is_met else classes, None)


def with_whole_features(hidden: Array, weight: Array) -> tuple[Array, Array]:
    """Hidden, and rows of a weight, with features that no automatic mesh splits.

    A partitioner that is not told adds up each logit over the devices, which moves less only where
    there are fewer rows than features.
    """
    meshes = (jax.typeof(array).sharding.mesh for array in (weight, hidden))
    mesh = next((mesh for mesh in meshes if mesh.axis_names), None)
    if mesh is None or not mesh.are_all_axes_auto or _is_below(hidden.shape[:-1], weight.shape[1]):
        return hidden, weight
    return _with_whole_rows(mesh, hidden), _with_whole_rows(mesh, weight)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_whole_rows(mesh: Any, x: Array) -> Array:
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*free, None)))


@_with_whole_rows.defjvp
def _with_whole_rows_jvp(mesh: Any, primals: Any, tangents: Any) -> Any:
    return _with_whole_rows(mesh, *primals), tangents[0]  # gradients are split as ever


def _is_below(rows: Any, size: Any) -> bool:
    """Whether there are fewer rows than this; no, where that is not known."""
    return all(isinstance(one, int) for one in (*rows, size)) and math.prod(rows) < size


def _meet(one: Any, other: Any) -> bool:
    """Whether two axes are split over one mesh axis."""
    return bool(_axes([one]) & _axes([other]))


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
    names, guide = _names(operands._asdict(), axes)
    changes = {
        field: _split_as(getattr(operands, field), guide, tuple(map(names.get, own)))
        for field, own in axes.items()
    }
    return operands._replace(**changes)


def _names(arrays: dict[str, Array], axes: dict[str, Axes]) -> tuple[dict[int | None, Any], Array]:
    """The mesh axes that split each axis of the logits, and an array that is on the mesh."""
    names: dict[int | None, Any] = {}
    first = next(iter(axes))
    guide = arrays[first]
    for field, own in axes.items():
        for axis, name in zip(own, split(arrays[field]), strict=True):
            if name is not None and axis is not None:
                guide = arrays[field]
                if names.setdefault(axis, name) != name:
                    raise _conflict(field, arrays, first)
        if _repeats(names):
            raise _conflict(field, arrays, first)
    return names, guide


def _repeats(names: dict[int | None, Any]) -> bool:
    """Whether two axes are split over the same mesh axis."""
    groups = [name if isinstance(name, tuple) else (name,) for name in names.values()]
    return len({each for group in groups for each in group}) < sum(map(len, groups))


def _split_as(array: Array, guide: Array, names: tuple[Any, ...]) -> Array:
    """`array` on the mesh of another one, if that has one, and split over these of its axes."""
    here, there = (jax.typeof(one).sharding.mesh for one in (array, guide))
    is_there = here.axis_names or not there.explicit_axes
    if is_there and split(array) == names:
        return array
    return _reshard(array, *names, mesh=there if there.axis_names else here)


def _conflict(field: str, arrays: dict[str, Array], first: str) -> BackendError:
    here, there = (jax.typeof(arrays[each]) for each in (first, field))
    reason = f"the mesh splits it as {there.str_short()}, the logits as {here.str_short()}"
    fix = f"jax.sharding.reshard({field}, jax.P()) before the call"
    return BackendError(messages.cannot_combine(field, reason, fix, first))
