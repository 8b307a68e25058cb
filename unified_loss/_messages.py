"""The words of every error. Pure text: what was expected, what was passed, what would fit."""

from collections.abc import Iterable
from typing import Any

from unified_loss._types import Problem, Shape, Spec


def shown(shape: Shape | None) -> str:
    """A shape as people write it; unknown sizes are question marks."""
    if shape is None:
        return "(unknown rank)"
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def described(spec: Spec) -> str:
    """Library, dtype and shape, as in ``torch float32[8, 10]``."""
    inner = "..." if spec.shape is None else shown(spec.shape).strip("(),")
    return f"{spec.library} {spec.dtype}[{inner}]"


def facts(problem: Problem) -> str:
    """The line of what was passed."""
    axis = "not given" if problem.axis is None else repr(problem.axis)
    return (
        f"\n  logits: {described(problem.logits)}   labels: {described(problem.labels)}"
        f"   axis: {axis}"
    )


def hint(text: str) -> str:
    """The line of what to do."""
    return f"\n  hint: {text}"


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _axis(problem: Problem, axis: int) -> str:
    size = problem.logits.shape[axis]
    return f"axis {axis} (size {'?' if size is None else size})"


def logits_not_floating(problem: Problem, *, swapped: bool) -> str:
    """R1."""
    text = f"logits must be floating, but are {problem.logits.dtype}." + facts(problem)
    if swapped:
        return text + hint("the arguments look swapped: the order is (logits, labels).")
    return text + hint("pass unnormalised scores, one per class, not class ids or predictions.")


def axis_not_an_integer(axis: Any) -> str:
    """R3."""
    return f"axis must be one integer or None, but is {axis!r}."


def axis_out_of_range(problem: Problem, axis: int) -> str:
    """R3."""
    ndim = len(problem.logits.shape)
    return (
        f"axis must be in [{-ndim}, {ndim - 1}] for logits of shape {shown(problem.logits.shape)}, "
        f"but is {axis}." + facts(problem)
    )


def no_class_axis(problem: Problem) -> str:
    """R3."""
    return "logits must have a class axis, but have shape ()." + facts(problem)


def rank_unknown(problem: Problem) -> str:
    """R3."""
    return (
        "the class axis cannot be inferred from logits of unknown rank."
        + facts(problem)
        + hint("pass axis=, for example axis=-1.")
    )


def ambiguous_axis(problem: Problem, candidates: Iterable[int]) -> str:
    """R3."""
    first, last = candidates
    return (
        f"the class axis is ambiguous: labels of shape {shown(problem.labels.shape)} fit logits of "
        f"shape {shown(problem.logits.shape)} with the classes on {_axis(problem, first)} and on "
        f"{_axis(problem, last)}."
        + facts(problem)
        + hint(f"pass axis={first} (channels first) or axis=-1 (channels last).")
    )


def no_axis_fits(problem: Problem, candidates: Iterable[int]) -> str:
    """R5."""
    logits = problem.logits.shape
    wanted = " or ".join(
        f"{shown(_without(logits, axis))} (classes on {_axis(problem, axis)})"
        for axis in candidates
    )
    return (
        f"labels must have shape {wanted}, the shape of logits {shown(logits)} without the class "
        f"axis, but have shape {shown(problem.labels.shape)}."
        + facts(problem)
        + _nearest(problem, None)
    )


def labels_do_not_fit(problem: Problem, axis: int) -> str:
    """R5."""
    logits, labels = problem.logits.shape, problem.labels.shape
    return (
        f"labels must have shape {shown(_without(logits, axis))}, the shape of logits "
        f"{shown(logits)} without the class {_axis(problem, axis)}, or the logits' whole shape, "
        f"but have shape {shown(labels)}." + facts(problem) + _nearest(problem, axis)
    )


def _nearest(problem: Problem, axis: int | None) -> str:
    """The nearest thing that would fit."""
    logits, labels = problem.logits.shape, problem.labels.shape
    for other in range(len(logits)):
        if other != axis and _without(logits, other) == labels:
            return hint(f"with axis={other} these shapes fit.")
    ones_dropped = tuple(size for size in labels if size != 1)
    if axis is None:
        axis = 1 if len(logits) > 1 else 0
    batch = _without(logits, axis)
    if ones_dropped == tuple(size for size in batch if size != 1) and labels != batch:
        return hint(f"reshape the labels to {shown(batch)}: they differ in axes of size 1 alone.")
    if len(labels) == len(logits):
        wrong = [i for i, (a, b) in enumerate(zip(logits, labels, strict=True)) if a != b]
        if len(wrong) == 1:
            i = wrong[0]
            return hint(
                f"axis {i} disagrees: logits have {logits[i]} there, labels {labels[i]}"
                + (", the number of classes." if i == axis else ".")
            )
    if len(labels) == len(batch):
        wrong = [i for i, (a, b) in enumerate(zip(batch, labels, strict=True)) if a != b]
        named = ", ".join(f"{batch[i]} examples against {labels[i]} labels" for i in wrong)
        return hint(f"axis {', '.join(map(str, wrong))} of the batch disagrees: {named}.")
    return hint(
        f"logits {shown(logits)} hold a batch of shape {shown(batch)}: "
        "give one class id for each of its examples."
    )


def no_classes(problem: Problem, axis: int) -> str:
    """R9."""
    return f"logits must have at least one class, but the class axis {axis} has size 0." + facts(
        problem
    )


def labels_not_numbers(problem: Problem) -> str:
    """R4."""
    return (
        "labels must be integers (class ids), booleans (one-hot) or floating (probabilities), "
        f"but are {problem.labels.dtype}." + facts(problem)
    )


