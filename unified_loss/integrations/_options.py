"""Options that are checked before there are logits."""

from typing import Any

from unified_loss._plan import make_plan
from unified_loss._shapes import same_size
from unified_loss._types import Options, Plan, Problem, Same, Spec

ANY_LOGITS = Spec("numpy", None, "float64")  # other options may not do for other dtypes
ANY_LABELS = Spec("numpy", None, "int64")


def plan_of_options(
    *,
    axis: Any,
    class_weight: Spec | None,
    normalizer: Spec | None = None,
    logits: Spec = ANY_LOGITS,
    labels: Spec = ANY_LABELS,
    same: Same = same_size,
    **options: Any,
) -> Plan:
    """What options say whatever the logits and labels will be, or the error that they cause."""
    problem = Problem(
        logits=logits,
        labels=labels,
        class_weight=class_weight,
        sample_weight=None,
        normalizer=normalizer,
        options=Options(0 if axis is None and logits.shape is None else axis, **options),
        same=same,
    )
    return make_plan(problem)
