"""Causes: an axis that is missing, too many, or not where it was looked for."""

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import (
    IMAGE_CHANNELS,
    Facts,
    count,
    without_ones,
)
from unified_loss._diagnosis._fixes import Fix, Step, fix, is_valid, outside
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._shapes import fits_as_index, without
from unified_loss._shown import shown, shown_size


def _size(facts: Facts, axis: int) -> str:
    return f"axis {axis} (size {shown_size(facts.logits[axis])})"


@cause(
    "class_axis_argument_invalid",
    "no axis of the logits",
    "axis",
    example="np.zeros((2, 3, 4)), np.zeros(2, int), axis=(-2, -1)",
)
def class_axis_argument_invalid(facts: Facts) -> Readings:
    """An axis that is no integer, or out of range."""
    axis, logits = facts.problem.options.axis, facts.logits
    if axis is None or not logits:
        return
    if rules.is_array(axis):  # which may be any, until the program runs
        yield Reading(
            Score.CERTAIN,
            f"the class axis is one integer of Python, from {-len(logits)} to {len(logits) - 1}.",
            (outside("pass a number that is part of the program, and no array, as axis="),),
        )
        return
    fixes = list(fix(facts, "leave axis= out", Step("axis", "set", None)))
    given = [rules.integer(i) for i in axis] if isinstance(axis, tuple | list) else []
    if given and None not in given:
        axes = sorted(i % len(logits) for i in given if i is not None)
        classes = count(tuple(logits[i] for i in axes))
        if classes is not None and axes == list(range(axes[0], axes[-1] + 1)):
            merged = (*logits[: axes[0]], classes, *logits[axes[-1] + 1 :])
            steps = Step("logits", "reshape", merged), Step("axis", "set", axes[0])
            fixes += fix(
                facts,
                f"flatten them to one of {classes}",
                *steps,
                given="labels number the pairs, row by row",
            )
    n = len(logits)
    yield Reading(
        Score.CERTAIN,
        f"the class axis is one integer, from {-n} to {n - 1} for logits {shown(logits)}.",
        (*fixes, outside("pass one integer as axis=")),
    )


@cause(
    "class_axis_not_where_expected",
    "classes on another axis",
    "labels",
    "rows",
    example="np.zeros((8, 32, 10)), np.zeros((8, 10), int), axis=-1",
)
def class_axis_not_where_expected(facts: Facts) -> Readings:
    """The classes are on another axis than the one that was taken."""
    logits, labels, same = facts.logits, facts.labels, facts.problem.same
    if facts.problem.labels.dtype == "bool" and len(labels) < len(logits):
        return
    if facts.fits(labels, logits):
        sums = facts.values.unit_axes if facts.values else ()
        if len(logits) > 2 and facts.problem.options.axis is None:
            yield _dense_axis(facts, (1, len(logits) - 1), sums)
        elif sums and facts.axis not in sums:
            fixes = tuple(
                fix(facts, "say so", Step("axis", "set", sums[0]), given="the classes are there")
            )
            yield Reading(Score.STRONG, f"label rows do sum to 1 over axis {sums[0]}.", fixes)
        return
    fitting = [
        axis
        for axis in range(len(logits))
        if fits_as_index(logits, labels, axis, same) and same(logits[axis], 1) is not True
    ]
    inferable = [axis for axis in fitting if axis in {1, len(logits) - 1}]
    if facts.problem.options.axis is not None or len(logits) < 3:
        other = [] if facts.axis in fitting else fitting
    else:
        other = [] if len(inferable) == 1 else inferable or fitting
    order = facts.same_multiset(logits, labels)
    if other:
        named = " and ".join(_size(facts, axis) for axis in other[:2])
        sure = len(other) == 1 and facts.integer and other[0] > 0 and len(logits) > 2
        score = Score.CERTAIN if sure else Score.STRONG
        if len(logits) == 2:
            score = Score.LIKELY if facts.integer and len(labels) == 1 else Score.GUESS
        yield Reading(
            score,
            f"labels {shown(labels)} fit if the classes are on {named} of the logits.",
            tuple(
                found
                for axis in other[:2]
                for found in fix(
                    facts,
                    f"say that the classes are on axis {axis}, or transpose"
                    if sure
                    else "say so, or transpose",
                    Step("axis", "set", axis),
                    given="" if sure else f"the classes are on axis {axis}",
                )
            ),
        )
    elif order is not None and len(logits) > 2:
        yield Reading(
            Score.LIKELY,
            f"labels {shown(labels)} have the sizes of logits {shown(logits)} in another order.",
            tuple(fix(facts, "permute the labels' axes", Step("labels", "permute", order))),
            "do not reshape: it would mix the examples.",
        )


