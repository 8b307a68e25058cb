"""Causes: numbers of examples or of labels per example that disagree."""

import math

from unified_loss._diagnosis._facts import Facts, count, ratio
from unified_loss._diagnosis._fixes import Fix, Step, fix, outside
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._diagnosis._targets import score_map
from unified_loss._shown import shown, shown_size
from unified_loss._types import Shape

SEQUENCE = 3  # the rank of logits (batch, time, class)
MANY_ROWS = 256  # beyond that a number of rows is hardly a batch size


def rows(facts: Facts) -> tuple[int, int] | None:
    """The numbers of rows of flat logits (N, C) and of their labels (M,), (M, 1) or (M, C)."""
    logits, labels = facts.logits, facts.labels
    if len(logits) != 2 or len(labels) not in {1, 2} or not facts.batch:
        return None
    flat = len(labels) == 1 or facts.equal(labels[1], 1)
    dense = len(labels) == 2 and facts.axis == 1 and facts.equal(labels[1], logits[1])
    a, b = facts.batch[0], labels[0]
    known = isinstance(a, int) and isinstance(b, int) and a != b and min(a, b) > 0
    return (a, b) if known and (flat or dense) else None


def times(facts: Facts) -> int | None:
    """How many rows of logits there are for each label."""
    found = rows(facts)
    return None if found is None else ratio(*found)


@cause(
    "per_step_labels_single_prediction",
    "a label for each step, one prediction for all",
    "labels",
    example="np.zeros((64, 2)), np.zeros((64, 128), int)",
)
def per_step_labels_single_prediction(facts: Facts) -> Readings:
    """One label per step or pixel, one prediction per example."""
    labels, batch, classes = facts.labels, facts.batch, facts.classes
    extra = labels[len(batch) :]
    found = rows(facts)
    flat = None if found is None or len(labels) > 1 else ratio(found[1], found[0])
    width = shown_size(classes)
    if len(facts.logits) == 2 and len(labels) == 3 and facts.equal(labels[:2], facts.logits):
        if facts.equal(labels[2], 1):
            return
        extra, wanted, score, width = (labels[1],), labels, Score.STRONG, shown_size(labels[2])
    elif facts.equal(labels, facts.logits) or facts.same_multiset(facts.logits, labels):
        return
    elif (
        batch
        and len(labels) > len(facts.logits)
        and facts.axis == len(facts.logits) - 1
        and facts.equal((*labels[: len(batch)], labels[-1]), facts.logits)
        and facts.rows
    ):
        extra, wanted, score = labels[len(batch) : -1], labels, Score.STRONG
    elif batch and extra and facts.equal(labels[: len(batch)], batch) and not facts.fractional:
        is_bool = facts.problem.labels.dtype == "bool"
        if facts.equal(extra, (1,)) or is_bool or facts.rows_of_ones:
            return
        wanted, score = (*labels, classes), Score.STRONG if facts.integer else Score.GUESS
    elif flat is not None:
        is_one_hot = flat == classes
        extra, wanted = (flat,), (*batch, flat, classes)
        score = Score.GUESS if is_one_hot else Score.LIKELY
    else:
        return
    pixels = len(extra) > 1
    per, head = ("pixel", "a segmentation head (a mask model)") if pixels else (
        "time step (token)", "return_sequences=True, TimeDistributed"
        if facts.tensorflow else "a head for tokens")  # fmt: skip
    entries = f"{' x '.join(map(shown_size, extra))} numbers"
    yield Reading(
        score,
        f"labels {shown(labels)} have {entries} for each example, logits "
        f"{shown(facts.logits)} give one prediction per example.",
        (
            outside(f"predict per {per} with {head}: logits {shown(wanted)}"
                    + (f", Dense({width}), {width} classes" if facts.tensorflow else "")),
            outside(f"give one label per example (per sequence, no token-label collator): "
                    f"{shown(batch)}"),
        ),
    )  # fmt: skip


def _pools(facts: Facts) -> tuple[int, ...]:
    """The axes of the logits to pool over, so that the labels fit; none if that does not help."""
    axes = tuple(i for i in range(1, len(facts.logits)) if i != facts.axis)
    one_each = len(facts.labels) == 1 or (
        len(facts.labels) == 2 and (facts.equal(facts.labels[1], 1) or facts.rows)
    )
    return axes if facts.axis and len(facts.logits) > 2 and one_each else ()


