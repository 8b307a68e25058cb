"""From a `Problem` to a `Plan`; a call that is like an earlier one needs no problem."""

import math
from collections.abc import Hashable
from typing import NamedTuple

from unified_loss import _rules as rules
from unified_loss._backend import Backend
from unified_loss._labels import number_of_ignored, number_of_others, several_ones
from unified_loss._types import Operands, Options, Plan, Problem

_SEEN: dict[Hashable, "Seen"] = {}
_SIZE = 4096
_FIXED = frozenset({type(None), bool, int, float, str})  # options that never change


class Seen(NamedTuple):
    """What is known of all calls of a key, and of those whose labels need no other look."""

    plan: Plan
    of_class_ids: Plan
    of_known_ids: Plan  # class ids and `ignore_index`
    problem: Problem
    of_unseen_ids: Plan | None  # the loss of which finds wrong ids itself (`WrongIds`)


def key_of(backend: Backend, arrays: Operands, options: Options) -> Hashable:
    """What a call is recognized by, all but its values; None if it cannot be."""
    if arrays.labels is None or arrays.normalizer is not None:
        return None
    kinds = tuple(map(type, options))
    outline = backend.outline(*arrays) if _FIXED.issuperset(kinds) else None
    # 1, 1.0 and True are equal keys, and not equal options.
    return None if outline is None else (outline, options, kinds)


def seen(
    key: Hashable, backend: Backend, arrays: Operands, *, looks: bool = True
) -> tuple[Plan, Problem] | None:
    """An earlier call of this key, with what these labels say; None: they must be examined.

    Without `looks`, a kernel that finds wrong ids itself spares a look at the labels here.
    """
    found = _SEEN.get(key)
    if found is None:
        return None
    plan, of_class_ids, of_known_ids, problem, of_unseen_ids = found
    if of_unseen_ids is not None and not looks:
        return of_unseen_ids, problem
    if plan.check is False or problem.labels.dtype in rules.FRACTIONAL:
        return plan, problem
    values = backend.values(arrays.labels)
    if values is None:
        return plan, problem
    told: Plan | None = None
    if plan.label_kind == "dense":
        told = plan if several_ones(values, plan.axis) is None else None
    else:
        rest = number_of_others(values, plan.num_classes)
        if not rest:
            told = of_class_ids
        elif rest == number_of_ignored(values, plan.num_classes, plan.ignore_index):
            told = of_known_ids
    return None if told is None else (told, problem)


def remember(
    key: Hashable,
    plan: Plan,
    problem: Problem,
    backend: Backend | None = None,
) -> None:
    """Keep a plan for later calls of this key, unless each is to be looked at, or warned of.

    With the `backend` of the logits, plans know their route if it is the library's own loss.
    """
    if plan.check is True or plan.num_classes == 1:
        return
    if len(_SEEN) >= _SIZE:
        _SEEN.clear()
    plan = plan._replace(is_ordinary=True)
    of_class_ids = of_known_ids = plan
    if plan.label_kind == "index":
        of_class_ids, of_known_ids = plan.of_class_ids(), plan.of_known_ids()
        if plan.ignore_index is not None and 0 <= plan.ignore_index < plan.num_classes:
            of_class_ids = of_known_ids  # one class is ignored
    of_unseen_ids = None
    if backend is not None and plan.label_kind == "dense":
        plan = _routed(backend, plan, problem)
    elif backend is not None and plan.check == "auto":
        of_class_ids = _routed(backend, of_class_ids, problem)
        of_known_ids = _routed(backend, of_known_ids, problem)
        if of_known_ids.route is not None and backend.finds_wrong_ids(of_known_ids):
            of_unseen_ids = of_known_ids
    _SEEN[key] = Seen(plan, of_class_ids, of_known_ids, problem, of_unseen_ids)


def _routed(backend: Backend, plan: Plan, problem: Problem) -> Plan:
    """The plan with its route, if that is the library's own loss or what stands for it."""
    route = backend.route(plan, math.prod(problem.logits.shape or ()))
    return plan._replace(route=route) if route.is_native else plan


def make_plan(problem: Problem) -> Plan:
    """The plan of a call; raises every error that shapes, dtypes and options can cause."""
    smoothing = rules.label_smoothing(problem.options.label_smoothing)
    z_loss = rules.z_loss(problem.options.z_loss)
    check = rules.check(problem.options.check)
    reduction = rules.reduction(problem)
    logits_dtype, compute_dtype = rules.logits_dtypes(problem)
    smoothing = rules.held("label_smoothing", smoothing, compute_dtype)
    z_loss = rules.held("z_loss", z_loss, compute_dtype)
    axis = rules.class_axis(problem)
    classes = rules.num_classes(problem, axis)
    kind, keeps_axis = rules.label_kind(problem, axis)
    ignore_index = rules.ignore_index(problem, kind)
    below = above = False
    if problem.options.class_group is not None:
        classes = None  # those of all members, which their sizes tell
    if kind == "index":
        low, high = rules.integer_range(problem.labels.dtype)
        below = low < 0
        above = not isinstance(classes, int) or classes <= high
    return Plan(
        axis=axis,
        ndim=None if problem.logits.shape is None else len(problem.logits.shape),
        num_classes=classes,
        label_kind=kind,
        labels_keep_axis=keeps_axis,
        labels_dtype=problem.labels.dtype,
        ignore_index=ignore_index,
        below=below,
        above=above,
        class_weight=rules.class_weight(problem, axis),
        sample_weight=rules.sample_weight(problem, axis),
        label_smoothing=smoothing,
        z_loss=z_loss,
        reduction=reduction,
        normalizer=problem.normalizer is not None,
        check=check,
        compute_dtype=compute_dtype,
        logits_dtype=logits_dtype,
        class_group=rules.class_group(problem),
    )
