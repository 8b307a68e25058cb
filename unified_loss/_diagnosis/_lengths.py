"""Causes: numbers of steps or pixels that disagree, seen by arithmetic on sizes."""

import math

from unified_loss._diagnosis._counts import MANY_ROWS, SEQUENCE, rows
from unified_loss._diagnosis._facts import Facts, apart, ratio, without_ones
from unified_loss._diagnosis._fixes import Fix, Step, fix, outside
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._shapes import without
from unified_loss._shown import shown_size

FAR, VERY_FAR = 2.0, 3.5  # in logarithms of ratios of sizes
BIG_VOCABULARY = 1000
LEAST_BATCH = 8  # smaller numbers divide two others by chance


def _is_image(facts: Facts) -> bool:
    """Whether there is a height and a width, rather than steps."""
    return len(without_ones(facts.batch[1:])) > 1


@cause(
    "prefix_tokens_in_logits_only",
    "tokens in front of the labels' first",
    "labels",
    example="np.zeros((1, 52, 2000)), np.zeros((1, 20), int)",
)
def prefix_tokens_in_logits_only(facts: Facts) -> Readings:
    """Prompt, virtual or image tokens in front, which have logits and no labels."""
    for axis, steps, length in _differing(facts):
        more = steps - length
        big = isinstance(facts.classes, int) and facts.classes >= BIG_VOCABULARY
        if more < 2 or not axis["labels"] or length == 1 or _is_image(facts) or not big:
            continue
        cut = Step("logits", "cut", (axis["logits"], more, None))
        yield Reading(
            Score.LIKELY,
            f"logits have {steps} steps, labels {length}: {more} tokens (a prompt, a virtual "
            "prefix, an image) may stand in front, without labels.",
            (
                outside(f"prepend {more} ignored labels (ignore_index) if they are in front; do "
                        "not cut the end then"),
                *fix(facts, f"drop the first {more} steps", cut,
                     given=f"{more} tokens were put in front"),
            ),
        )  # fmt: skip