def _dense_axis(facts: Facts, axes: tuple[int, ...], sums: tuple[int, ...]) -> Reading:
    fitting = [axis for axis in axes if axis in sums]
    chosen = fitting if len(fitting) == 1 else sorted(set(axes), reverse=bool(fitting))
    known = f"; label rows sum to 1 over axis {chosen[0]} alone" if len(fitting) == 1 else ""
    return Reading(
        Score.STRONG,
        f"labels shaped like the logits {shown(facts.logits)} leave open which axis the classes "
        f"are on{known}.",
        tuple(
            found
            for axis in chosen
            for found in fix(
                facts,
                "say so (channels first)" if axis == 1 else "say so (channels last)",
                Step("axis", "set", axis),
                given="" if known else f"the classes are on axis {axis}",
            )
        ),
    )


@cause(
    "labels_axes_permuted",
    "axes of the labels in another order",
    "labels",
    example="np.zeros((8, 32, 10)), np.zeros((32, 8), int)",
)
def labels_axes_permuted(facts: Facts) -> Readings:
    """Labels with the axes of the batch in another order: (time, batch) against (batch, time)."""
    order = facts.same_multiset(facts.batch, facts.labels)
    if order is not None:
        yield Reading(
            Score.STRONG,
            f"labels {shown(facts.labels)} have the sizes of {shown(facts.batch)} in another "
            "order: (time, batch) against (batch, time)?",
            tuple(fix(facts, "transpose the labels", Step("labels", "permute", order))),
            "do not reshape: it would mix the examples.",
        )


