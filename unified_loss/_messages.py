"""The words of every error. Pure text: what was expected, what was passed, what would fit."""

from typing import Any

from unified_loss import _offered as offered
from unified_loss._offered import Offer, hinted
from unified_loss._shapes import without
from unified_loss._shown import (
    described,
    name_of,
    shown,
    shown_dtype,
    shown_integer,
    shown_size,
    shown_value,
)
from unified_loss._types import Problem, Shape, Size, Spec

TRACED = {  # a word in the class of a traced number: what makes a constant of it
    "Tracer": "make it a constant, or list it in static_argnames of jax.jit",
    "SymbolicTensor": "make it a constant, a number of Python",
}
SWAP_IN_KERAS = "if the logits came first, swap the arguments: loss(y_true, y_pred)"
MASK_LOST = "its mask would be lost"


def _axis(problem: Problem, axis: int) -> str:
    return f"axis {axis} (size {shown_size(problem.logits.shape[axis])})"


def are(name: str) -> str:
    """The verb of an argument."""
    return "are" if name in {"logits", "labels"} else "is"


def logits_not_floating(problem: Problem, *, swapped: bool) -> str:
    """R1."""
    text = f"logits must be floating, but are {shown_dtype(problem.logits.dtype)}"
    if swapped:
        return f"{text}: the arguments look swapped, the order is (logits, labels)."
    return f"{text}."


def part_not_floating(name: str, spec: Spec) -> str:
    """R28."""
    told = f"{name} must be floating, but is {described(spec)}."
    is_integer = spec.dtype.startswith(("int", "uint"))
    return f"{told} The order is hidden, weight, labels." if is_integer else told


def no_features() -> str:
    """R28."""
    return "hidden must have an axis of features, its last one, but has shape ()."


def weight_not_a_matrix(weight: Spec) -> str:
    """R28."""
    told = f"weight must have shape (C, D), a row per class, but has shape {shown(weight.shape)}."
    if len(weight.shape) > 1:
        return told
    return f"{told} A weight for each class is class_weight=, one for each example sample_weight=."


def weight_shape(hidden: Spec, weight: Spec) -> str:
    """R28."""
    features = shown_size(hidden.shape[-1])
    return (
        f"weight must have shape (C, {features}), a row per class of the {features} features of "
        f"hidden {shown(hidden.shape)}, but has shape {shown(weight.shape)}."
    )


def bias_shape(bias: Spec, classes: Size) -> str:
    """R28."""
    return (
        f"bias must have shape {shown((classes,))}, one number per class, but has shape "
        f"{shown(bias.shape)}."
    )


def _labels_beside_hidden(problem: Problem) -> str:
    """R28."""
    hidden, weight, _ = problem.head
    return (
        f"labels must have shape {shown(hidden.shape[:-1])}, the shape of hidden "
        f"{shown(hidden.shape)} without its features, or {shown(problem.logits.shape)} as rows "
        f"over the classes of weight {shown(weight.shape)}, but have shape "
        f"{shown(problem.labels.shape)}."
    )


def axis_not_an_integer(axis: Any) -> str:
    """R3."""
    return option("axis", axis, "one integer or None")


def axis_out_of_range(problem: Problem, axis: int) -> str:
    """R3."""
    ndim = len(problem.logits.shape)
    return (
        f"axis must be in [{-ndim}, {ndim - 1}] for logits of shape {shown(problem.logits.shape)}, "
        f"but is {shown_integer(axis)}."
    )


def no_class_axis() -> str:
    """R3."""
    return "logits must have a class axis, but have shape ()."


def rank_unknown() -> str:
    """R3."""
    return "the class axis cannot be inferred from logits of unknown rank: pass axis=."


def ambiguous_axis(problem: Problem, candidates: tuple[int, ...]) -> str:
    """R3."""
    first, last = candidates
    return (
        f"the class axis is ambiguous: labels of shape {shown(problem.labels.shape)} fit logits of "
        f"shape {shown(problem.logits.shape)} with the classes on {_axis(problem, first)} and on "
        f"{_axis(problem, last)}: pass axis={first} (channels first) or axis=-1 (channels last)."
    )


def no_axis_fits(problem: Problem, candidates: tuple[int, ...]) -> str:
    """R5."""
    logits = problem.logits.shape
    wanted = ", ".join(
        f"{shown(without(logits, axis))} with the classes on {_axis(problem, axis)}"
        for axis in candidates
    )
    return (
        f"labels must have shape {wanted}, or the whole shape {shown(logits)} of the logits, "
        f"but have shape {shown(problem.labels.shape)}."
    )


