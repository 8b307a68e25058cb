"""Host data beside the logits, and label values that can be read: NumPy on a few small arrays."""

import re
import sys
from collections.abc import Callable
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss import _messages as messages
from unified_loss._rules import SIGNED, UNBOUNDED, UNSIGNED
from unified_loss._types import Plan, Spec
from unified_loss.exceptions import BackendError, LabelError

DROPPED, OUT_OF_RANGE = -1, -2  # codes of `encoded`; no class has them
_INT32_MAX = 2**31 - 1

# The unsigned dtype to read integers in, and where those begin that are negative in their own.
_UNSIGNED = {
    np.dtype(f"{sign}{size}"): (np.dtype(f"u{size}"), 2 ** (8 * size - (sign == "i")))
    for sign in "iu"
    for size in (1, 2, 4, 8)
}

_HOST_TYPES = (np.ndarray, np.generic, Number)
_DEEPEST = 64  # more axes NumPy's arrays cannot have
HostArray = npt.NDArray[Any]


def is_host_data(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value is Python or NumPy data: numbers, (nested) sequences of them, arrays."""
    if isinstance(value, range):
        return True
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_host_data(item, depth - 1) for item in value)
    return isinstance(value, _HOST_TYPES)


def refusal(value: Any) -> str | None:
    """Why NumPy data cannot be used, if so."""
    if isinstance(value, np.ma.MaskedArray):
        return "its mask would be lost; pass the data, and the mask as sample_weight=~array.mask"
    return None


def as_numpy(value: Any, name: str) -> HostArray:
    """Host data as a NumPy array; integers stay integers, whatever their size."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise BackendError(
            messages.refused(name, "a nested list", "its rows have different lengths")
        ) from None
    except Exception as error:  # noqa: BLE001 - what an object's own methods raise
        kind = messages.name_of(type(value))
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


def are_class_ids(labels: HostArray, num_classes: int) -> bool:
    """Whether there are labels, and all are class ids."""
    found = _UNSIGNED.get(labels.dtype)
    if found is None or not labels.size:
        return False
    unsigned, limit = found
    return bool(np.maximum.reduce(labels.view(unsigned), None) < min(limit, num_classes))


def check_index_labels(plan: Plan, labels: HostArray, weight_drops: Callable[[], Any]) -> Plan:
    """R17: raise `LabelError` for labels out of range that are not dropped.

    Returns the plan with what is known now of these labels. `weight_drops` is called only if some
    are out of range: it returns where the sample weight is zero, shaped to broadcast against the
    labels, or None if that cannot be known for free.
    """
    classes, ignore_index = plan.num_classes, plan.ignore_index
    if labels.size == 0:
        return plan.of_class_ids()
    if not isinstance(classes, int):
        return plan
    low, high = labels.min(), labels.max()
    if low >= 0 and high < classes:
        absent = ignore_index is None or not low <= ignore_index <= high
        absent = absent or not bool(np.any(labels == ignore_index))
        return plan.of_class_ids() if absent else plan.of_known_ids()
    if plan.labels_keep_axis:
        labels = np.squeeze(labels, plan.axis)
    kept = np.ones(labels.shape, bool)
    if ignore_index is not None:
        kept = np.asarray(labels != ignore_index, bool)
    bad = kept & np.asarray((labels < 0) | (labels >= classes), bool)
    if not bad.any():
        return plan.of_known_ids()
    drops = weight_drops()
    if drops is None:
        return plan
    kept &= np.logical_not(drops)
    bad &= kept
    if not bad.any():
        return plan
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    low, high, count = int(labels[kept].min()), int(labels[kept].max()), int(bad.sum())
    raise LabelError(
        messages.bad_labels(count, labels.size, first, low, high, classes)
    ).with_details(count=count, first=first, smallest=low, largest=high)


def check_dense_labels(plan: Plan, labels: HostArray, dropped: Any) -> None:
    """R17 under ``check=True``: rows must be finite and non-negative."""
    values, kept = _rows(plan, labels, dropped)
    bad = ~(np.isfinite(values) & (values >= 0)) & kept[..., None]
    if bad.any():
        bad = np.moveaxis(bad, -1, plan.axis)
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        count = int(bad.sum())
        raise LabelError(messages.bad_probabilities(count, labels.size, first)).with_details(
            count=count, first=first, smallest=float(values.min()), largest=float(values.max())
        )


def sums_to_one(plan: Plan, labels: HostArray, dropped: Any) -> bool:
    """R17: whether dense label rows sum to 1."""
    values, kept = _rows(plan, labels, dropped)
    error = np.abs(values.sum(-1) - 1)
    return not bool(np.any(kept & (error > values.shape[-1] * _epsilon(plan.labels_dtype))))


def is_softmax_output(plan: Plan, logits: HostArray) -> bool:
    """Whether logits look like probabilities: in [0, 1], not all 0 or 1, with rows of sum 1."""
    if logits.size == 0 or logits.shape[plan.axis] == 1:
        return False
    if logits.min() < 0 or not logits.max() <= 1:
        return False
    errors = np.abs(logits.sum(plan.axis, dtype=np.float64) - 1)
    limit = max(logits.shape[plan.axis] * _epsilon(plan.logits_dtype), 1e-6)
    return bool(np.all(errors <= limit) and np.any((logits > 0) & (logits < 1)))


def all_ignored(plan: Plan, labels: HostArray) -> bool:
    """Whether there are labels, and every one is `ignore_index`."""
    ignored = plan.ignore_index is not None and labels.size > 0
    return ignored and bool(np.all(labels == plan.ignore_index))


def _rows(plan: Plan, labels: HostArray, dropped: Any) -> tuple[HostArray, HostArray]:
    """Dense labels with the class axis last, and which rows are not dropped."""
    values = np.moveaxis(labels.astype(np.float64), plan.axis, -1)
    return values, np.ones(values.shape[:-1], bool) & np.logical_not(dropped)


def _epsilon(dtype: str) -> float:
    found = re.search(r"e\d+m(\d)", dtype)  # float8_e4m3 and its like
    bits = int(found[1]) if found else {"float16": 10, "bfloat16": 7, "float64": 52}.get(dtype, 23)
    return 2.0**-bits