def _pooled(facts: Facts, text: str) -> list[Fix]:
    axes = _pools(facts)
    sizes = tuple(facts.logits[i] for i in axes)
    if not axes:
        return []
    given = "one prediction per example is meant"
    if facts.problem.options.axis is None and len(facts.logits) == SEQUENCE:
        given = f"the classes are on axis {facts.axis}"
    if all(facts.equal(size, 1) for size in sizes):
        rest = (facts.logits[0], facts.classes)
        return list(fix(facts, "flatten the axes of size 1", Step("logits", "reshape", rest)))
    return list(fix(facts, text, Step("logits", "mean", axes), given=given))


@cause(
    "missing_flatten_or_pooling",
    "a feature map that was not pooled",
    "labels",
    example="np.zeros((32, 7, 7, 5)), np.zeros(32, int)",
)
def missing_flatten_or_pooling(facts: Facts) -> Readings:
    """A feature map that still has its spatial axes, or has them in the batch."""
    logits, labels, k = facts.logits, facts.labels, times(facts)
    if len(logits) > 2:
        fixes = _pooled(facts, "pool (flatten) the spatial axes; best before the last layer")
        sizes = tuple(logits[i] for i in _pools(facts))
        square = len(sizes) > 1 and len(set(map(shown_size, sizes))) == 1
        if fixes:
            per_pixel = (logits[0], *sizes)
            yield Reading(
                Score.STRONG
                if square or len(logits) > SEQUENCE or facts.equal(sizes, (1,))
                else Score.LIKELY,
                f"logits {shown(logits)} keep spatial axes {shown(sizes)}, labels {shown(labels)} "
                "are one per example.",
                (*fixes, outside(f"give a mask, one label per pixel: {shown(per_pixel)}")),
            )
    elif facts.binary_target and (side := score_map(facts)):
        yield Reading(
            Score.STRONG,
            f"labels {shown(labels)} are only 0 and 1 beside {facts.classes} = {side} x {side} "
            "outputs: a binary target, and a score map (patches) that was not pooled.",
            (outside(f"pool the {side} x {side} scores, or adapt the network to the size of the "
                     "images; then a binary (sigmoid) loss"),),
            "do not cast them to class ids, unless they are ids of which only 0 and 1 occur.",
        )  # fmt: skip
    elif k is not None and k > 3 and math.isqrt(k) ** 2 == k:
        side = math.isqrt(k)
        yield Reading(
            Score.LIKELY if side > 2 else Score.GUESS,
            f"logits have {k} = {side} x {side} rows per label: a {side}x{side} feature map that "
            "became part of the batch, without pooling or flatten.",
            (outside(f"pool or flatten the {side}x{side} map before the last layer"),),
        )


@cause(
    "per_step_logits_single_label",
    "a prediction for each step, one label for all",
    "labels",
    example="np.zeros((32, 100, 5)), np.zeros(32, int)",
)
def per_step_logits_single_label(facts: Facts) -> Readings:
    """One prediction per step, one label per example."""
    logits, labels, k = facts.logits, facts.labels, times(facts)
    if len(logits) == 3 and len(_pools(facts)) == 1:
        (axis,) = _pools(facts)
        time_first = facts.axis == 2 and not facts.fits(labels[:1], logits[:1])
        axis = 0 if time_first else axis
        first = "; time is first" if time_first else ""
        layer = "return_sequences=False" if facts.tensorflow else "as after the last state"
        fixes = list(fix(facts, f"take the last step ({layer}{first})",
                         Step("logits", "pick", (axis, -1)),
                         given="the last step alone counts"))  # fmt: skip
        is_column = len(labels) == 2 and facts.equal(labels[1], 1)
        if fixes:
            yield Reading(
                Score.LIKELY if facts.axis != SEQUENCE - 1 or time_first else Score.STRONG,
                f"logits {shown(logits)} have {shown_size(logits[axis])} predictions per example, "
                f"labels {shown(labels)} one label"
                f"{' (an id, not a one-hot row)' if is_column else ''}.",
                (*fixes, outside(f"give one label per step (per token): {shown(facts.batch)}")),
            )
    elif k is not None:
        batch = labels[0]
        split = Step("logits", "reshape", (batch, k, facts.classes))
        yield Reading(
            Score.STRONG if batch == 1 else Score.LIKELY if k > 8 else Score.GUESS,
            f"logits have {facts.batch[0]} = {batch} x {k} rows: {k} predictions (steps, tokens) "
            "for each label.",
            (
                *fix(facts, "take the last step of each example", split,
                     Step("logits", "pick", (1, -1))),
                outside(f"give one label per step (per token): {shown(facts.batch)}"),
            ),
        )  # fmt: skip