@cause(
    "labels_missing_batch_axis",
    "labels without a batch axis",
    "labels",
    example="np.zeros((1, 5, 4, 4)), np.zeros((4, 4), int)",
)
def labels_missing_batch_axis(facts: Facts) -> Readings:
    """A squeeze of a batch of 1, a scalar, or one label for the whole batch."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    if facts.axis == 0 or len(logits) < 2:
        return
    one = facts.equal(logits[0], 1)
    square = (facts.classes, facts.classes)
    if len(logits) == 2 and not facts.integer and facts.equal(labels, square):
        yield Reading(
            Score.LIKELY,
            f"labels {shown(labels)} have one row per class, as np.eye({shown_size(square[0])}) "
            f"has, not one per example: logits have {shown_size(logits[0])} on axis 0.",
            (outside(f"index the rows with the class ids: np.eye({shown_size(square[0])})[ids]"),),
        )
    first = shown_size(logits[0])
    for whole in (batch, logits):
        if not facts.equal(labels, whole[1:]) or (whole is logits and facts.integer and not one):
            continue
        if one:
            yield Reading(
                Score.STRONG,
                f"labels {shown(labels)} have no batch axis, as after a bare squeeze() of a batch "
                "of 1, which a last, smaller batch may be.",
                tuple(fix(facts, "add the batch axis (a 0-d scalar: to (1,))",
                          Step("labels", "insert", 0))),
            )  # fmt: skip
        elif labels and not facts.fits(labels, batch):
            steps = (Step("labels", "broadcast", whole),)
            yield Reading(
                Score.LIKELY,
                f"labels {shown(labels)} have no batch axis: one label for all {first} examples?",
                (
                    outside(f"give one for each example, with a batch axis: {shown(whole)}"),
                    *fix(facts, "repeat it", *steps),
                ),
            )


@cause(
    "labels_scalar_python_list",
    "one label for a whole batch",
    "labels",
    example="np.zeros((16, 3)), 1",
)
def labels_scalar_python_list(facts: Facts) -> Readings:
    """One scalar for a whole batch, often a list that a loader took apart."""
    if facts.labels == () and facts.batch and not facts.equal(facts.batch, (1,)):
        wanted = shown(facts.batch)
        yield Reading(
            Score.STRONG,
            f"labels are one scalar () for a batch of {wanted} predictions.",
            (outside(f"give an array of shape {wanted}; a Python list may be taken apart: pass a "
                     "NumPy array"),),
        )  # fmt: skip


@cause(
    "logits_missing_batch_axis",
    "logits without a batch axis",
    "labels",
    example="np.zeros(5), np.array([2, 0, 1])",
)
def logits_missing_batch_axis(facts: Facts) -> Readings:
    """Logits of one example against a batch of labels."""
    logits, labels = facts.logits, facts.labels
    added = tuple(
        fix(
            facts,
            "add the batch axis of one example",
            Step("logits", "insert", 0),
        )
    )
    if added and len(logits) == 1:
        yield Reading(Score.STRONG, f"logits {shown(logits)} have no batch axis.", added)
    elif added and facts.equal(labels[:1], (1,)):
        score = Score.LIKELY if len(logits) == 2 else Score.STRONG
        yield Reading(score, f"logits {shown(logits)} have no batch axis, labels have one.", added)
    elif len(logits) > 2 and facts.equal(labels, logits[1:]):
        steps = Step("logits", "insert", 0), Step("labels", "insert", 0)
        yield Reading(
            Score.STRONG,
            f"logits {shown(logits)} and labels {shown(labels)} have no batch axis, if the classes "
            "are first.",
            tuple(
                fix(
                    facts,
                    "add the batch axis of both",
                    *steps,
                    given="these are the scores of one example, with the classes first",
                )
            ),
        )
    elif len(logits) == 1 and len(labels) == 1 and not facts.fits(labels, logits):
        n = shown_size(labels[0])
        yield Reading(
            Score.STRONG,
            f"logits {shown(logits)} are the scores of one example, labels {shown(labels)} are for "
            f"{n}: a batch has logits (N, C).",
            (outside(f"give logits of shape ({n}, C), with a batch axis and a class axis"),),
        )


@cause(
    "extra_leading_axis_on_logits",
    "one axis too many in front of the logits",
    "labels",
    example="np.zeros((1, 1, 3, 4, 4)), np.zeros((1, 4, 4), int)",
)
def extra_leading_axis_on_logits(facts: Facts) -> Readings:
    """One axis of size 1 too many, in front."""
    if len(facts.logits) > 2 and facts.equal(facts.logits[0], 1):
        fixes = tuple(fix(facts, "drop the extra axis", Step("logits", "squeeze", 0)))
        if fixes:
            yield Reading(
                Score.STRONG,
                f"logits {shown(facts.logits)} have an extra leading axis of size 1 (one "
                f"{facts.term('unsqueeze')} too many): without it the labels fit.",
                fixes,
            )


@cause(
    "labels_trailing_singleton",
    "labels with an axis of size 1 too many",
    "labels",
    example="np.zeros((4, 3)), np.zeros((4, 1, 1), int)",
)
def labels_trailing_singleton(facts: Facts) -> Readings:
    """Labels with an axis of size 1 too many, at the end or elsewhere."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    if facts.equal(labels, logits):
        return
    for wanted in (batch, logits):
        ones = [i for i, size in enumerate(labels) if facts.equal(size, 1)]
        if (
            len(labels) <= len(wanted) - (wanted is batch)
            or not ones
            or facts.equal(labels, wanted)
        ):
            continue
        if not facts.equal(without_ones(labels), without_ones(wanted)):
            continue
        if wanted is batch and facts.fractional:
            continue
        single = len(ones) == 1 and len(labels) == len(wanted) + 1
        step = Step("labels", "squeeze", ones[0]) if single else Step("labels", "reshape", wanted)
        where = "a trailing axis" if ones[-1] == len(labels) - 1 else "an axis"
        yield Reading(
            Score.GUESS
            if facts.binary_target or not (facts.integer or wanted is logits or facts.whole)
            else Score.STRONG,
            f"labels {shown(labels)} have {where} of size 1 that is not the class axis; wanted is "
            f"{shown(wanted)}.",
            tuple(fix(facts, f"squeeze it ({facts.term('view')})", step)),
        )