def labels_do_not_fit(problem: Problem, axis: int) -> str:
    """R5, R28."""
    if problem.head is not None:
        return _labels_beside_hidden(problem)
    logits, labels = problem.logits.shape, problem.labels.shape
    return (
        f"labels must have shape {shown(without(logits, axis))}, the shape of logits "
        f"{shown(logits)} without the class {_axis(problem, axis)}, or the logits' whole shape, "
        f"but have shape {shown(labels)}."
    )


def sizes_differ(name: str, shape: Shape, wanted: Shape) -> str:
    """R5, R7, for sizes that were unknown until now."""
    return f"{name} must have shape {shown(wanted)}, but have shape {shown(shape)}."


def sizes_differ_in_graph(name: str) -> str:
    """R5, R7, for sizes that a running graph compares, and adds to this text."""
    cause = "unified_loss.explain(logits, labels) of these shapes names the cause. "
    return (
        f"ShapeError: {name} do not have the shape that the logits ask for. "
        f"{cause if name == 'labels' else ''}Shapes of logits, {name} as wanted and as passed:"
    )


def no_classes(problem: Problem, axis: int) -> str:
    """R9, R28."""
    if problem.head is not None:
        weight = shown(problem.head.weight.shape)
        return f"there must be at least one class, but weight {weight} has no row."
    return f"logits must have at least one class, but the class axis {axis} has size 0."


def labels_not_numbers(problem: Problem) -> str:
    """R4."""
    return (
        "labels must be integers (class ids), booleans (one-hot) or floating (probabilities), "
        f"but are {shown_dtype(problem.labels.dtype)}."
    )


def scores_of_whom(problem: Problem) -> str:
    """R4."""
    logits, labels = problem.logits, problem.labels
    return (
        f"logits {shown(logits.shape)} without a batch axis are the scores of one example, whose "
        f"label has shape (), but labels have shape {shown(labels.shape)} and are {labels.dtype}: "
        "axis=0 takes them for its one-hot row."
    )


def several_ones(problem: Problem, axis: int) -> str:
    """R17."""
    return (
        f"rows of labels {shown(problem.labels.shape)} have several ones over the class axis "
        f"{axis}: several classes in one example. "
    )


def one_row() -> str:
    """R17; the same of all sizes, so that a program is told once."""
    return (
        "floating labels shaped like 1-D logits are the row of one example, and these do not sum "
        "to 1. Perhaps: "
    )


def unknown_label_kind(problem: Problem, axis: int) -> str:
    """R3, R4."""
    return (
        f"integer labels of shape {shown(problem.labels.shape)} can be class ids or one-hot rows, "
        f"since their size along the class axis {axis} is unknown."
    )


def ids_or_one_class(problem: Problem, axis: int) -> str:
    """R4, R33."""
    return hinted(
        f"integer labels of shape {shown(problem.labels.shape)}, where one class of a class_group "
        "is, can be class ids or the labels of this class.",
        f"pass class ids without axis {axis}, and labels of classes as floating numbers.",
    )


def index_labels_not_integer(problem: Problem, axis: int) -> str:
    """R4."""
    labels = problem.labels
    without_what = f"without the class {_axis(problem, axis)}"
    if problem.head is not None:
        without_what = "that of hidden without its features"
    return (
        f"labels of shape {shown(labels.shape)}, {without_what}, must be integer class ids, but "
        f"are {labels.dtype}."
    )


def weight_dtype(name: str, spec: Spec, wanted: str) -> str:
    """R7."""
    return f"{name} must have {wanted}, but is {described(spec)}."


def class_weight_shape(problem: Problem, axis: int) -> str:
    """R7."""
    logits = problem.logits.shape
    wanted, of = ("(C,)", "class") if logits is None else (
        shown((logits[axis],)), f"class of {_axis(problem, axis)}")  # fmt: skip
    if problem.head is not None:
        of = f"row of weight {shown(problem.head.weight.shape)}"
    return (
        f"class_weight must have shape {wanted}, one weight per {of}, "
        f"but has shape {shown(problem.class_weight.shape)}."
    )


def sample_weight_shape(problem: Problem, axis: int) -> str:
    """R7."""
    batch = without(problem.logits.shape, axis)
    wanted = shown(batch)
    if len(batch) > 1:
        wanted += f" or {shown(batch[:1])}"
    return (
        f"sample_weight must have shape {wanted}, one weight per example, "
        f"but has shape {shown(problem.sample_weight.shape)}."
    )


def option(name: str, value: Any, wanted: str) -> str:
    """R8."""
    kind = type(value).__name__
    told = next((fix for word, fix in TRACED.items() if word in kind), None)
    if told is not None:
        return f"{name} must be {wanted}, but is traced: options are part of the program; {told}."
    return f"{name} must be {wanted}, but is {shown_value(value)}."


def reduction(value: Any) -> str:
    """R8."""
    offer = offered.reduction(value)
    told = option("reduction", value, '"none", "mean" or "sum"')
    return told if offer is None else hinted(told, offer, cause=offered.WORD)


