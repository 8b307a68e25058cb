"""The rules of the contract that shapes, dtypes and options decide: pure functions, no arrays.

Each function returns a decision or raises; `_plan` calls them in order.
"""

import math
import operator
import sys
from typing import Any, cast

from unified_loss import _messages as messages
from unified_loss._shapes import (
    fits,
    fits_as_index,
    same_shape,
    without,
)
from unified_loss._types import LabelKind, Problem, Reduction, Size, Weighting
from unified_loss.exceptions import (
    AmbiguousAxisError,
    BackendError,
    DTypeError,
    OptionError,
    ShapeError,
)

FLOATING = frozenset({"float16", "bfloat16", "float32", "float64"})
SIGNED = {f"int{bits}": bits for bits in (1, 2, 4, 8, 16, 32, 64)}
UNSIGNED = {f"uint{bits}": bits for bits in (1, 2, 4, 8, 16, 32, 64)}
UNBOUNDED = "int"  # Python's integers, where one of them is beyond 64 bits
INTEGER = frozenset({UNBOUNDED, *SIGNED, *UNSIGNED})
FRACTIONAL = FLOATING | {  # labels and weights, which are cast, may be of more dtypes than logits
    "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn",
    "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float96", "float128",
}  # fmt: skip
REAL = FRACTIONAL | INTEGER
# Between these, numbers are neither 0 nor infinite once they are rounded to a compute dtype.
HELD = {"float32": (2.0**-150, 2.0**128 - 2.0**103), "float64": (0.0, math.inf)}
DEFAULT_IGNORE_INDEX = -100
REDUCTIONS = ("none", "mean", "sum")
SPLITTING = ("torch", "jax")  # libraries of which a group can hold the classes


def logits_dtypes(problem: Problem) -> tuple[str, str]:
    """R1, R20: the dtype of the logits and the one to compute in."""
    dtype = problem.logits.dtype
    if dtype not in FLOATING:
        raise DTypeError(messages.logits_not_floating(problem, swapped=_look_swapped(problem)))
    return dtype, compute_dtype(dtype)


def compute_dtype(dtype: str) -> str:
    """R20: the dtype that a loss of logits of some dtype is computed in."""
    return "float64" if dtype == "float64" else "float32"


def _look_swapped(problem: Problem) -> bool:
    logits, labels = problem.logits, problem.labels
    return (
        logits.dtype in INTEGER
        and labels.dtype in FLOATING
        and logits.shape is not None
        and labels.shape is not None
        and len(labels.shape) == len(logits.shape) + 1
    )


def class_axis(problem: Problem) -> int:
    """R3: the class axis of the logits, counted from the front (from the back if rankless)."""
    shape = problem.logits.shape
    axis = problem.options.axis
    if axis is not None:
        axis = integer(axis)
        if axis is None:
            raise OptionError(messages.axis_not_an_integer(problem.options.axis))
    if shape is None:
        if axis is None:
            raise _shape_error(AmbiguousAxisError, problem, messages.rank_unknown())
        return int(axis)
    ndim = len(shape)
    if ndim == 0:
        raise _shape_error(ShapeError, problem, messages.no_class_axis())
    if axis is not None:
        if not -ndim <= axis < ndim:
            raise _shape_error(ShapeError, problem, messages.axis_out_of_range(problem, axis))
        return int(axis) % ndim
    return ndim - 1 if ndim <= 2 else _inferred_axis(problem)


def _inferred_axis(problem: Problem) -> int:
    logits, labels, same = problem.logits.shape, problem.labels.shape, problem.same
    candidates = (1, len(logits) - 1)
    if labels is None:
        raise _ambiguous_axis(problem, candidates)
    # A number of classes is static: a size that is unknown is rather that of another axis.
    known = [axis for axis in candidates if isinstance(logits[axis], int)]
    if len(known) == 1 and fits(logits, labels, known[0], same) is True:
        return known[0]
    verdicts = {axis: fits(logits, labels, axis, same) for axis in candidates}
    provable = [axis for axis in candidates if verdicts[axis] is True]
    possible = [axis for axis in candidates if verdicts[axis] is not False]
    readings = provable or possible
    if len(known) == 1 and len(possible) == 2:
        readings = possible if provable else known  # the other axis alone proves nothing
    if not readings:
        raise _shape_error(ShapeError, problem, messages.no_axis_fits(problem, candidates))
    if len(readings) > 1:
        raise _ambiguous_axis(problem, candidates)
    return readings[0]


def _ambiguous_axis(problem: Problem, candidates: tuple[int, ...]) -> ShapeError:
    text = messages.ambiguous_axis(problem, candidates)
    return _shape_error(AmbiguousAxisError, problem, text)


