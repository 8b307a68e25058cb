"""What a valid call means, in sentences: a heading and a text for each fact."""

import math
from collections.abc import Iterator

from unified_loss import _rules as rules
from unified_loss._explain import _linear as linear
from unified_loss._explain._linear import Way
from unified_loss._explain._memory import Memory, shown_bytes
from unified_loss._shapes import without
from unified_loss._shown import shown, shown_size, shown_value
from unified_loss._types import Form, Plan, Problem, Shape, Size

Fact = tuple[str, str]


def facts_of(
    problem: Problem, plan: Plan, kernel: str | None, memory: Memory | None
) -> Iterator[Fact]:
    """All facts, in the order of a call."""
    size = shown_size(plan.num_classes if problem.logits.shape is None else _size(problem, plan))
    yield "class axis", f"{plan.axis} (size {size}): {_axis_reason(problem)}"
    if plan.class_group is not None:
        yield "class_group", _of_members(size)
    yield from _meaning(problem, plan)
    missing = f"not known: {problem.logits.library} is not installed"
    yield "kernel", kernel or missing
    if memory is None:
        yield "memory", "depends on the sizes that are not known" if kernel else missing
    else:
        size, gradient = map(shown_bytes, (memory.size, memory.gradient))
        beside = f"at most about {size} of arrays beside the arguments: {memory.sentence}"
        yield "memory", f"{beside}. A gradient, if asked for, is another {gradient}."


def facts_of_linear(
    problem: Problem, form: Form, way: Way | None, *, is_installed: bool
) -> Iterator[Fact]:
    """All facts of the linear form."""
    yield "logits", linear.logits_fact(problem, form, way)
    yield "classes", linear.classes_fact(problem)
    if form.plan.class_group is not None:
        size = shown_size(problem.logits.shape[-1] if problem.logits.shape else None)
        yield "class_group", _of_members(size)
    yield from _meaning(problem, form.plan)
    missing = "depends on the sizes that are not known"
    if not is_installed:
        missing = f"not known: {problem.logits.library} is not installed"
    yield from linear.facts_of(problem, form, way, missing)


def _of_members(size: str) -> str:
    return f"{size} of the classes are here, the others with other members"


def _meaning(problem: Problem, plan: Plan) -> Iterator[Fact]:
    """What labels, weights and options mean, and what is returned."""
    batch = batch_shape(problem, plan)
    yield "labels", _labels(problem, plan)
    yield "batch", _batch(batch)
    if plan.class_weight:
        yield "class_weight", "one weight for each class"
    if plan.sample_weight != "none":
        yield "sample_weight", _sample_weight(problem, plan, batch)
    if plan.label_smoothing:
        yield "label_smoothing", f"{plan.label_smoothing:g} of each label row goes to all classes"
    if plan.z_loss:
        yield "z_loss", f"adds {plan.z_loss:g} times the squared log of the softmax's denominator"
    yield "dropped", _dropped(problem, plan)
    yield "loss", _loss(plan)
    yield "result", _result(problem, plan, batch)


def batch_shape(problem: Problem, plan: Plan) -> Shape | None:
    """The shape of the logits without the class axis; None if their rank is unknown."""
    shape = problem.logits.shape
    return None if shape is None else without(shape, plan.axis)


def _size(problem: Problem, plan: Plan) -> Size:
    """How many classes the logits hold."""
    return problem.logits.shape[plan.axis]


def _axis_reason(problem: Problem) -> str:
    if problem.options.axis is not None:
        return f"axis={problem.options.axis} was given"
    ndim = len(problem.logits.shape)
    if ndim <= 2:
        return "the only axis" if ndim == 1 else "the last axis of 2-D logits"
    return (
        f"of axes 1 and {ndim - 1} the only one that fits labels of shape "
        f"{shown(problem.labels.shape)}{_unless_unknown(problem)}"
    )


def _unless_unknown(problem: Problem) -> str:
    sizes = (*(problem.logits.shape or ()), *(problem.labels.shape or ()))
    return "" if all(isinstance(size, int) for size in sizes) else ", as far as sizes are known"