def kernel_setting(value: str, names: tuple[str, ...]) -> str:
    """The setting UNIFIED_LOSS_KERNEL."""
    return f"UNIFIED_LOSS_KERNEL must be one of {', '.join(names)}, but is {value!r}."


def kernel_cannot(name: str, reason: str) -> str:
    """The setting UNIFIED_LOSS_KERNEL."""
    return hinted(
        f"UNIFIED_LOSS_KERNEL={name} cannot serve this call: {reason}.",
        "leave the choice to the library: UNIFIED_LOSS_KERNEL=auto.",
    )


def not_held(name: str, value: float, dtype: str) -> str:
    """R8."""
    becomes = "0" if value < 1 else "infinite"
    return (
        f"{name} must be a number that stays finite, and does not vanish, in {dtype}, which the "
        f"loss is computed in, but {shown_value(value)} is {becomes} there."
    )


def no_groups(library: str, libraries: tuple[str, ...]) -> str:
    """R33."""
    return (
        f"class_group is for logits of {' and '.join(libraries)}, whose classes a group of "
        f"processes or devices can hold, but these are of {library}."
    )


def no_such_axis(name: str) -> str:
    """R33."""
    return hinted(
        f"class_group names the mesh axis {name!r}, and there is none of this name here.",
        "call the loss inside jax.shard_map over a mesh that has it; arrays that are split under "
        "jax.jit need no class_group.",
    )


def replicated(names: Any, what: str) -> str:
    """R33."""
    return hinted(
        f"{what} must hold other classes on each member of class_group, but along "
        f"{', '.join(map(repr, names))} all hold the same.",
        "leave class_group out, or split the classes in in_specs of jax.shard_map.",
    )


def normalizer_without_mean(reduction: str) -> str:
    """R8."""
    return f'normalizer goes with reduction="mean" alone, but reduction is {reduction!r}.'


def normalizer_not_positive(value: float) -> str:
    """R8."""
    count = "where a step may have nothing that counts: normalizer=max(count, 1)."
    return hinted(option("normalizer", value, "a number > 0"), *(() if value else (count,)))


def normalizer_not_scalar(spec: Spec) -> str:
    """R8."""
    return f"normalizer must be a positive number or a real 0-d array, but is {described(spec)}."


def ignore_index_with_dense_labels(problem: Problem, value: int) -> str:
    """R8."""
    return hinted(
        f"ignore_index applies to index labels, but is {shown_integer(value)} with dense labels "
        f"of shape {shown(problem.labels.shape)}.",
        "drop examples with sample_weight=, a boolean mask of the batch shape.",
    )


def single_class(problem: Problem) -> str:
    """R9."""
    what = f"the class axis of logits {shown(problem.logits.shape)} has size 1"
    if problem.head is not None:
        what = f"weight {shown(problem.head.weight.shape)} has one row, which is one class"
    return (
        f"{what}, so the loss of class id 0 is always 0, and any other id is out of range. For one "
        "score per example use a binary (sigmoid) cross-entropy, or give two classes."
    )


def unreadable(name: str, kind: str, reason: str, *offers: Offer, cause: str | None = None) -> str:
    """R2."""
    return hinted(f"{name} cannot be read from a {kind}: {reason}.", *offers, cause=cause)


def weights_by_class() -> str:
    """R7."""
    return hinted(
        "class_weight must be an array of shape (C,), but is a dict.",
        offered.OF_CLASSES,
        cause=offered.BY_NAME,
    )


def balanced(value: str, code: str | None = None) -> str:
    """R7; `code` makes them of the labels, where these tell how."""
    return hinted(
        f"class_weight must be an array of shape (C,), but is {shown_value(value)}.",
        offered.balanced(code),
        cause=offered.BY_NAME,
    )


def of_activation(end: str | None, model: str | None) -> str:
    """What the loss of Keras does about a softmax or a sigmoid, which may know the logits."""
    used = "those before it were used"
    if end is not None:
        used = "they were made of the probabilities, which have fewer digits"
    name = "" if model is None else f" {model!r}"
    return (
        f"the model{name} ends in a {end or 'softmax or a sigmoid'}, and this loss takes logits: "
        f"{used}. Fix: no activation in the last layer."
    )


def labels_come_first() -> str:
    """R1, where Keras calls the function."""
    return hinted(
        "Keras calls its losses and metrics with the labels first, as loss(y_true, y_pred), and "
        "this function takes the logits first.",
        offered.LOSS_OF_KERAS,
        cause=offered.SWAPPED,
    )


def logits_came_first(labels: Spec, logits: Spec) -> str:
    """R1, where the loss of Keras is called; the arguments are named by their places."""
    return (
        f"y_pred must be floating, but is {described(logits)}, beside y_true {described(labels)}: "
        "the arguments look swapped, the order of a loss of Keras is (y_true, y_pred)."
    )