def num_classes(problem: Problem, axis: int) -> Size:
    """R9: the number of classes; there must be one."""
    if problem.logits.shape is None:
        return None
    size = problem.logits.shape[axis]
    may_be_none = problem.options.class_group is not None and problem.logits.library == "torch"
    if isinstance(size, int) and size == 0 and not may_be_none:
        raise _shape_error(ShapeError, problem, messages.no_classes(problem, axis), axis)
    return size


def label_kind(problem: Problem, axis: int) -> tuple[LabelKind, bool | None]:
    """R4, R5: index or dense labels, and whether index labels keep the class axis."""
    logits, labels, dtype = problem.logits.shape, problem.labels.shape, problem.labels.dtype
    if dtype not in REAL and dtype != "bool":
        raise DTypeError(messages.labels_not_numbers(problem))
    integer = dtype in INTEGER
    if labels is None or logits is None:
        return ("index", None) if integer else ("dense", False)
    as_dense = same_shape(labels, logits, problem.same)
    as_index = fits_as_index(logits, labels, axis, problem.same)
    keeps_axis = len(labels) == len(logits)
    # Labels of size 1 there are class ids also where C turns out to be 1.
    one = keeps_axis and problem.same(labels[axis], 1) is True
    if integer and (as_index is True or (as_index is None and one)):
        _refuse_of_one_class(problem, axis, as_dense=as_dense)
        return "index", keeps_axis
    if as_dense is not False and as_index is False and _are_scores_of_whom(problem):
        raise _shape_error(ShapeError, problem, messages.scores_of_whom(problem), axis)
    if as_dense is True:
        return "dense", False
    if integer and as_index is None and as_dense is None:
        raise _shape_error(
            AmbiguousAxisError, problem, messages.unknown_label_kind(problem, axis), axis
        )
    if as_dense is None:
        return "dense", False
    if integer and as_index is None:
        return "index", keeps_axis
    if as_index is not False and not keeps_axis:
        raise DTypeError(messages.index_labels_not_integer(problem, axis))
    raise _shape_error(ShapeError, problem, messages.labels_do_not_fit(problem, axis), axis)


def _refuse_of_one_class(problem: Problem, axis: int, *, as_dense: bool | None) -> None:
    """R33: a class that is not alone has dense labels too, which its integers can be."""
    if as_dense is True and problem.options.class_group is not None:
        text = messages.ids_or_one_class(problem, axis)
        raise _shape_error(AmbiguousAxisError, problem, text, axis)


def _are_scores_of_whom(problem: Problem) -> bool:
    """R4: whether 1-D logits have whole dense labels, and no axis to say that this is one row."""
    is_one_axis = len(problem.logits.shape) == 1 and problem.options.axis is None
    return is_one_axis and problem.labels.dtype not in FRACTIONAL


def class_weight(problem: Problem, axis: int) -> bool:
    """R7: class weights have shape (C,)."""
    spec = problem.class_weight
    if spec is None:
        return False
    if spec.dtype not in REAL:
        raise DTypeError(messages.weight_dtype("class_weight", spec, "a real number dtype"))
    classes = None if problem.logits.shape is None else problem.logits.shape[axis]
    if spec.shape is not None and same_shape(spec.shape, (classes,), problem.same) is False:
        raise _shape_error(ShapeError, problem, messages.class_weight_shape(problem, axis), axis)
    return True


def sample_weight(problem: Problem, axis: int) -> Weighting:
    """R7: sample weights have the batch shape, or its first axis alone."""
    spec = problem.sample_weight
    if spec is None:
        return "none"
    if spec.dtype not in REAL and spec.dtype != "bool":
        raise DTypeError(messages.weight_dtype("sample_weight", spec, "a real or boolean dtype"))
    if problem.logits.shape is not None and spec.shape is not None:
        batch = without(problem.logits.shape, axis)
        if all(same_shape(spec.shape, fit, problem.same) is False for fit in (batch, batch[:1])):
            raise _shape_error(
                ShapeError, problem, messages.sample_weight_shape(problem, axis), axis
            )
    return "mask" if spec.dtype == "bool" else "weight"


def label_smoothing(value: Any) -> float:
    """R8: a finite number in [0, 1]."""
    return _number_within("label_smoothing", value, 0.0, 1.0, "a number in [0, 1]")


def z_loss(value: Any) -> float:
    """R8: a finite number, not negative."""
    return _number_within("z_loss", value, 0.0, sys.float_info.max, "a finite number >= 0")


def held(name: str, value: float, dtype: str) -> float:
    """R8: an option that stays finite, and does not vanish, in the compute dtype."""
    low, high = HELD[dtype]
    if value and not low < value < high:
        raise OptionError(messages.not_held(name, value, dtype))
    return value


