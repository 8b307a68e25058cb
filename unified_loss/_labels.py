"""The arguments beside the logits, whose values are read once, and what label values say."""

from typing import Any

import numpy as np

from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._backend import Backend
from unified_loss._host import HostArray, epsilon
from unified_loss._types import Array, Plan, Spec
from unified_loss.exceptions import LabelError

# The unsigned dtype to read integers in, and where those begin that are negative in their own.
_UNSIGNED = {
    np.dtype(f"{sign}{size}"): (np.dtype(f"u{size}"), 2 ** (8 * size - (sign == "i")))
    for sign in "iu"
    for size in (1, 2, 4, 8)
}


# A look at values is not a computation of the caller's: NumPy has nothing to say of NaN in it.
quietly = np.errstate(all="ignore")

LOOK = 2**17  # entries that are looked at without being asked for
UNIT_TOLERANCE = 1e-3
FAR = 0.5  # from a sum of 1, which no rounding explains


class Argument:
    """An argument beside the logits, what the rules may know of it, and its values.

    `look`: False: never; "auto": where that waits for nothing; True: wherever there are any.
    """

    __slots__ = ("_backend", "_is_read", "_look", "_values", "on_host", "spec", "value")

    def __init__(
        self, backend: Backend, value: Any, spec: Spec, *, on_host: bool, look: Any
    ) -> None:
        self.value, self.spec, self.on_host = value, spec, on_host
        self._backend, self._look = backend, look
        self._is_read, self._values = False, None

    @property
    def values(self) -> Any | None:
        """The values as a NumPy array, if they may be looked at and can be read."""
        if not self._is_read:
            self._is_read, self._values = True, self._read()
        return self._values

    def _read(self) -> Any | None:
        if self._look is False or self.spec.dtype not in rules.REAL | {"bool", "object"}:
            return None
        if self.on_host:
            return self.value
        return self._backend.read(self.value, wait=self._look is True)

    def bring(self, logits: Array, dtype: str) -> Array:
        """The argument beside the logits, host data in `dtype`."""
        return self._backend.from_host(self.value, logits, dtype) if self.on_host else self.value


def number_of_others(labels: HostArray, num_classes: Any) -> int:
    """How many labels are no class ids; -1: that takes another look."""
    found = _UNSIGNED.get(labels.dtype)
    if found is None or not isinstance(num_classes, int):
        return -1
    unsigned, limit = found
    return int(np.count_nonzero(labels.view(unsigned) >= min(limit, num_classes)))


def number_of_ignored(labels: HostArray, num_classes: int, ignore_index: int | None) -> int:
    """How many labels are `ignore_index`, if that is no class id."""
    if ignore_index is None or 0 <= ignore_index < num_classes:
        return 0
    return int(np.count_nonzero(labels == ignore_index))


def told(plan: Plan, labels: Argument, sample_weight: Argument | None) -> Plan:
    """R17: look at label values where that is free, or asked for.

    Returns the plan with what is known then; raises `LabelError`.
    """
    if plan.label_kind == "index":
        values = labels.values
        return plan if values is None else _of_index_labels(plan, values, labels, sample_weight)
    if plan.check is True and labels.values is not None:
        drops = weight_drops(plan, labels, sample_weight)
        if drops is not None:
            _check_dense_labels(plan, labels.values, drops)
    return plan


def are_scores(plan: Plan, labels: Argument) -> bool:
    """Whether dense labels hold negative values, as far as a look at some is free."""
    if plan.label_kind != "dense" or labels.values is None:
        return False
    return labels.values.size > 0 and _has_negative(labels.values.flat[:LOOK])


def are_probabilities(plan: Plan, logits: HostArray | None) -> bool:
    """Whether all rows, of those that are looked at, are from 0 to 1 and sum to 1."""
    if logits is None or logits.size > LOOK or not logits.size:
        return False
    return _sum_to_one(logits, plan.axis)


@quietly
def _has_negative(values: HostArray) -> bool:
    return bool(values.min() < 0)


@quietly
def _sum_to_one(rows: HostArray, axis: int) -> bool:
    if not (rows.min() >= 0 and rows.max() <= 1 + UNIT_TOLERANCE):  # NaN is not, either
        return False
    sums = rows.sum(axis, dtype=np.float64)
    return bool(np.all(np.abs(sums - 1) < UNIT_TOLERANCE))


def weight_drops(plan: Plan, labels: Argument, sample_weight: Argument | None) -> Any:
    """Where the sample weight drops the example, to be broadcast against the labels' batch.

    None: that cannot be known.
    """
    if sample_weight is None:
        return False
    weights = sample_weight.values
    if weights is None:
        return None
    missing = len(labels.spec.shape) - plan.labels_have_axis - weights.ndim
    return (weights == 0).reshape(weights.shape + (1,) * missing)