def rows_of_scores(*, by_keras: bool = False) -> str:
    """R1, where both arguments are floating."""
    order = "of a loss of Keras is (y_true, y_pred)" if by_keras else "is (logits, labels)"
    return (
        "label rows hold negative values, and every row of the logits is one of probabilities: the "
        f"arguments look swapped, the order {order}. Fix: swap the arguments."
    )


def foreign(name: str, library: str, kind: str, offer: Offer, first: str) -> str:
    """R2; `first` is the argument that decides."""
    kind = kind.removeprefix("builtins.")
    if kind in {"list", "tuple"}:
        kind += ", which holds something else"
    return _beside(
        first,
        f"{name} must be of the logits' library ({library}), or host data (numbers, lists, NumPy "
        f"arrays), but {are(name)} of type {kind}.",
        offer,
    )


def unsupported(library: str, version: str, oldest: str | None, error: Exception) -> str:
    """R2."""
    text = f"unified_loss cannot work with {library} {version}: {error}."
    if oldest is None:
        return text
    return hinted(
        f"{text} The oldest release that it supports is {library} {oldest}.",
        f'pip install --upgrade "{library}>={oldest}"',
    )


def no_array(value: Any) -> str:
    """R2."""
    return (
        f"a {name_of(type(value))} has __array_namespace__, but is no array of that standard: its "
        "dtype, its shape or its namespace is missing."
    )


def library_fails(library: str, error: Exception) -> str:
    """R2."""
    reason = str(error).partition("\n")[0]
    return hinted(
        f"{library} cannot compute this loss: {type(error).__name__}: {reason}",
        "convert the arguments to NumPy or another supported library.",
    )


def cannot_combine(name: str, reason: str, fix: str, first: str = "logits") -> str:
    """R2; reasons and fixes, which are code or words, are told of logits."""
    told = f"{name} cannot be combined with the logits: {reason}."
    return _beside(first, told, offered.converted(name, fix, "bring it there"))


def _beside(first: str, text: str, offer: Offer) -> str:
    """What is said beside logits, in words of another first argument."""
    cause = None if offer == offered.NUMBERS else offered.OTHER_KIND
    text, todo, code = (_spoken_of(first, part) for part in (text, offer.text, offer.code))
    return hinted(text, Offer(todo, code, offer.kind), cause=cause)


def _spoken_of(first: str, text: str) -> str:
    if first == "logits":
        return text
    text = text.replace("the logits'", f"{first}'s").replace("the logits", first)
    return text.replace("logits", first)


def refused(name: str, kind: str, reason: str, dtype: Any = "") -> str:
    """R2; `dtype` is that of a masked array."""
    told = f"{name} must be an ordinary dense array, not {kind}: {reason}."
    if reason != MASK_LOST:
        return told
    return hinted(told, *offered.unmasked(name, dtype), cause=offered.MASKED)


def bad_labels(
    count: int, of: int, first: tuple[int, ...], low: int, high: int, classes: int
) -> str:
    """R17."""
    where = f", the first at position {first if len(first) > 1 else first[0]}" if first else ""
    return (
        f"labels must be class ids in [0, {classes}), but {count} of {of} are not{where}; they "
        f"range from {shown_integer(low)} to {shown_integer(high)}."
    )


def ids_beyond(low: int, high: int, classes: int) -> str:
    """R17, of labels that a message tells."""
    return (
        f"labels must be class ids in [0, {classes}), but they range from {shown_integer(low)} to "
        f"{shown_integer(high)}."
    )


def bad_probabilities(count: int, of: int, first: tuple[int, ...]) -> str:
    """R17."""
    return (
        f"dense labels must be finite and non-negative, but {count} of {of} entries are not, "
        f"the first at {first}; log-probabilities and logits are not."
    )


def not_totals(text: str, value: Any) -> str:
    """R35, R36."""
    return f"{text}, not {name_of(type(value)).removeprefix('builtins.')}."


def totals_have_axes(shape: Shape) -> str:
    """R36."""
    return hinted(
        f"totals must be 0-d arrays, but have shape {shown(shape)}.",
        "add them up: Totals(*(total.sum() for total in totals))",
    )


def no_values_yet(function: str = "cross_entropy_totals") -> str:
    """R36."""
    return hinted(
        "RunningCrossEntropy holds numbers, and there are none while a program is traced.",
        f"return {function}(...) from the program, and merge() what it returns.",
    )


def other_options(name: str, mine: Any, theirs: Any) -> str:
    """R36."""
    return (
        f"sums of another {name} cannot be merged: here it is {shown_value(mine)}, there "
        f"{shown_value(theirs)}."
    )
