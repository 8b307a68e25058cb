"""Axes of a mesh over which the classes are split, inside `jax.shard_map`."""

from typing import Any

import jax

from unified_loss import _messages as messages
from unified_loss._types import Array
from unified_loss.exceptions import BackendError, OptionError

_WANTED = "the name of a mesh axis, or a tuple of several"


def group_of(group: Any) -> tuple[str, ...]:
    """The names of the axes, all of which there are here."""
    names = (group,) if isinstance(group, str) else group
    is_tuple = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    if not is_tuple or not names or len(set(names)) < len(names):
        raise OptionError(messages.option("class_group", group, _WANTED))
    for name in names:
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise OptionError(messages.no_such_axis(name)) from None
    return tuple(names)


def refuse_replicas(array: Array, names: tuple[str, ...], what: str = "logits") -> None:
    """R33: what is the same on members, where the types of JAX tell (`check_vma`)."""
    own = _varying(array)
    same = [name for name in names if name in _varying(jax.lax.axis_index(name)) - own]
    if same:
        raise BackendError(messages.replicated(same, what))


def varied(x: Array, names: tuple[str, ...]) -> Array:
    """`x`, which is the same on all members, as one that differs by its type: its slopes add up."""
    return x + (jax.lax.axis_index(names) * 0).astype(x.dtype)


def _varying(x: Array) -> frozenset[str]:
    """The mesh axes along which an array differs by its type; none where JAX does not follow it."""
    kind = jax.typeof(x)
    found = getattr(kind, "vma", None)  # until JAX 0.9
    return kind.manual_axis_type.varying if found is None else found
