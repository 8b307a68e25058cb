"""Columns of tables, and whatever else NumPy can read: host data of other packages (R2)."""

import sys
from numbers import Number
from typing import Any

import numpy as np

from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _offered as offered
from unified_loss import _rules as rules
from unified_loss._dispatch import ALIASES, known_names
from unified_loss._offered import Offer
from unified_loss._shown import name_of
from unified_loss.exceptions import BackendError

ARRAYS = frozenset({*known_names(), *ALIASES})  # whose arrays have a place
TABLES = frozenset({"pandas", "polars", "pyarrow"})
TEXT = (str, bytes, bytearray)
IGNORED = rules.DEFAULT_IGNORE_INDEX


def as_host(value: Any, name: str) -> Any:
    """A column, a table or a buffer as a NumPy array; anything else as it is.

    `BackendError`, with code that runs, for one that would lose something.
    """
    kind = type(value)
    if isinstance(value, dict | str) and name == "class_weight":
        raise BackendError(_by_name(value))
    method = next((each for each in ("toarray", "todense") if hasattr(kind, each)), None)
    if method is not None:
        dense = offered.converted(name, f"{name}.{method}()", "make it dense")
        raise _unreadable(value, name, "it is sparse", dense)
    if isinstance(value, TEXT) or not _is_readable(value):
        return value
    try:
        array = np.asarray(value)
    except Exception as error:  # noqa: BLE001 - what another package raises
        reason = f"NumPy cannot read it ({type(error).__name__})"
        raise _unreadable(value, name, reason) from None
    missing = _number_missing(value)
    lost = f"{missing} {'entry is' if missing == 1 else 'entries are'} missing"
    if _holds_objects(array):
        reason = "it holds text or objects" if name == "labels" else "it holds no numbers"
        reason = f"{reason}, and {lost}" if missing else reason
        raise _unreadable(value, name, reason, *_numbered(value, name, missing), of=offered.NAMES)
    if missing:
        raise _unreadable(value, name, lost, _filled(value, name), of=offered.MISSING)
    return host.as_numpy(array.tolist(), name) if array.dtype.kind == "O" else array


def _unreadable(
    value: Any, name: str, reason: str, *offers: Offer, of: str | None = None
) -> BackendError:
    """The error of a column; `of` is what labels are then that hold such."""
    cause = offered.OTHER_KIND if of is None or name != "labels" else of
    text = messages.unreadable(name, name_of(type(value)), reason, *offers, cause=cause)
    return BackendError(text)


def text(value: Any, name: str) -> str | None:
    """The message of class names in a NumPy array or a list, which are no class ids."""
    array = value if isinstance(value, np.ndarray) else None
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        array = np.asarray(value)
    is_text = array is not None and array.size and isinstance(array.flat[0], str)
    if name != "labels" or not is_text:
        return None
    kind = name_of(type(value)).removeprefix("builtins.")
    number = offered.on_condition(offered.WHOLE, "number them", f"labels = {offered.CLASS_IDS}")
    return messages.unreadable(name, kind, "it holds text", number, cause=offered.NAMES)


def _is_readable(value: Any) -> bool:
    """Whether it reads as a NumPy array, and is of no library that has a backend."""
    kind = type(value)
    packages = {rules.package_of(base) for base in kind.__mro__}
    if packages & ARRAYS or hasattr(kind, "__array_namespace__"):
        return False
    if hasattr(kind, "__array__"):
        return True
    if isinstance(value, list | tuple | range | int | float | complex):
        return False
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _package(value: Any) -> str:
    """Whose methods a column has; one of a derived class has those of its base."""
    packages = (rules.package_of(base) for base in type(value).__mro__)
    return next((package for package in packages if package in TABLES), "")


def _number_missing(value: Any) -> int:
    """How many entries have no value; NaN among floating numbers is a value."""
    package = _package(value)
    if package in {"polars", "pyarrow"}:
        found = getattr(value, "null_count", 0)
        found = found() if callable(found) else found
        return int(found) if isinstance(found, int) else int(np.sum(np.asarray(found)))
    pandas = sys.modules.get("pandas") if package == "pandas" else None
    if pandas is None:
        return 0
    dtype = getattr(value, "dtype", None)
    dtypes = getattr(value, "dtypes", ()) if dtype is None else (dtype,)
    if all(isinstance(one, np.dtype) and one.kind != "O" for one in dtypes):
        return 0
    return int(np.sum(np.asarray(pandas.isna(value))))


def _holds_objects(array: Any) -> bool:
    """Whether something is there that is no number."""
    if array.dtype.kind != "O":
        return array.dtype.kind not in "biufV"
    return not all(isinstance(entry, Number) or host.is_missing(entry) for entry in array.flat)


def _filled(value: Any, name: str) -> Offer:
    """What does not count in the place of missing numbers."""
    is_mask = "bool" in str(getattr(value, "dtype", getattr(value, "type", ""))).lower()
    what = IGNORED if name == "labels" else False if is_mask else 0
    package = _package(value)
    if package != "pandas":
        # pyarrow fills in nothing that the dtype of the column does not hold.
        cast = '.cast("int64")' if name == "labels" and package == "pyarrow" else ""
        code = f"{name} = {name}{cast}.fill_null({what})"
    else:
        # A category has no other entries, and objects have no dtype of their own.
        dtypes = {"labels": ("Int64", "int64"), "class_weight": ("Float64", "float64")}
        mask = ("boolean", "bool") if is_mask else dtypes["class_weight"]
        before, after = dtypes.get(name, mask)
        code = f'{name} = {name}.astype("{before}").fillna({what}).astype("{after}")'
    if name == "labels":
        return offered.on_condition(f"ignore_index is {IGNORED}", "mark them with it", code)
    return offered.on_condition("what is missing does not count", "fill it", code)


def _numbered(value: Any, name: str, missing: int) -> tuple[Offer, ...]:
    """Numbers in the place of text or objects, as far as there is code for it."""
    if name != "labels":
        code = f"{name} = np.asarray({name}, dtype=float)"
        return (offered.on_condition("they are numbers", "read them as such", code),)
    codes = _codes(value, missing)
    # Categories have one number each in all batches; names get one of those that are here.
    is_category = getattr(getattr(value, "dtype", None), "name", "") == "category"
    condition = "each category is a class" if is_category else offered.WHOLE
    if missing:
        condition += f" and ignore_index is {IGNORED}"
    number = offered.on_condition(condition, "number them", f"labels = {codes}")
    return (number,) if codes else ()


def _codes(value: Any, missing: int) -> str:
    """Code that makes class ids of class names, and `IGNORED` of those that are missing."""
    package = _package(value)
    if len(np.shape(value)) != 1:
        return "" if missing else offered.CLASS_IDS
    if package == "pandas":
        accessor = ".cat" if hasattr(value, "iloc") else ""  # a series has it, an index not
        codes = f'labels.astype("category"){accessor}.codes'
        return f"np.where(labels.isna(), {IGNORED}, {codes})" if missing else codes
    if package == "polars":
        codes = 'labels.rank("dense") - 1'
        return f'(labels.rank("dense").cast(int) - 1).fill_null({IGNORED})' if missing else codes
    if missing:  # of pyarrow, whose parts are put together
        whole = ".combine_chunks()" if hasattr(value, "chunks") else ""
        return f"labels{whole}.dictionary_encode().indices.cast('int64').fill_null({IGNORED})"
    return offered.CLASS_IDS


def _by_name(weights: Any) -> str:
    if isinstance(weights, dict):
        return messages.weights_by_class()
    return messages.balanced(weights)
