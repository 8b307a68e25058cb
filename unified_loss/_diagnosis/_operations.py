"""The operations of a fix: what each does to shapes, to ranges and to the meaning of labels.

How they are written is said by the dialect of each library.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from unified_loss import _libraries as libraries
from unified_loss._diagnosis._facts import Facts
from unified_loss._libraries._dialect import PYTHON
from unified_loss._shapes import without
from unified_loss._types import Shape, Size


class Operation(NamedTuple):
    """One operation.

    Attributes
    ----------
    shape
        The new shape, from the old one and the value.
    keeps
        Whether labels mean afterwards what they meant before, and all of them are there.
    condition
        In words, when that does no harm where it does not keep the meaning.
    bound
        The new bound of a range, from the old one and the value; None: any range is good then.
    dtype
        The new dtype, from the old one and the value.
    """

    shape: Callable[[Shape, Any], Shape]
    keeps: Callable[[Facts, Any], bool] = lambda _, __: False
    condition: str = ""
    bound: Callable[[Any, Any], Any] | None = lambda bound, _: bound
    dtype: Callable[[str, Any], str] = lambda dtype, _: dtype


def _always(_: Facts, __: Any) -> bool:
    return True


def _same(shape: Shape, _: Any) -> Shape:
    return shape


def _sliced(size: Size, start: int | None, stop: int | None) -> Size:
    return len(range(size)[start:stop]) if isinstance(size, int) else None


def _strided(size: Size, step: int) -> Size:
    return size if step == 1 else len(range(0, size, step))


def _at(shape: Shape, axis: int, *sizes: Size) -> Shape:
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def _cast_keeps(facts: Facts, dtype: str) -> bool:
    """Integers hold whole numbers alone, and nobody means 0 and 1 for ids of many classes."""
    is_whole = facts.whole or facts.problem.labels.dtype == "bool"
    return dtype != "int64" or (is_whole and not facts.binary_target)


def _is_one_hot(facts: Facts, axis: int) -> bool:
    values = facts.values
    return values is not None and values.binary and axis in values.unit_axes


def _keeps_neighbors(facts: Facts, order: tuple[int, ...]) -> bool:
    """Whether sizes tell the order: equal ones stay side by side, as height and width do.

    Apart from each other, or where one is that of the batch, they could as well be exchanged.
    """
    sizes = facts.labels
    for size in sizes:
        twins = [i for i, other in enumerate(sizes) if facts.fits((other,), (size,))]
        places = [order.index(i) for i in twins]
        if len(twins) > 1 and not (_are_side_by_side(twins) and _are_side_by_side(places)):
            return False
    return True


def _are_side_by_side(axes: list[int]) -> bool:
    return axes[0] > 0 and axes == list(range(axes[0], axes[0] + len(axes)))


OPERATIONS: dict[str, Operation] = {
    "argmax": Operation(
        without,
        _is_one_hot,
        "each row has a single one (one-hot)",
        None,
        lambda _, __: "int64",
    ),
    "cast": Operation(
        _same,
        _cast_keeps,
        "labels are class ids, whole numbers",
        dtype=lambda _, dtype: dtype,
    ),
    "reshape": Operation(lambda _, new: new, _always),
    "squeeze": Operation(without, _always),
    "insert": Operation(lambda shape, axis: (*shape[:axis], 1, *shape[axis:]), _always),
    "permute": Operation(
        lambda shape, order: tuple(shape[i] for i in order),
        _keeps_neighbors,
        "the axes of one size are not exchanged",
    ),
    "transpose": Operation(lambda shape, _: shape[::-1], _always),
    "pad": Operation(
        lambda shape, _: (*shape[:-1], shape[-1] + 1),
        condition="each label is that of the position before it",
    ),
    "pair": Operation(
        lambda shape, axis: (*shape, 2) if axis is None else _at(shape, axis, 2),
        condition="each is the score of class 1 against class 0",
    ),
    "mean": Operation(
        lambda shape, axes: tuple(size for i, size in enumerate(shape) if i not in axes),
        condition="one prediction per example is meant",
    ),
    "broadcast": Operation(lambda _, new: new, condition="all examples share it"),
    "exp": Operation(_same, condition="they are log-probabilities", bound=None),
    "one_hot": Operation(
        lambda shape, classes: (*shape, classes),
        _always,
        bound=None,
        dtype=lambda _, __: "float32",
    ),
    "fill": Operation(
        _same,
        condition="examples without a label do not count",
        dtype=lambda _, __: "int64",
    ),
    "number": Operation(_same, condition="all of them are here", dtype=lambda _, __: "int64"),
    "cut": Operation(
        lambda shape, value: _at(shape, value[0], _sliced(shape[value[0]], *value[1:])),
        condition="what is cut off does not count",
    ),
    "pick": Operation(
        lambda shape, value: without(shape, value[0]), condition="the others do not count"
    ),
    "stride": Operation(
        lambda shape, value: tuple(
            _strided(size, dict(value).get(i, 1)) for i, size in enumerate(shape)
        ),
        condition="every k-th pixel is enough",
    ),
    "subtract": Operation(_same, condition="they start there", bound=lambda bound, n: bound - n),
    "divide": Operation(
        _same, condition="they are multiples of it", bound=lambda bound, n: bound // n
    ),
    "resize": Operation(
        lambda _, value: value[2], condition="the images are the same but for their size"
    ),
}


def expression(library: str, name: str, operations: tuple[tuple[str, Any], ...]) -> str | None:
    """Code for operations on the argument `name`, one after the other.

    Empty: the library's way of writing them is not known. None: it has no such operation.
    """
    dialect = PYTHON if library == "python" else libraries.named(library).dialect
    if not dialect:
        return ""
    code = name
    for operation, value in operations:
        if operation not in dialect:
            return None
        code = dialect[operation](code, value)
    ends_in_arithmetic = bool(operations) and operations[-1][0] in {"subtract", "divide"}
    return code[1:-1] if ends_in_arithmetic else code


def aliases(code: str) -> dict[str, str]:
    """The modules that the code names, by their usual names."""
    known: dict[str, str] = {}
    for library in map(libraries.named, libraries.known_names()):
        known |= library.aliases
    return {name: known[name] for name in re.findall(r"\b(\w+)\.", code) if name in known}