def _of_index_labels(
    plan: Plan, labels: HostArray, argument: Argument, sample_weight: Argument | None
) -> Plan:
    num_classes, ignore_index = plan.num_classes, plan.ignore_index
    if labels.size == 0:
        return plan.of_class_ids()
    if not isinstance(num_classes, int):
        return plan
    low, high = labels.min(), labels.max()
    if low >= 0 and high < num_classes:
        is_class = ignore_index is not None and 0 <= ignore_index < num_classes
        return plan.of_known_ids() if is_class else plan.of_class_ids()
    if plan.labels_keep_axis:
        labels = np.squeeze(labels, plan.axis)
    kept = np.ones(labels.shape, bool)
    if ignore_index is not None:
        kept = np.asarray(labels != ignore_index, bool)
    bad = kept & np.asarray((labels < 0) | (labels >= num_classes), bool)
    if not bad.any():
        return plan.of_known_ids()
    drops = weight_drops(plan, argument, sample_weight)
    if drops is None:
        return plan
    kept &= np.logical_not(drops)
    bad &= kept
    if not bad.any():
        return plan
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    low, high, count = int(labels[kept].min()), int(labels[kept].max()), int(bad.sum())
    raise LabelError(
        messages.bad_labels(count, labels.size, first, low, high, num_classes)
    ).with_details(count=count, first=first, smallest=low, largest=high)


@quietly
def _check_dense_labels(plan: Plan, labels: HostArray, dropped: Any) -> None:
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


def several_ones(labels: HostArray, axis: int) -> HostArray | None:
    """Which rows of 0 and 1 have several ones; None: there is none."""
    if not labels.size or labels.dtype == object:
        return None
    ones = np.add.reduce(labels, axis, dtype=np.intp)
    several = np.asarray(ones > 1)
    is_binary = several.any() and labels.min() >= 0 and labels.max() <= 1
    return several if is_binary else None


def has_several_ones(plan: Plan, labels: Argument, sample_weight: Argument | None) -> bool:
    """R17: whether rows of 0 and 1 that count have several ones; of integers and booleans alone."""
    if labels.spec.dtype not in rules.INTEGER | {"bool"} or plan.check is False:
        return False
    several = None if labels.values is None else several_ones(labels.values, plan.axis)
    if several is None:
        return False
    drops = weight_drops(plan, labels, sample_weight)
    return drops is not None and bool(np.any(several & np.logical_not(drops)))


@quietly
def is_far_from_one(row: HostArray) -> bool:
    """Whether a row of labels is far from a distribution."""
    return bool(abs(float(row.sum(dtype=np.float64)) - 1) > FAR)


def suspicions(
    plan: Plan, logits: HostArray | None, labels: Argument, sample_weight: Argument | None
) -> list[Any]:
    """Under ``check=True``: what is legal, and probably not meant, by the names of its stages."""
    holds = {
        "softmax": logits is not None and is_softmax_output(plan, logits),
        "ignored": _all_ignored(plan, labels.values),
        "rows": _sum_to_other_than_one(plan, labels, sample_weight),
    }
    if plan.label_kind == "dense" and has_several_ones(plan, labels, sample_weight):
        holds.update(several=True, rows=False)  # which says it better
    return [stage for stage, does_hold in holds.items() if does_hold]


@quietly
def is_softmax_output(plan: Plan, logits: HostArray) -> bool:
    """Whether logits look like probabilities: in [0, 1], not all 0 or 1, with rows of sum 1."""
    if logits.size == 0 or logits.shape[plan.axis] == 1:
        return False
    if not (logits.min() >= 0 and logits.max() <= 1):
        return False
    errors = np.abs(logits.sum(plan.axis, dtype=np.float64) - 1)
    limit = max(logits.shape[plan.axis] * epsilon(plan.logits_dtype), 1e-6)
    return bool(np.all(errors <= limit) and np.any((logits > 0) & (logits < 1)))


def _all_ignored(plan: Plan, labels: HostArray | None) -> bool:
    """Whether there are labels, and every one is `ignore_index`."""
    if labels is None or plan.label_kind == "dense" or plan.ignore_index is None:
        return False
    return labels.size > 0 and bool(np.all(labels == plan.ignore_index))


@quietly
def _sum_to_other_than_one(plan: Plan, labels: Argument, sample_weight: Argument | None) -> bool:
    """R17: whether dense label rows that count do not sum to 1."""
    if labels.values is None or plan.label_kind == "index":
        return False
    drops = weight_drops(plan, labels, sample_weight)
    if drops is None:
        return False
    values, kept = _rows(plan, labels.values, drops)
    error = np.abs(values.sum(-1) - 1)
    return bool(np.any(kept & (error > values.shape[-1] * epsilon(plan.labels_dtype))))


def _rows(plan: Plan, labels: HostArray, dropped: Any) -> tuple[HostArray, HostArray]:
    """Dense labels with the class axis last, and which rows are not dropped."""
    values = np.moveaxis(labels.astype(np.float64), plan.axis, -1)
    return values, np.ones(values.shape[:-1], bool) & np.logical_not(dropped)