def normalizer(value: Any) -> float:
    """R8: a number > 0."""
    result = number("normalizer", value, "a number > 0")
    if not result > 0:
        raise OptionError(messages.normalizer_not_positive(result))
    return result


def number(name: str, value: Any, wanted: str) -> float:
    """R8: a number, Python's, NumPy's or anything like one, as a float."""
    if not isinstance(value, int | float) and not _is_like_a_number(value):
        raise OptionError(messages.option(name, value, wanted))
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - what an object's own method raises
        raise OptionError(messages.option(name, value, wanted)) from None


def _is_like_a_number(value: Any) -> bool:
    kind = type(value)
    is_complex = attribute(attribute(value, "dtype"), "kind") == "c"
    has_number = hasattr(kind, "__float__") or hasattr(kind, "__index__")
    return has_number and not is_complex and not is_array(value)


def _number_within(name: str, value: Any, low: float, high: float, wanted: str) -> float:
    result = number(name, value, wanted)
    if not low <= result <= high:  # also where it is NaN
        raise OptionError(messages.option(name, value, wanted))
    return result


def reduction(problem: Problem) -> Reduction:
    """R8, R14: one of three names; a normalizer goes with "mean" alone."""
    value = problem.options.reduction
    if not (isinstance(value, str) and value in REDUCTIONS):
        raise OptionError(messages.reduction(value))
    spec = problem.normalizer
    if spec is not None:
        if value != "mean":
            raise OptionError(messages.normalizer_without_mean(value))
        if spec.dtype not in REAL or (spec.shape is not None and len(spec.shape)):
            raise OptionError(messages.normalizer_not_scalar(spec))
    return cast("Reduction", value)


def class_group(problem: Problem) -> Any:
    """R33: over whose members the classes are split; `Backend.group` knows which there are."""
    group = problem.options.class_group
    if group is not None and problem.logits.library not in SPLITTING:
        raise BackendError(messages.no_groups(problem.logits.library, SPLITTING))
    return group


def check(value: Any) -> Any:
    """R8: whether label values may be looked at."""
    if isinstance(value, bool) or (isinstance(value, str) and value == "auto"):
        return value
    raise OptionError(messages.option("check", value, '"auto", True or False'))


def ignore_index(problem: Problem, kind: LabelKind) -> Any:
    """R6, R8: the label value that drops an example; None where no label can have it."""
    given = problem.options.ignore_index
    if given is None:
        return None
    if kind == "index" and _is_open(given) and problem.labels.library == "torch":
        return given
    value = integer(given)
    if value is None:
        raise OptionError(messages.option("ignore_index", given, "an integer or None"))
    if kind == "dense":
        if value != DEFAULT_IGNORE_INDEX:
            raise OptionError(messages.ignore_index_with_dense_labels(problem, value))
        return None
    low, high = integer_range(problem.labels.dtype)
    return value if low <= value <= high else None


def _is_open(value: Any) -> bool:
    """Whether an integer is one that changes, and that `torch.compile` does not ask for."""
    return type(value).__module__ == "torch"


def integer_range(dtype: str) -> tuple[float, float]:
    """The smallest and the largest value of an integer dtype."""
    if dtype == UNBOUNDED:
        return -math.inf, math.inf
    if dtype in UNSIGNED:
        return 0, 2 ** UNSIGNED[dtype] - 1
    return -(2 ** (SIGNED[dtype] - 1)), 2 ** (SIGNED[dtype] - 1) - 1


def integer(value: Any) -> int | None:
    """An integer of Python, NumPy or anything like one, as Python's; None for all else."""
    if is_array(value):
        return None
    try:
        return operator.index(value)
    except Exception:  # noqa: BLE001 - what an object's own method raises
        return None


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python, NumPy or anything like one, and no array."""
    return integer(value) is not None


def is_array(value: Any) -> bool:
    """Whether a value is an array of any library; NumPy's scalars are numbers."""
    if isinstance(value, int | float | str | None):  # also the symbolic ones of torch.compile
        return False
    is_numpy_scalar = type(value).__module__ == "numpy" and not hasattr(value, "__setitem__")
    return not is_numpy_scalar and attribute(value, "shape") is not None


def attribute(value: Any, name: str) -> Any:
    """An attribute of what need not be an array; None where there is none, or none to be read."""
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - what a property raises
        return None


def package_of(kind: type) -> str:
    """The library that a class comes from; `__module__` may be anything."""
    return str(kind.__module__).partition(".")[0]


def _shape_error(
    kind: type[ShapeError], problem: Problem, text: str, axis: int | None = None
) -> ShapeError:
    if axis is None and isinstance(problem.options.axis, int):
        axis = problem.options.axis
    error: ShapeError = kind(text)
    return error.with_details(
        logits_shape=problem.logits.shape, labels_shape=problem.labels.shape, axis=axis
    )
