"""What a diagnosis may know of a call: plain data, and a little arithmetic on sizes."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from unified_loss import _rules as rules
from unified_loss._host import is_missing
from unified_loss._shapes import same_shape, without
from unified_loss._types import Problem, Shape, Size

IMAGE_CHANNELS = (3, 4)
# What people call one thing in their frameworks; NumPy's word serves all others.
TERMS = {
    "unsqueeze": {"torch": "unsqueeze", "numpy": "expand_dims"},
    "unsqueeze the": {"torch": "unsqueeze the", "numpy": "add an axis of size 1 to the"},
    "view": {"torch": "view, reshape", "numpy": "reshape"},
    "sigmoid": {"torch": "sigmoid, BCE", "numpy": "sigmoid"},
    "mapped axes": {"torch": "in_dims=(0, 0)", "numpy": "in_axes=(0, 0)"},
    "even batches": {
        "torch": "DataLoader(drop_last=True)",
        "tensorflow": "batch(drop_remainder=True); a generator of even batches",
        "keras": "batch(drop_remainder=True); a generator of even batches",
        "numpy": "leave the last, smaller one out",
    },
    "last layer": {
        "torch": "nn.Linear(..., {0}); num_labels={0} in a Hugging Face model",
        "tensorflow": "Dense({0})",
        "keras": "Dense({0})",
        "jax": "nnx.Linear(..., {0})",
        "mlx": "nn.Linear(..., {0})",
        "numpy": "num_classes={0}",
    },
}
LOOK = 2**17  # labels that are looked at without being asked for: more take too long
LOOK_AGAIN = 2**20  # where all of them have been looked at already
UNIT_TOLERANCE = 1e-3
PAIR = 2  # the outcomes of a binary target
BY_CHANCE = 1e-3  # what class ids do so rarely, they do not do


class Values(NamedTuple):
    """What the labels hold, dropped ones apart, where the contract lets them be read (R17)."""

    low: Any
    high: Any
    above_low: Any = None  # the smallest value but `low`; None: there is none
    below_high: Any = None  # the largest value but `high`
    whole: bool = True  # whether all that are not missing are whole numbers
    unit_axes: tuple[int, ...] = ()  # the axes along which all sums are 1
    empty_axes: tuple[int, ...] = ()  # the axes whose first entries are all 0
    most_ones: tuple[int, ...] = ()  # of 0 and 1 alone: for each axis, the most ones along it
    missing: int = 0  # how many are NaN or None; the others are what the fields before tell of
    sortable: bool = True  # whether objects that are no numbers can be put in an order

    @property
    def integral(self) -> bool:
        """Whether there is nothing but whole numbers."""
        return self.whole and not self.missing

    @property
    def binary(self) -> bool:
        """Whether there is nothing but 0 and 1."""
        return self.integral and self.low >= 0 and self.high <= 1


@dataclass(frozen=True)
class Facts:
    """A call whose classes are taken to be on `axis` of the logits; both ranks are known."""

    problem: Problem
    axis: int
    values: Values | None = None
    mapped: tuple[tuple[int, ...], ...] = ((), ())  # axes of logits and labels that vmap took away

    @property
    def logits(self) -> Shape:
        """The shape of the logits."""
        shape: Shape = self.problem.logits.shape
        return shape

    @property
    def labels(self) -> Shape:
        """The shape of the labels."""
        shape: Shape = self.problem.labels.shape
        return shape

    @property
    def classes(self) -> Size:
        """The number of classes."""
        return self.logits[self.axis]

    @property
    def batch(self) -> Shape:
        """The shape of the logits without the class axis."""
        return without(self.logits, self.axis)

    @property
    def integer(self) -> bool:
        """Whether the labels are of an integer dtype."""
        return self.problem.labels.dtype in rules.INTEGER

    @property
    def fractional(self) -> bool:
        """Whether the labels are known not to be whole numbers."""
        return self.values is not None and not self.values.integral

    @property
    def has_fractions(self) -> bool:
        """Whether some label is known to be no whole number; one that is missing is none at all."""
        return self.values is not None and not self.values.whole

    @property
    def in_unit_interval(self) -> bool:
        """Whether the labels are known to be from 0 to 1."""
        return self.values is not None and bool(0 <= self.values.low <= self.values.high <= 1)

    @property
    def whole(self) -> bool:
        """Whether the labels are known to be whole numbers."""
        return self.integer or (self.values is not None and self.values.integral)

    @property
    def binary(self) -> bool:
        """Whether the labels are known to be nothing but 0 and 1."""
        if self.values is None:
            return self.problem.labels.dtype == "bool"
        return self.values.binary

    @property
    def rows(self) -> bool:
        """Whether the labels may be rows of numbers, one per class, on their last axis."""
        return not self.integer or self.rows_sum

    @property
    def rows_of_ones(self) -> bool:
        """Whether the labels are known to be one-hot on their last axis."""
        return self.binary and self.rows_sum

    @property
    def rows_sum(self) -> bool:
        """Whether the labels are known to sum to 1 on their last axis."""
        return self.values is not None and len(self.labels) - 1 in self.values.unit_axes

    @property
    def binary_target(self) -> bool:
        """Whether floating labels hold 0 and 1 alone, as ids of so many classes hardly would."""
        if self.logits is None or self.labels is None or not self.binary:
            return False
        classes, number = self.classes, self.examples
        if self.integer or self.rows_sum or self.problem.labels.dtype == "bool":
            return False
        if not self.equal(without_ones(self.labels), without_ones(self.batch)) or not number:
            return False
        is_many = isinstance(classes, int) and classes > PAIR
        return is_many and (PAIR / classes) ** number < BY_CHANCE

    @property
    def framework(self) -> str:
        """In whose words to speak."""
        return self.problem.framework or self.problem.logits.library

    @property
    def tensorflow(self) -> bool:
        """Whether the caller writes TensorFlow or Keras."""
        return self.framework in {"tensorflow", "keras"}

    def term(self, name: str) -> str:
        """A word of the caller's framework; that of NumPy where it has none of its own."""
        return TERMS[name].get(self.framework, TERMS[name]["numpy"])

    @property
    def holder(self) -> str:
        """Who has how many classes."""
        if self.problem.head is not None:
            return f"weight has {self.classes} row{'' if self.classes == 1 else 's'}"
        return f"logits have {self.classes} on axis {self.axis}"

    def units(self, number: int | str) -> str:
        """What the last layer needs, in words of the caller's framework."""
        if self.problem.head is not None:
            return f"give weight {number} rows, one for each class"
        layer = self.term("last layer").format(number)
        return f"give the last layer {number} output units ({layer})"

    @property
    def examples(self) -> int | None:
        """The number of entries of the batch."""
        return count(self.batch)

    def equal(self, a: Any, b: Any) -> bool:
        """Whether two sizes or shapes are provably equal."""
        if isinstance(a, tuple):
            return same_shape(a, b, self.problem.same) is True
        return self.problem.same(a, b) is True

    def fits(self, a: Shape, b: Shape) -> bool:
        """Whether two shapes may be equal."""
        return same_shape(a, b, self.problem.same) is not False

    def differing(self, a: Shape, b: Shape) -> tuple[int, ...]:
        """The axes on which two shapes of one rank provably differ."""
        pairs = enumerate(zip(a, b, strict=True))
        return tuple(i for i, (one, other) in pairs if self.problem.same(one, other) is False)

    def same_multiset(self, a: Shape, b: Shape) -> tuple[int, ...] | None:
        """The order of the axes of `b` that makes it `a`, if there is one and it is no identity."""
        if len(a) != len(b) or self.fits(a, b):
            return None
        order: list[int] = []
        for size in a:
            free = [i for i in range(len(b)) if i not in order and self.equal(b[i], size)]
            if not free:
                return None
            order.append(free[0])
        return tuple(order)