@cause(
    "sequence_length_differs",
    "sequences of two lengths",
    "labels",
    example="np.zeros((8, 16, 90)), np.zeros((8, 51), int)",
)
def sequence_length_differs(facts: Facts) -> Readings:
    """Logits and labels of different length."""
    for axis, steps, length in _differing(facts):
        shorter = min(steps, length)
        if shorter == 1:
            continue
        name = "labels" if length > steps else "logits"
        cut = Step(name, "cut", (axis[name], None, shorter))
        close = apart((steps,), (length,)) < VERY_FAR and not _is_image(facts)
        yield Reading(
            Score.LIKELY if close and axis["labels"] else Score.GUESS,
            f"logits have {steps} steps, labels {length}: padding, truncation, or two lengths.",
            (
                outside("pad both to one length, and mask the padding with ignore_index, or cut "
                        "both before the model"),
                *fix(facts, f"cut it off the {name}", cut, given="the end is padding"),
            ),
        )  # fmt: skip
    found = rows(facts)
    shared = math.gcd(*found) if found else 1
    if found and shared >= LEAST_BATCH and min(found) > shared:
        a, b = (n // shared for n in found)
        packed = " (pack_padded_sequence)" if facts.problem.logits.library == "torch" else ""
        yield Reading(
            Score.LIKELY,
            f"flattened rows {found[0]} and {found[1]} share the factor {shared}: {shared} x {a} "
            f"against {shared} x {b}, sequences of two lengths {a} and {b}, if that is the batch.",
            (
                outside(
                    f"cut or pad both to one length ({min(a, b)} or {max(a, b)}) before flattening "
                    f"them{packed}"
                ),
            ),
        )


def _differing(facts: Facts) -> list[tuple[dict[str, int], int, int]]:
    """The one axis of steps that differs, in logits and in labels, and its two sizes."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    dense = len(labels) == len(logits)
    wanted = logits if dense else batch
    if len(labels) != len(wanted) or len(batch) < 2:
        return []
    unequal = facts.differing(wanted, labels)
    if len(unequal) != 1 or (dense and unequal[0] == facts.axis):
        return []
    (i,) = unequal
    mine = i if dense or i < facts.axis else i + 1
    return [({"logits": mine, "labels": i}, wanted[i], labels[i])]


@cause(
    "causal_shift_mismatch",
    "one step of difference",
    "labels",
    example="np.zeros((8, 20, 90)), np.zeros((8, 21), int)",
)
def causal_shift_mismatch(facts: Facts) -> Readings:
    """Exactly one step of difference, as between inputs and shifted targets."""
    for axis, steps, length in _differing(facts):
        if abs(steps - length) == 1 and axis["labels"] and not _is_image(facts):
            given = "labels begin with a start token" if length > steps else (
                "the last prediction has no label")  # fmt: skip
            if facts.problem.options.axis is None and len(facts.logits) == SEQUENCE:
                given += f", and the classes are on axis {facts.axis}"
            name, ends = ("labels", (1, None)) if length > steps else ("logits", (None, -1))
            yield Reading(
                Score.STRONG if len(facts.labels) < len(facts.logits) else Score.LIKELY,
                f"labels are one step {'longer' if length > steps else 'shorter'} than logits "
                f"({length} against {steps}): next-token prediction (shift) compares logits[t] "
                "with labels[t + 1].",
                (
                    outside("give both one length where the data are made: inputs without their "
                            "last step, labels without their first"),
                    *fix(facts, "slice off that step", Step(name, "cut", (axis[name], *ends)),
                         given=given),
                ),
            )  # fmt: skip
    found = rows(facts)
    difference = abs(found[0] - found[1]) if found else 0
    if found and difference > 1 and all(n % difference == 0 and n > difference for n in found):
        a, b = (n // difference for n in found)
        yield Reading(
            Score.STRONG
            if min(found) > MANY_ROWS
            else Score.LIKELY
            if difference >= LEAST_BATCH
            else Score.GUESS,
            f"rows {found[0]} = {difference} x {a}, labels {found[1]} = {difference} x {b}: for a "
            f"batch of {difference} the lengths differ by one step, as after a shift.",
            (outside(f"slice both to num_steps={min(a, b)} before flattening"),),
        )


@cause(
    "spatial_size_mismatch",
    "images of two sizes",
    "labels",
    example="np.zeros((1, 8, 170, 212)), np.zeros((1, 85, 106), int)",
)
def spatial_size_mismatch(facts: Facts) -> Readings:
    """Height and width of logits and mask differ."""
    logits, labels, batch, axis = facts.logits, facts.labels, facts.batch, facts.axis
    channel = [i for i in (1, len(labels) - 1) if len(labels) == len(logits) > 3
               and facts.equal(labels[i], 1) and not facts.equal(logits[i], 1)]  # fmt: skip
    if channel and len(facts.differing(batch, without(labels, channel[0]))) > 1:
        squeezed = without(labels, channel[0])
        yield Reading(
            Score.LIKELY,
            f"logits are {_sizes(batch, 0)}, labels {_sizes(squeezed, 0)} (height x width), with a "
            "channel axis of size 1.",
            (outside("resize (interpolate) the logits to the labels' size, and squeeze those"),),
        )
        return
    dense = len(labels) == len(logits)
    wanted = logits if dense else batch
    if len(without_ones(batch[1:])) > 1 and len(labels) == len(wanted):
        unequal = facts.differing(wanted, labels)
        if not unequal or 0 in unequal or (dense and axis in unequal):
            return
        if any(facts.equal(labels[i], 1) for i in unequal):
            return
        if dense and facts.integer and facts.values and not facts.binary:
            return  # no rows of one class each, so no axis of theirs is a height or a width
        mine = {i: i if dense or i < axis else i + 1 for i in unequal}
        yield Reading(
            Score.STRONG if apart(wanted, labels) < FAR else Score.LIKELY,
            f"logits are {_sizes(wanted, axis * dense)}, labels "
            f"{_sizes(labels, axis * dense)} (height x width).",
            (
                *_resized(facts, {mine[i]: labels[i] for i in unequal}),
                *_strided(facts, wanted, mine),
                outside("resize (interpolate) the logits to the labels' size, or fix stride, "
                        "padding or downsampling"),
            ),
        )  # fmt: skip
        return
    masks = len(logits) == len(labels) == SEQUENCE and not facts.integer
    has_rows = facts.values is not None and bool(facts.values.unit_axes)
    if has_rows and facts.same_multiset(logits, labels) is not None:
        masks = False  # rows of classes, along another axis
    if masks and facts.differing(logits, labels) == (1, 2) and 1 not in {*logits, *labels}:
        yield Reading(
            Score.STRONG,
            f"masks of {_sizes(logits, 0)} and of {_sizes(labels, 0)} pixels (height x width): two "
            "resolutions of one thing, without a class axis.",
            (outside("resize (interpolate) one of them to the size of the other, and take a binary "
                     "(sigmoid) loss"),),
        )  # fmt: skip
        return
    found = rows(facts)
    if found and math.gcd(*found) > 63 and min(found) > 4096:
        few = isinstance(facts.classes, int) and facts.classes < BIG_VOCABULARY
        yield Reading(
            Score.STRONG if few else Score.LIKELY,
            f"flattened rows {found[0]} and {found[1]} share the factor {math.gcd(*found)}: pixels "
            "of images of different height or width.",
            (outside("resize (interpolate) logits or labels to one height and width first"),),
        )


def _sizes(shape: tuple[object, ...], skipped: int) -> str:
    kept = [size for i, size in enumerate(shape) if i and (i != skipped or not skipped)]
    return "x".join(map(shown_size, kept))


def _strided(facts: Facts, wanted: tuple[int, ...], mine: dict[int, int]) -> list[Fix]:
    """Take every k-th pixel of the larger one, where that comes out even."""
    for name, large, small in (
        ("labels", facts.labels, wanted),
        ("logits", wanted, facts.labels),
    ):
        steps = {i: ratio(large[i], small[i]) for i in mine}
        if all(steps.values()):
            value = tuple((mine[i] if name == "logits" else i, k) for i, k in steps.items())
            return list(fix(facts, f"downsample the {name}", Step(name, "stride", value),
                            given="every k-th pixel is enough"))  # fmt: skip
    return []


def _resized(facts: Facts, sizes: dict[int, int]) -> list[Fix]:
    logits = facts.logits
    target = tuple(sizes.get(i, size) for i, size in enumerate(logits))
    pixels = tuple(size for i, size in enumerate(target) if i and i != facts.axis)
    if len(logits) != 4 or facts.axis != 1:
        return []
    step = Step("logits", "resize", (facts.axis, pixels, target))
    return list(fix(facts, "resize (interpolate) the logits", step))