def _labels(problem: Problem, plan: Plan) -> str:
    dtype, shape = problem.labels.dtype, problem.labels.shape
    if plan.label_kind == "index":
        ids = f"class ids in [0, {shown_size(plan.num_classes)}): {dtype}, "
        if plan.labels_keep_axis is None:
            return f"{ids}and integers are class ids where a rank is unknown"
        if plan.labels_keep_axis:
            return f"{ids}of the logits' shape with the class axis kept at size 1"
        return f"{ids}of the batch shape"
    entries = "probabilities" if dtype in rules.FRACTIONAL else "one-hot or multi-hot"
    where = "of unknown rank" if None in {shape, problem.logits.shape} else "of the logits' shape"
    return f"dense, a row for each example ({entries}): {dtype}, {where}"


def _batch(batch: Shape | None) -> str:
    if batch is None:
        return "of unknown rank"
    if not all(isinstance(size, int) for size in batch):
        return shown(batch)
    count = math.prod(batch)
    return f"{shown(batch)}, {count:,} example{'' if count == 1 else 's'}"


def _sample_weight(problem: Problem, plan: Plan, batch: Shape | None) -> str:
    what = "a mask entry" if plan.sample_weight == "mask" else "one weight"
    shape = problem.sample_weight.shape
    if batch is None or shape is None:
        return f"{what} for each example, or for each entry of the first batch axis"
    if len(shape) < len(batch):
        return f"{what} for each entry of the first batch axis, extended over the others"
    return f"{what} for each example"


def _dropped(problem: Problem, plan: Plan) -> str:
    """R16."""
    kinds = []
    if plan.ignore_index is not None:
        kinds.append(f"with label {shown_value(plan.ignore_index)}")
    if plan.sample_weight != "none":
        kinds.append(f"with sample weight {'False' if plan.sample_weight == 'mask' else 0}")
    if plan.label_kind == "dense":
        smoothed = "smoothed and " if plan.label_smoothing else ""
        weighted = f", {smoothed}weighted," if plan.class_weight else ""
        kinds.append(f"whose label row{weighted} is all zeros")
    elif plan.class_weight:
        all_zero = "all if every class weight is 0"
        kinds.append(all_zero if plan.label_smoothing else "with class weight 0")
    if kinds:
        return f"examples {', or '.join(kinds)}"
    if problem.options.ignore_index is None:
        return "nothing"
    ignored = shown_value(problem.options.ignore_index)
    return f"nothing: labels of dtype {problem.labels.dtype} cannot be {ignored}"


def _loss(plan: Plan) -> str:
    """R12, R14, R15."""
    weighted = "weighted losses" if plan.sample_weight == "weight" else "losses"
    if plan.reduction == "none":
        return f"none: the {weighted} of all examples, 0 where dropped"
    if plan.reduction == "sum":
        return f"sum of the {weighted} of all examples that are not dropped"
    return f"mean: the sum of all {weighted}, divided by {_divisor(plan)}"


def _divisor(plan: Plan) -> str:
    if plan.normalizer:
        return "normalizer, not by their total mass"
    mass = {
        ("index", True): "the class weight of its label",
        ("dense", True): "its label row times class_weight, summed",
    }.get((plan.label_kind, plan.class_weight))
    if plan.sample_weight == "weight":
        mass = "its sample weight" if mass is None else f"its sample weight times {mass}"
    if mass is None:
        return "the number of examples that are not dropped (0 if none is left)"
    return f"the total mass of those not dropped, each with {mass} (0 if that is 0)"


def _result(problem: Problem, plan: Plan, batch: Shape | None) -> str:
    shape = batch if plan.reduction == "none" else ()
    where = "of the batch shape" if shape is None else f"of shape {shown(shape)}"
    text = f"{problem.logits.library} {plan.compute_dtype}, {where}"
    if problem.head is not None:
        others = (f"of {name} in {one.dtype}" for name, one in problem.head._asdict().items()
                  if one is not None and one.dtype != plan.compute_dtype)  # fmt: skip
        return "; gradient ".join((text, *others))
    if plan.logits_dtype == plan.compute_dtype:
        return text
    return f"{text}; a gradient in {plan.logits_dtype}"