def count(shape: Shape) -> int | None:
    """The number of entries, None if a size is unknown."""
    return math.prod(shape) if all(isinstance(size, int) for size in shape) else None


def ratio(a: Size, b: Size) -> int | None:
    """How many times `b` goes into `a`, if that is a whole number above 1."""
    known = isinstance(a, int) and isinstance(b, int) and b > 0
    return a // b if known and a > b and a % b == 0 else None


def without_ones(shape: Shape) -> Shape:
    """The shape without its axes of size 1."""
    return tuple(size for size in shape if not (isinstance(size, int) and size == 1))


def apart(a: Shape, b: Shape) -> float:
    """How far two shapes of one rank are from each other: 0 if equal, else by their ratios."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)]
    return sum(abs(math.log((x + 1) / (y + 1))) for x, y in pairs)


def values_of(
    labels: Any, ignore_index: Any = None, within: tuple[int, int] | None = None
) -> Values | None:
    """What a NumPy array holds but for `ignore_index`; None if there is nothing, or too much of it.

    `within` are the smallest and the largest label, where others are known to be dropped.
    """
    import numpy as np

    is_object = labels.dtype.kind == "O"
    if labels.size > (LOOK if within is None or is_object else LOOK_AGAIN):
        return None
    if labels.dtype.kind == "V":  # bfloat16
        labels = labels.astype(np.float64)
    if labels.dtype.kind not in "biufO":
        return None
    entries = labels.reshape(-1)
    absent = np.zeros(entries.shape, bool)
    if labels.dtype.kind in "fO":
        absent = np.array([*map(is_missing, entries)], bool) if is_object else np.isnan(entries)
    missing = int(absent.sum())
    entries = entries[~absent]
    if missing and (is_object or not entries.size):
        known = all(map(_is_whole, entries))  # else they are names
        sortable = _are_sortable(labels.reshape(-1))
        return Values(math.nan, math.nan, whole=known, missing=missing, sortable=sortable)
    if is_object and not all(map(rules.is_integer, entries)):
        unknown = Values(math.nan, math.nan, whole=False, sortable=False)
        return None if _are_sortable(entries) else unknown
    if rules.is_integer(ignore_index):
        entries = entries[np.asarray(entries != ignore_index, bool)]
    if within is not None:
        entries = entries[np.asarray((entries >= within[0]) & (entries <= within[1]), bool)]
    if entries.size == 0:
        return None
    is_whole = entries.dtype.kind != "f" or np.isfinite(entries) & (entries == np.round(entries))
    whole = bool(np.all(is_whole))
    number: Any = int if whole else float
    with np.errstate(all="ignore"):  # NaN among them is the caller's
        low, high = entries.min(), entries.max()
        inner = [entries[np.asarray(apart, bool)] for apart in (entries > low, entries < high)]
        above, below = (part if part.size else None for part in inner)
        return Values(
            number(low),
            number(high),
            None if above is None else number(above.min()),
            None if below is None else number(below.max()),
            whole,
            *_rows(labels, low, high, integral=whole and not missing),
            missing,
        )


def _are_sortable(entries: Any) -> bool:
    """Whether code that leaves out None and NaN can sort the others."""
    try:
        sorted(name for name in {*entries} if name is not None and name == name)  # noqa: PLR0124
    except Exception:  # noqa: BLE001 - what an object's own method raises
        return False
    return True


def _is_whole(entry: Any) -> bool:
    """Whether an object is a whole number."""
    return rules.is_integer(entry) or (isinstance(entry, Real) and float(entry).is_integer())


def _rows(
    labels: Any, low: Any, high: Any, *, integral: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The axes of sum 1, those whose first entries are all 0, and the most ones in one row."""
    if low < 0 or labels.ndim < 2 or labels.dtype.kind == "O":
        return (), (), ()
    firsts = (labels.take(0, axis).any() for axis in range(labels.ndim))
    empty = tuple(axis for axis, has_any in enumerate(firsts) if not has_any)
    sums = [labels.sum(axis, dtype=float) for axis in range(labels.ndim)]
    units = tuple(i for i, one in enumerate(sums) if abs(one - 1).max() < UNIT_TOLERANCE)
    ones = tuple(int(one.max()) for one in sums) if integral and high <= 1 else ()
    return units, empty, ones