@cause(
    "reshape_changed_batch",
    "a reshape that changed the batch",
    "labels",
    example="np.zeros((40, 6)), np.zeros(10, int)",
)
def reshape_changed_batch(facts: Facts) -> Readings:
    """A reshape with -1 that put another axis into the batch."""
    found = rows(facts)
    if found is None:
        return
    total, batch = found
    keep = outside("keep the batch first in the model: x.reshape(x.shape[0], -1)")
    k, fewer = ratio(total, batch), ratio(batch, total)
    if k is not None:
        yield Reading(
            Score.LIKELY if k <= 8 else Score.GUESS,
            f"logits have {total} rows for {batch} labels, exactly {k} times as many: a reshape "
            f"with -1 made an axis of size {k} (frames, channels, image size) part of the batch.",
            (keep,),
        )
    elif len(facts.labels) == 1 and (fewer is not None or total > batch):
        times_fewer = f", exactly {fewer} times fewer" if fewer else ""
        yield Reading(
            Score.GUESS,
            f"logits have {total} rows for {batch} labels{times_fewer}: as after a reshape "
            "with -1 and a wrong number of features.",
            (keep,),
        )


@cause(
    "labels_flattened_one_hot",
    "one-hot rows that were flattened",
    "labels",
    example="np.zeros((25, 10)), np.zeros(250, int)",
)
def labels_flattened_one_hot(facts: Facts) -> Readings:
    """One-hot rows that were flattened."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    if len(labels) == 2 and facts.equal(labels[1], 1):
        labels = labels[:1]
    if len(labels) != 1 or len(logits) < 2 or facts.equal(facts.classes, 1):
        return
    if facts.values and facts.whole and not facts.binary:
        return  # class ids
    entries, examples = count(logits), count(batch)
    if entries is not None and labels[0] == entries:
        yield Reading(
            Score.STRONG if facts.binary else Score.LIKELY,
            f"labels have {entries} = {shown_size(examples)} x {shown_size(facts.classes)} "
            "entries, exactly as many as the logits: one-hot rows that were flattened.",
            (
                *fix(
                    facts,
                    "give each example its row",
                    Step("labels", "reshape", logits),
                    given="" if facts.binary else "they are rows of probabilities",
                ),
                outside(f"give class ids (class indices) {shown(batch)}, by argmax"),
            ),
        )
    elif (k := ratio(labels[0], examples)) is not None and (facts.integer or facts.binary):
        yield Reading(
            Score.STRONG if facts.binary else Score.GUESS,
            f"labels have {k} numbers for each example: flattened one-hot rows of {k} classes, if "
            "they are 0 and 1.",
            (
                outside(f"give class ids (class indices) {shown(batch)}, by argmax over the {k}"),
                outside(f"{facts.units(k)}"),
            ),
        )


@cause(
    "batch_split_not_applied_to_labels",
    "a batch that was split on one side",
    "labels",
    example="np.zeros((16, 10)), np.zeros(20, int)",
)
def batch_split_not_applied_to_labels(facts: Facts) -> Readings:
    """A batch that was split, sliced or gathered on one side alone."""
    for a, b in _batches(facts):
        if a < b:
            yield Reading(
                Score.GUESS if ratio(b, a) or a > MANY_ROWS else Score.LIKELY,
                f"logits have {a} of the {b} examples on axis 0: a mini-batch slice of the inputs "
                "alone.",
                (outside("slice the labels as the inputs, by the same mini-batch (batch size)"),),
            )


@cause(
    "last_batch_smaller",
    "batches of two sizes",
    "labels",
    example="np.zeros((32, 24)), np.zeros((13, 24))",
)
def last_batch_smaller(facts: Facts) -> Readings:
    """A batch of another size than the labels, as in the last step of an epoch."""
    for a, b in _batches(facts):
        yield Reading(
            Score.GUESS if ratio(a, b) or ratio(b, a) or a > MANY_ROWS else Score.LIKELY,
            f"logits have {a} examples on axis 0, labels {b}: in the last batch, something has a "
            "fixed batch size.",
            (outside(f"give inputs and labels of the same length ({min(a, b)} or {max(a, b)}; "
                     f"{facts.term('even batches')})"),),
        )  # fmt: skip


def _batches(facts: Facts) -> list[tuple[int, int]]:
    """The two batch sizes, if labels fit but for axis 0."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    for wanted in (batch, logits):
        if len(wanted) == len(labels) and wanted and facts.differing(wanted, labels) == (0,):
            a, b = wanted[0], labels[0]
            if facts.axis and isinstance(a, int) and isinstance(b, int):
                return [(a, b)]
    return []


