"""Calls that are like an earlier one but for their values, and need not be examined again.

Of such a call only the labels are still looked at, and only for whether all are class ids; any
other takes the long way, where mistakes are named.
"""

from collections.abc import Hashable
from typing import Any

from unified_loss import _host as host
from unified_loss._types import Array, Backend, Plan

_PLANS: dict[Hashable, Plan] = {}
_SIZE = 4096
_FIXED = frozenset({type(None), bool, int, float, str})  # options that never change


def key_of(backend: Backend, logits: Array, labels: Any, options: tuple[Any, ...]) -> Hashable:
    """What a call without weights is recognized by; None if it cannot be."""
    kinds = tuple(map(type, options))
    outline = backend.outline(logits, labels) if _FIXED.issuperset(kinds) else None
    # 1, 1.0 and True are equal keys, and not equal options.
    return None if outline is None else (outline, options, kinds)


def plan_of(key: Hashable, backend: Backend, labels: Array) -> Plan | None:
    """The plan of an earlier call of this key, if it is that of these labels as well."""
    plan = _PLANS.get(key)
    if plan is None or plan.label_kind == "dense":
        return plan
    return plan if host.are_class_ids(backend.values(labels), plan.num_classes) else None


def remember(key: Hashable, plan: Plan) -> None:
    """Keep a plan for later calls of this key, unless it asks for another look at the values."""
    if plan.check != "auto" or plan.num_classes == 1:
        return
    if plan.label_kind == "index":
        ignored = plan.ignore_index
        if ignored is not None and 0 <= ignored < plan.num_classes:
            return
        plan = plan.of_class_ids()
    if len(_PLANS) >= _SIZE:
        _PLANS.clear()
    _PLANS[key] = plan
