"""Warnings of calls that are valid: each must be of something that the call has."""

import warnings
from collections.abc import Iterable

import numpy as np

from tests.fuzz.calls import Call
from tests.fuzz.compare import Difference
from unified_loss import LossInputWarning, SingleClassWarning


def false_alarms(call: Call, told: Iterable[warnings.WarningMessage]) -> list[Difference]:
    """The warnings of this library that the call gives no reason for."""
    found = (each.message for each in told if issubclass(each.category, LossInputWarning))
    return [
        Difference("call", f"false alarm: {str(warning).splitlines()[0][:80]}", None, None)
        for warning in found
        if not _has_reason(call, warning)
    ]


def _has_reason(call: Call, warning: Warning | str) -> bool:
    if isinstance(warning, SingleClassWarning):
        return call.num_classes == 1
    if call.has_index_labels or not call.labels.size:
        return False
    if getattr(warning, "cause", None) == "arguments_swapped":
        return bool(call.labels.min() < 0)
    labels = np.moveaxis(call.labels, call.class_axis, -1).astype(np.int64)
    is_binary = call.labels.dtype.kind in "iub" and bool(np.isin(labels, (0, 1)).all())
    return is_binary and bool((labels.sum(-1) > 1).any())
