"""Class weights that are named: how they are made of the labels."""

from unified_loss._linear_rules import with_logits
from unified_loss._plan import make_plan
from unified_loss._types import Problem

ON_HOST = {"torch": ".detach().cpu()", "cupy": ".get()"}  # what NumPy asks for to read an array
WIDENED = {"torch": ".double()", "mlx": ".astype(mx.float32)"}  # and to read bfloat16


def balanced(problem: Problem) -> str:
    """Code of the weights that scikit-learn calls balanced, in NumPy; a class of none has one, too.

    What counts is what the loss counts: ids that are no classes, or ignored, do not.
    """
    plan = make_plan(problem if problem.head is None else with_logits(problem))
    library = problem.labels.library
    labels = f"labels{ON_HOST.get(library, '')}"
    classes = plan.num_classes
    if not isinstance(classes, int):
        classes = f"logits.shape[{plan.axis}]" if problem.head is None else "weight.shape[0]"
    if plan.label_kind == "dense":
        others = tuple(axis for axis in range(plan.ndim or 0) if axis != plan.axis)
        rows = f"{labels}{WIDENED.get(library, '')}"
        counted = f"counts = np.asarray({rows}, float).sum({others})"
    else:
        kept = f"(ids >= 0) & (ids < {classes})"
        if isinstance(plan.ignore_index, int) and plan.ignore_index >= 0:
            kept += f" & (ids != {plan.ignore_index})"
        counted = (
            f"ids = np.ravel({labels}).astype(int); "
            f"counts = np.bincount(ids[{kept}], minlength={classes})"
        )
    return f"{counted}; class_weight = counts.sum() / ({classes} * np.where(counts, counts, 1))"