@cause(
    "mask_channel_axis",
    "a mask with a channel axis",
    "labels",
    example="np.zeros((2, 3, 4, 4)), np.zeros((2, 4, 4, 1), int)",
)
def mask_channel_axis(facts: Facts) -> Readings:
    """A segmentation mask with a channel axis of size 1."""
    labels, batch = facts.labels, facts.batch
    if len(labels) != len(batch) + 1 or len(batch) < 3 or facts.equal(labels, facts.logits):
        return
    for axis in (1, len(labels) - 1):
        if facts.equal(labels[axis], 1) and facts.equal(without(labels, axis), batch):
            kept = fits_as_index(facts.logits, labels, facts.axis, facts.problem.same)
            yield Reading(
                Score.LIKELY if kept else Score.STRONG,
                f"labels {shown(labels)} are a mask with a channel axis of size 1; class ids have "
                "none.",
                tuple(fix(facts, "squeeze the channel axis", Step("labels", "squeeze", axis))),
            )
            return


@cause(
    "mask_rgb_not_class_ids",
    "a color image as a mask",
    "labels",
    example="np.zeros((2, 9, 4, 4)), np.zeros((2, 4, 4, 3), int)",
)
def mask_rgb_not_class_ids(facts: Facts) -> Readings:
    """A color image where a mask of class ids is wanted."""
    labels, batch = facts.labels, facts.batch
    if len(labels) != len(batch) + 1 or len(batch) < 2:
        return
    for axis in (len(labels) - 1, 1, len(labels) - 3):
        channels = labels[axis]
        wide = facts.whole and facts.values is not None and not facts.binary
        is_image = channels in IMAGE_CHANNELS and (wide or not facts.equal(channels, facts.classes))
        if is_image and facts.equal(without(labels, axis), batch):
            yield Reading(
                Score.STRONG,
                f"labels {shown(labels)} have {channels} channels on axis {axis}: a color (RGB) "
                "image, not class ids.",
                (outside(f"load the label image (mask) with a single channel, class ids "
                         f"{shown(batch)}; map colors to ids"),),
            )  # fmt: skip
            return


@cause(
    "logits_missing_class_axis", "one number instead of scores", "axis", example="np.zeros(()), 1"
)
def logits_missing_class_axis(facts: Facts) -> Readings:
    """One number where scores are wanted."""
    if facts.logits == ():
        yield Reading(
            Score.CERTAIN,
            "logits are one number (), as after a squeeze or a mean: there is no axis of classes.",
            (outside("give the scores of all classes: (C,) for one example, (N, C) for a batch"),),
        )


@cause("mapped_on_one_side", "vmap on one side alone", "labels", example="")
def mapped_on_one_side(facts: Facts) -> Readings:
    """A function that is mapped over the logits alone, or over the labels alone."""
    taken = dict(zip(("logits", "labels"), facts.mapped, strict=True))
    if len(taken["logits"]) == len(taken["labels"]):
        return
    name = max(taken, key=lambda one: len(taken[one]))
    steps = tuple(Step(one, "reshape", (*sizes, *getattr(facts, one)))
                  for one, sizes in taken.items())  # fmt: skip
    yield Reading(
        Score.CERTAIN if is_valid(Fix("", steps=steps).applied_to(facts.problem)) else Score.LIKELY,
        f"vmap took an axis of {taken[name][-1]} from the {name} alone: inside of it, logits are "
        f"{shown(facts.logits)} and labels {shown(facts.labels)}.",
        (outside(f"map both ({facts.term('mapped axes')}), or call the loss without vmap: it takes "
                 "whole batches"),),
    )  # fmt: skip


@cause("unknown_shape", "sizes that are not known here", "axis", "labels", example="")
def unknown_shape(facts: Facts) -> Readings:
    """Sizes or ranks that tracing does not know leave more than one reading."""
    rank = facts.problem.logits.shape is None
    sizes = () if rank else (*facts.logits, *(facts.labels or ()))
    if not rank and facts.labels is not None and all(isinstance(size, int) for size in sizes):
        return
    axes = (-1,) if rank or len(facts.logits) < 3 else (1, -1)
    fixes = [found for axis in axes for found in fix(
        facts, "say so", Step("axis", "set", axis),
        given=f"the classes are on axis {axis}")]  # fmt: skip
    cast = Step("labels", "cast", "float32")
    if not rank and facts.problem.labels.dtype in rules.INTEGER | {"bool"}:
        fixes += fix(facts, "cast them to floating", cast, given="labels are one-hot rows")
    if fixes:
        yield Reading(
            Score.GUESS, "sizes that are unknown here leave more than one reading.", tuple(fixes)
        )
