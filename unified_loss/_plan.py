"""`plan_for`: from a `Problem` to a `Plan`, once for each distinct call."""

from unified_loss import _rules as rules
from unified_loss._types import Plan, Problem

_CACHE: dict[Problem, Plan] = {}
_CACHE_SIZE = 4096
_FIXED = frozenset({"builtins", "numpy"})  # modules whose numbers and strings never change


def plan_for(problem: Problem) -> Plan:
    """The plan of a call; raises every error that shapes, dtypes and options can cause."""
    if not _FIXED.issuperset(kind.__module__ for kind in problem.option_types):
        return make_plan(problem)
    try:
        plan = _CACHE.get(problem)
    except (TypeError, ValueError):  # symbolic sizes and unhashable options
        return make_plan(problem)
    if plan is None:
        plan = make_plan(problem)
        if len(_CACHE) >= _CACHE_SIZE:
            _CACHE.clear()
        _CACHE[problem] = plan
    return plan


def make_plan(problem: Problem) -> Plan:
    """`plan_for` without the cache, for traced calls."""
    smoothing = rules.label_smoothing(problem.label_smoothing)
    z_loss = rules.z_loss(problem.z_loss)
    check = rules.check(problem.check)
    reduction = rules.reduction(problem)
    logits_dtype, compute_dtype = rules.logits_dtypes(problem)
    smoothing = rules.held("label_smoothing", smoothing, compute_dtype)
    z_loss = rules.held("z_loss", z_loss, compute_dtype)
    axis = rules.class_axis(problem)
    classes = rules.num_classes(problem, axis)
    kind, keeps_axis = rules.label_kind(problem, axis)
    ignore_index = rules.ignore_index(problem, kind)
    below = above = False
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
    )
