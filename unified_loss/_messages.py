"""The words of every error. Pure text: what was expected, what was passed, what would fit."""

import reprlib
from numbers import Number
from typing import Any

from unified_loss._types import Problem, Shape, Size, Spec


def shown(shape: Shape | None) -> str:
    """A shape as people write it; unknown sizes are question marks."""
    if shape is None:
        return "(unknown rank)"
    sizes = [shown_size(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def shown_size(size: Size) -> str:
    """A size as people write it; `str` breaks the graph of torch.compile where it is symbolic."""
    return "?" if size is None else f"{size}"


def shown_value(value: Any) -> str:
    """The value of an option, cut short; of an array the kind alone."""
    if value is None or isinstance(value, bool | float | str):
        return repr(value)
    if hasattr(value, "shape") and not isinstance(value, Number):
        return f"a {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, int):
        return _shown_integer(value)
    return reprlib.repr(value)


def _shown_integer(value: int) -> str:
    """An integer; Python refuses to print very long ones."""
    return str(value) if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"


def described(spec: Spec) -> str:
    """Library, dtype and shape, as in ``torch float32[8, 10]``."""
    inner = "..." if spec.shape is None else shown(spec.shape).strip("(),")
    return f"{spec.library} {spec.dtype}[{inner}]"


def facts(problem: Problem) -> str:
    """The line of what was passed."""
    axis = "not given" if problem.axis is None else shown_value(problem.axis)
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
    return f"axis {axis} (size {shown_size(problem.logits.shape[axis])})"


def _are(name: str) -> str:
    return "are" if name in {"logits", "labels"} else "is"


def logits_not_floating(problem: Problem, *, swapped: bool) -> str:
    """R1."""
    text = f"logits must be floating, but are {problem.logits.dtype}." + facts(problem)
    if swapped:
        return text + hint("the arguments look swapped: the order is (logits, labels).")
    return text + hint("pass unnormalised scores, one per class, not class ids or predictions.")


def axis_not_an_integer(axis: Any) -> str:
    """R3."""
    return f"axis must be one integer or None, but is {shown_value(axis)}."


def axis_out_of_range(problem: Problem, axis: int) -> str:
    """R3."""
    ndim = len(problem.logits.shape)
    return (
        f"axis must be in [{-ndim}, {ndim - 1}] for logits of shape {shown(problem.logits.shape)}, "
        f"but is {_shown_integer(axis)}." + facts(problem)
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


def ambiguous_axis(problem: Problem, candidates: tuple[int, ...]) -> str:
    """R3."""
    first, last = candidates
    return (
        f"the class axis is ambiguous: labels of shape {shown(problem.labels.shape)} fit logits of "
        f"shape {shown(problem.logits.shape)} with the classes on {_axis(problem, first)} and on "
        f"{_axis(problem, last)}."
        + facts(problem)
        + hint(f"pass axis={first} (channels first) or axis=-1 (channels last).")
    )


def no_axis_fits(problem: Problem, candidates: tuple[int, ...]) -> str:
    """R5."""
    logits = problem.logits.shape
    wanted = ", ".join(
        f"{shown(_without(logits, axis))} with the classes on {_axis(problem, axis)}"
        for axis in candidates
    )
    return (
        f"labels must have shape {wanted}, or the whole shape {shown(logits)} of the logits, "
        f"but have shape {shown(problem.labels.shape)}."
        + facts(problem)
        + _nearest(problem, candidates)
    )


def labels_do_not_fit(problem: Problem, axis: int) -> str:
    """R5."""
    logits, labels = problem.logits.shape, problem.labels.shape
    return (
        f"labels must have shape {shown(_without(logits, axis))}, the shape of logits "
        f"{shown(logits)} without the class {_axis(problem, axis)}, or the logits' whole shape, "
        f"but have shape {shown(labels)}." + facts(problem) + _nearest(problem, (axis,))
    )


def _nearest(problem: Problem, axes: tuple[int, ...]) -> str:
    """What is nearest to a fit, if the classes are on one of these axes."""
    logits, labels = problem.logits.shape, problem.labels.shape
    are_ids = "int" in problem.labels.dtype
    others = [axis for axis in range(len(logits)) if axis not in axes]
    fitting = [axis for axis in others if not _unequal(problem, _without(logits, axis))]
    if are_ids and fitting:
        return hint(f"with axis={fitting[0]} these shapes fit.")
    batches = [_without(logits, axis) for axis in axes]
    for wanted in [logits, *batches] if are_ids else [logits]:
        if [size for size in wanted if size != 1] == [size for size in labels if size != 1]:
            return hint(
                f"reshape the labels to {shown(wanted)}: they differ in axes of size 1 alone."
            )
    whole = _unequal(problem, logits)
    if len(labels) == len(logits) and len(whole) == 1:
        (i,) = whole
        classes = ", the number of classes" if i in axes else ""
        return hint(
            f"axis {i} disagrees: logits have {shown_size(logits[i])} there{classes}, "
            f"labels {shown_size(labels[i])}."
        )
    if not are_ids:
        return hint(
            f"{problem.labels.dtype} labels are one number per class and need the shape "
            f"{shown(logits)}; class ids are integers."
        )
    differences = [_unequal(problem, batch) for batch in batches]
    counts = [len(wrong) for wrong in differences]
    nearest = counts.index(min(counts))
    batch, wrong = batches[nearest], differences[nearest]
    if len(labels) == len(batch):
        named = ", ".join(
            f"axis {i} ({shown_size(batch[i])} examples, {shown_size(labels[i])} labels)"
            for i in wrong
        )
        return hint(f"the batch {shown(batch)} disagrees on {named}.")
    return hint(f"give one class id for each example of the batch {shown(batch)}.")


def _unequal(problem: Problem, wanted: Shape) -> tuple[int, ...]:
    """The axes on which the labels provably differ from a shape; all if the ranks do."""
    labels = problem.labels.shape
    if len(labels) != len(wanted):
        return tuple(range(len(labels) + len(wanted)))
    pairs = enumerate(zip(wanted, labels, strict=True))
    return tuple(i for i, (a, b) in pairs if problem.same(a, b) is False)


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
    cast = {
        "numpy": "np.asarray(labels, np.int64)",
        "python": "np.asarray(labels, np.int64)",
        "torch": "labels.long()",
        "tensorflow": "tf.cast(labels, tf.int64)",
        "jax": "labels.astype(jnp.int32)",
        "dask": 'labels.astype("int64")',
        "mlx": "labels.astype(mx.int32)",
    }.get(labels.library, "xp.astype(labels, xp.int64)")
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
    wanted = shown((problem.logits.shape[axis],))
    return (
        f"class_weight must have shape {wanted}, one weight per class of {_axis(problem, axis)}, "
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
    return f"{name} must be {wanted}, but is {shown_value(value)}."


def normalizer_without_mean(reduction: str) -> str:
    """R8."""
    return f'normalizer goes with reduction="mean" alone, but reduction is {reduction!r}.'


def normalizer_not_scalar(spec: Spec) -> str:
    """R8."""
    return f"normalizer must be a positive number or a real 0-d array, but is {described(spec)}."


def ignore_index_with_dense_labels(problem: Problem, value: int) -> str:
    """R8."""
    return (
        f"ignore_index applies to index labels, but is {_shown_integer(value)} with dense labels "
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
    kind = kind.removeprefix("builtins.")
    if kind in {"list", "tuple"}:
        kind += ", which holds something else"
    elif "." not in kind:
        fix = "give numbers, lists of numbers or an array."
    return (
        f"{name} must be of the logits' library ({library}), or host data (numbers, lists, NumPy "
        f"arrays), but {_are(name)} of type {kind}." + hint(fix)
    )


def cannot_combine(name: str, reason: str, fix: str) -> str:
    """R2."""
    return f"{name} cannot be combined with the logits: {reason}." + hint(fix)


def refused(name: str, kind: str, reason: str) -> str:
    """R2."""
    return f"{name} must be an ordinary dense array, not {kind}: {reason}."


def bad_labels(
    count: int, of: int, first: tuple[int, ...], low: int, high: int, classes: int, usual: str
) -> str:
    """R17."""
    where = f", the first at position {first if len(first) > 1 else first[0]}" if first else ""
    return (
        f"labels must be class ids in [0, {classes}), but {count} of {of} are not{where}; they "
        f"range from {_shown_integer(low)} to {_shown_integer(high)}." + hint(usual)
    )


def usual_meaning(low: int, high: int, classes: int, ignore_index: int | None) -> str:
    """What out-of-range labels of such a pattern usually are."""
    if low == -1 and high < classes:
        return "-1 usually marks padding or unknown labels: pass ignore_index=-1 to drop them."
    if low < 0:
        return f"negative ids are no classes; ignore_index is {ignore_index}."
    if low >= 1 and high == classes:
        return "0 never occurs, so the labels look one-based: subtract 1."
    if high == classes:
        return f"label {high} needs {high + 1} classes: the last layer is one unit short."
    if high == 255:
        return "255 usually marks void pixels (pass ignore_index=255) or raw grey values."
    return f"the largest label needs more classes than the {classes} of the logits."


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