def unknown_label_kind(problem: Problem, axis: int) -> str:
    """R3, R4."""
    return (
        f"integer labels of shape {shown(problem.labels.shape)} can be class ids or one-hot rows, "
        f"since their size along the class axis {axis} is unknown."
        + facts(problem)
        + hint("squeeze the class axis of class ids, or cast one-hot rows to floating.")
    )


def index_labels_not_integer(problem: Problem, axis: int) -> str:
    """R4."""
    labels = problem.labels
    library = {"python": "numpy"}.get(labels.library, labels.library)
    cast = {
        "torch": "labels.long()",
        "tensorflow": "tf.cast(labels, tf.int64)",
        "jax": "labels.astype(jnp.int32)",
        "dask": 'labels.astype("int64")',
    }.get(library, "labels.astype(np.int64)" if library == "numpy" else "an integer dtype")
    return (
        f"labels of shape {shown(labels.shape)}, without the class {_axis(problem, axis)}, must be "
        f"integer class ids, but are {labels.dtype}."
        + facts(problem)
        + hint(
            f"if they hold class ids, cast them: {cast}. If they are probabilities, they need "
            f"the logits' shape {shown(problem.logits.shape)}; do not cast those."
        )
    )


def weight_dtype(name: str, spec: Spec, wanted: str) -> str:
    """R7."""
    return f"{name} must have {wanted}, but is {described(spec)}."


def class_weight_shape(problem: Problem, axis: int) -> str:
    """R7."""
    size = problem.logits.shape[axis]
    return (
        f"class_weight must have shape ({size},), one weight per class of {_axis(problem, axis)}, "
        f"but has shape {shown(problem.class_weight.shape)}." + facts(problem)
    )


def sample_weight_shape(problem: Problem, axis: int) -> str:
    """R7."""
    batch = _without(problem.logits.shape, axis)
    wanted = shown(batch)
    if len(batch) > 1:
        wanted += f" or {shown(batch[:1])}"
    return (
        f"sample_weight must have shape {wanted}, one weight per example, "
        f"but has shape {shown(problem.sample_weight.shape)}." + facts(problem)
    )


def option(name: str, value: Any, wanted: str) -> str:
    """R8."""
    text = repr(value) if not hasattr(value, "shape") else f"an array ({type(value).__name__})"
    return f"{name} must be {wanted}, but is {text}."


def normalizer_without_mean(reduction: str) -> str:
    """R8."""
    return f'normalizer goes with reduction="mean" alone, but reduction is {reduction!r}.'


def normalizer_not_scalar(spec: Spec) -> str:
    """R8."""
    return f"normalizer must be a positive number or a real 0-d array, but is {described(spec)}."


def ignore_index_with_dense_labels(problem: Problem, value: int) -> str:
    """R8."""
    return (
        f"ignore_index applies to index labels, but is {value} with dense labels "
        f"of shape {shown(problem.labels.shape)}."
        + facts(problem)
        + hint("drop examples with sample_weight=, a boolean mask of the batch shape.")
    )


def single_class(problem: Problem) -> str:
    """R9."""
    return (
        f"the class axis of logits {shown(problem.logits.shape)} has size 1, so the loss is always "
        "0. For one score per example use a binary (sigmoid) cross-entropy, or give two classes."
    )


def foreign(name: str, library: str, kind: str, fix: str) -> str:
    """R2."""
    return (
        f"{name} must be a {library} array like the logits, or host data (numbers, lists, NumPy "
        f"arrays), but is {kind}." + hint(fix)
    )


def cannot_combine(name: str, reason: str, fix: str) -> str:
    """R2."""
    return f"{name} cannot be combined with the logits: {reason}." + hint(fix)


def refused(name: str, kind: str, reason: str) -> str:
    """R2."""
    return f"{name} must be a dense array, but is {kind}: {reason}."


def bad_labels(
    count: int, of: int, first: tuple[int, ...], low: int, high: int, classes: int, usual: str
) -> str:
    """R17."""
    where = "" if not first else f", the first at {first if len(first) > 1 else first[0]}"
    return (
        f"labels must be class ids in [0, {classes}), but {count} of {of} are not{where}; "
        f"they range from {low} to {high}." + hint(usual)
    )


def usual_meaning(low: int, high: int, classes: int, ignore_index: int | None) -> str:
    """What out-of-range labels of such a pattern usually are."""
    if low == -1 and high < classes:
        return "-1 usually marks padding or unknown labels: pass ignore_index=-1 to drop them."
    if low < 0:
        return f"negative ids are no classes; ignore_index is {ignore_index}."
    if low >= 1 and high == classes:
        return "as 0 never occurs, the labels look one-based: subtract 1."
    if high == classes:
        return f"label {high} needs {high + 1} classes: the last layer is one unit short."
    if high == 255:
        return "255 usually marks void pixels (pass ignore_index=255) or raw grey values."
    return f"label {high} needs at least {high + 1} classes, but the logits have {classes}."


def bad_probabilities(count: int, of: int, first: tuple[int, ...]) -> str:
    """R17."""
    return (
        f"dense labels must be finite and non-negative, but {count} of {of} entries are not, "
        f"the first at {first}." + hint("pass probabilities, not log-probabilities or logits.")
    )


def rows_do_not_sum_to_one(count: int, of: int, first: float) -> str:
    """R17."""
    return (
        f"{count} of {of} label rows do not sum to 1 (the first sums to {first:g}); "
        "the loss is -sum(t log p) of the rows as they are."
    )
