"""Host data beside the logits: Python's numbers and lists, and NumPy's arrays."""

import re
import sys
from collections.abc import Iterator
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss import _messages as messages
from unified_loss._rules import SIGNED, UNBOUNDED, UNSIGNED, is_array
from unified_loss._shown import name_of
from unified_loss._types import Spec
from unified_loss.exceptions import BackendError

DROPPED, OUT_OF_RANGE = -1, -2  # codes of `encoded`; no class has them
_INT32_MAX = 2**31 - 1

_HOST_TYPES = (np.ndarray, np.generic, Number)
_DEEPEST = 64  # more axes NumPy's arrays cannot have
_ROWS = 3  # lists in lists that arrays are looked for in
HostArray = npt.NDArray[Any]


def is_host_data(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value is Python or NumPy data: numbers, (nested) sequences of them, arrays."""
    if isinstance(value, range):
        return True
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_host_data(item, depth - 1) for item in value)
    return isinstance(value, _HOST_TYPES)


def entries(value: Any, depth: int = _ROWS) -> Iterator[Any]:
    """What a (nested) list holds, lists that are deeper among it."""
    if isinstance(value, list | tuple) and depth:
        for item in value:
            yield from entries(item, depth - 1)
    else:
        yield value


def array_in(value: Any, depth: int = _ROWS) -> Any:
    """The first array that a (nested) list holds, and NumPy's are no such; None: there is none."""
    arrays = (entry for entry in entries(value, depth) if is_array(entry))
    return next((array for array in arrays if not isinstance(array, _HOST_TYPES)), None)


def is_missing(entry: Any) -> bool:
    """Whether an object stands for no value: None, NaN, or the like of another package."""
    try:
        return entry is None or bool(entry != entry)  # noqa: PLR0124 (which NaN alone is not)
    except TypeError:  # pandas' NA is neither equal nor not
        return True
    except Exception:  # noqa: BLE001 - what an object's own method raises
        return False


def refusal(value: Any) -> str | None:
    """Why NumPy data cannot be used, if so."""
    if isinstance(value, np.ma.MaskedArray):
        return messages.MASK_LOST
    return None


def as_numpy(value: Any, name: str) -> HostArray:
    """Host data as a NumPy array; integers stay integers, whatever their size."""
    reason = refusal(value)
    if reason is not None:
        raise BackendError(messages.refused(name, name_of(type(value)), reason, value.dtype))
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise BackendError(
            messages.refused(name, "a nested list", "its rows have different lengths")
        ) from None
    except Exception as error:  # noqa: BLE001 - what an object's own methods raise
        kind = name_of(type(value))
        reason = f"NumPy cannot read it ({type(error).__name__})"
        raise BackendError(messages.refused(name, kind, reason)) from None
    if array.size == 0 and array.dtype == np.float64:  # an empty list has no dtype of its own
        return array.astype(np.int64)
    if array.dtype.kind in "fO":  # integers beyond 64 bits become floats or objects
        exact = np.asarray(value, dtype=object)
        if _are_integers(exact):
            return exact
    return array


def spec(value: Any, array: HostArray) -> Spec:
    """What the rules may know of `value`, which is `array` in NumPy."""
    # An object array of integers alone is of their own, unbounded dtype.
    dtype = UNBOUNDED if array.dtype == object and _are_integers(array) else array.dtype.name
    return Spec("numpy" if hasattr(value, "dtype") else "python", array.shape, dtype)


def _are_integers(array: HostArray) -> bool:
    return all(isinstance(item, int | np.integer) and item is not True and item is not False
               for item in array.flat)  # fmt: skip


def in_bytes(array: HostArray) -> HostArray:
    """Integers of fewer bits, which have another package's dtype, in NumPy's of eight."""
    name = array.dtype.name
    if array.dtype.kind != "V" or name not in SIGNED | UNSIGNED:
        return array
    return array.astype(np.int8 if name in SIGNED else np.uint8)


def cast(values: HostArray, dtype: str) -> HostArray:
    """Host data in a dtype that every library can take."""
    return np.ascontiguousarray(converted(values, dtype)).reshape(values.shape)


def converted(values: HostArray, dtype: str) -> HostArray:
    """Host data in another dtype; numbers beyond it are infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            return values.astype(dtype, copy=False)
        except OverflowError:  # of Python's integers
            infinite = abs(values) > int(sys.float_info.max)
            return np.where(infinite, np.sign(values) * np.inf, values).astype(dtype)


def encoded(labels: HostArray, num_classes: Any, ignore_index: int | None) -> HostArray:
    """Index labels as int32 class ids, with `DROPPED` and `OUT_OF_RANGE` for the others."""
    high = min(num_classes - 1, _INT32_MAX) if isinstance(num_classes, int) else _INT32_MAX
    foreign = np.asarray((labels < 0) | (labels > high), bool)
    codes = np.where(foreign, 0, labels).astype(np.int32)  # their dtype may hold no negative code
    codes = np.where(foreign, OUT_OF_RANGE, codes)
    if ignore_index is not None:
        codes = np.where(np.asarray(labels == ignore_index, bool), DROPPED, codes)
    return codes.astype(np.int32)


def epsilon(dtype: str) -> float:
    """The machine epsilon of a dtype."""
    found = re.search(r"e\d+m(\d)", dtype)  # float8_e4m3 and its like
    bits = int(found[1]) if found else {"float16": 10, "bfloat16": 7, "float64": 52}.get(dtype, 23)
    return 2.0**-bits