@cause(
    "flattened_on_one_side",
    "flattened on one side alone",
    "labels",
    example="np.zeros((32, 20, 5)), np.zeros(640, int)",
)
def flattened_on_one_side(facts: Facts) -> Readings:
    """Logits (N, T, C) against flat labels (N T,), or flat logits (N T, C) against (N, T)."""
    labels, batch = facts.labels, facts.batch
    total, flat = count(batch), tuple(size for size in labels if not facts.equal(size, 1))
    if total is None or total < 2 or count(labels) != total or len(flat) == len(batch):
        return
    if facts.equal(labels, batch):
        return
    if 1 in {len(batch), len(flat)} and facts.whole:
        yield Reading(
            Score.STRONG,
            f"labels {shown(labels)} and the batch {shown(batch)} have the same number of entries, "
            f"{total}: one of them was flattened.",
            tuple(fix(facts, "reshape the labels alike", Step("labels", "reshape", batch))),
        )


@cause(
    "labels_unrelated",
    "labels of another shape",
    "labels",
    example="np.zeros((4, 5, 3)), np.zeros((6, 7), int), axis=2",
)
def labels_unrelated(facts: Facts) -> Readings:
    """Labels that are nearly nothing of what they could be."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    wanted = batch if facts.integer else logits
    text = (
        f"give one class id for each example of the batch {shown(batch)}, or rows {shown(logits)}"
    )
    if len(labels) == len(wanted) and (unequal := facts.differing(wanted, labels)):
        named = ", ".join(
            f"axis {i} ({shown_size(wanted[i])} in logits, {shown_size(labels[i])} in labels)"
            for i in unequal
        )
        sentence = f"labels {shown(labels)} and the wanted {shown(wanted)} disagree on {named}."
    else:
        sentence = f"labels {shown(labels)} are neither one per example nor rows of the logits."
    yield Reading(Score.LAST, sentence, (outside(text),))


@cause(
    "weight_shape_wrong",
    "weights of another shape",
    "weights",
    example="np.zeros((4, 3)), np.zeros(4, int), class_weight=np.ones((1, 3))",
)
def weight_shape_wrong(facts: Facts) -> Readings:
    """Weights that are not one per class, or not one per example."""
    classes, batch, problem = facts.classes, facts.batch, facts.problem
    for name, other, wanted in (
        ("class_weight", "sample_weight", (classes,)),
        ("sample_weight", "class_weight", batch),
    ):
        spec = getattr(problem, name)
        if spec is None or spec.shape is None:
            continue
        shape = spec.shape
        fixes = [*fix(facts, f"squeeze the weight to a 1-d {shown(wanted)}" if len(wanted) == 1
                      else "reshape the weights", Step(name, "reshape", wanted))
                 ] if count(shape) == count(wanted) else []  # fmt: skip
        if getattr(problem, other) is None:
            per = {"class_weight": "class", "sample_weight": "example"}[other]
            fixes += fix(facts, f"pass it as {other}", Step(name, "rename", other),
                         given=f"there is one per {per}")  # fmt: skip
        of = (
            f"{shown_size(classes)} classes"
            if name == "class_weight"
            else f"the batch {shown(batch)}"
        )
        per = "class" if name == "class_weight" else "example"
        absent = ""
        if name == "class_weight" and _is_smaller(shape, wanted):
            absent = "; computed over the whole data set, as one batch lacks the absent classes"
        if not facts.fits(shape, wanted) and not facts.fits(shape, wanted[:1]):
            yield Reading(
                Score.CERTAIN,
                f"{name} has shape {shown(shape)}, for {of}.",
                (*fixes, outside(f"give one weight per {per}: shape {shown(wanted)}{absent}"))[:2],
            )  # fmt: skip


def _is_smaller(shape: Shape, wanted: Shape) -> bool:
    (size, *rest), (classes,) = shape or (None,), wanted
    return not rest and isinstance(size, int) and isinstance(classes, int) and size < classes
