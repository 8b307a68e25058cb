"""What is wrong with a call, and how to mend it. Imported on failure, and by `explain`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unified_loss import _libraries as libraries
from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._diagnosis import _axes, _counts, _kinds, _lengths, _linear, _ranges, _targets
from unified_loss._diagnosis._facts import Facts, Values, values_of
from unified_loss._diagnosis._fixes import Fix
from unified_loss._diagnosis._table import CAUSES, LINEAR_CAUSES, Reading, Score, Stage
from unified_loss._shown import described, shown_value
from unified_loss._types import Problem, Spec
from unified_loss.exceptions import (
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
)

__all__ = [
    "CAUSES",
    "LINEAR_CAUSES",
    "Diagnosis",
    "Facts",
    "Fix",
    "Reading",
    "Score",
    "Values",
    "diagnose",
    "extend",
    "suspicion",
    "values_of",
]

TABLES = _ranges, _targets, _kinds, _axes, _lengths, _counts  # they enter their causes
SHOWN_READINGS, SHOWN_FIXES = 3, 2
# Of two readings that are equally likely, the one of the earlier table comes first.
ORDER = [tag for table in TABLES for tag, cause in CAUSES.items()
         if cause.readings.__module__ == table.__name__]  # fmt: skip
SEQUENCE = 3  # the rank of logits (batch, time, class)
# A conditional fix begins with its condition.
LEADS = {"same meaning": "fix: ", "conditional": "", "elsewhere": "elsewhere: "}


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, in a first line that stands alone, facts, readings and warnings."""

    first_line: str
    facts: tuple[str, ...]
    readings: tuple[Reading, ...]  # the best first

    @property
    def cause(self) -> str | None:
        """The tag of the best reading."""
        return self.readings[0].tag if self.readings else None

    @property
    def fixes(self) -> tuple[Fix, ...]:
        """The fixes of all readings, the best reading first; each of them once.

        Of two with the same code, one keeps every label with its logits if the other does.
        """
        found: dict[str, Fix] = {}
        for fix in (fix for reading in self.readings for fix in reading.fixes):
            key = fix.code or fix.text
            if key not in found or (fix.sufficient and not found[key].sufficient):
                found[key] = fix
        return tuple(found.values())

    @property
    def avoid(self) -> str | None:
        """What not to do."""
        return next((reading.avoid for reading in self.readings if reading.avoid), None)

    def __str__(self) -> str:
        """The whole message, of at most 12 lines."""
        return "\n".join([self.first_line, *(f"  {line}" for line in self._lines())])

    def _lines(self) -> Iterator[str]:
        yield from self.facts
        for reading in self.readings:
            verb = "cause" if reading.score == Score.CERTAIN else "perhaps"
            yield f"{verb}: {reading.title} ({reading.tag}): {reading.sentence}"
            yield from (f"  {LEADS[fix.kind]}{fix}" for fix in reading.fixes)
        if self.avoid:
            yield f"not: {self.avoid}"


def diagnose(
    problem: Problem,
    error: LossInputError,
    values: Values | None = None,
    arrays: tuple[Any, Any] = (None, None),
) -> Diagnosis:
    """The diagnosis of a call that raises `error`, whose first line it keeps.

    Of `arrays`, the logits or hidden, and the labels, only the devices are asked for, and what a
    vmap took away.
    """
    first_line = str(error).partition("\n")[0]
    stage, axes = _stage(problem, error)
    readings: tuple[Reading, ...]
    if problem.head is not None and isinstance(error, ShapeError):
        readings = _linear.readings_of(problem, values)
    elif problem.head is not None and problem.logits is problem.head.hidden:
        readings = ()  # a dtype, before there were logits
    else:
        readings = _ranked(
            problem, stage, axes, values, tuple(map(_mapped, arrays, _specs(problem)))
        )
    return Diagnosis(first_line, (_facts_line(problem, axes, arrays),), readings)


def extend(error: LossInputError, problem: Problem, *details: Any) -> None:
    """Add the diagnosis to an error."""
    diagnosis = diagnose(problem, error, *details)
    if isinstance(error, OptionError) and not diagnosis.readings:
        return
    error.args = (str(diagnosis),)
    error.with_details(cause=diagnosis.cause, fixes=diagnosis.fixes, readings=diagnosis.readings)
    error.__suppress_context__ = True


def suspicion(stage: Stage, problem: Problem, axis: int, values: Values | None) -> LossInputWarning:
    """The warning of inputs that are legal, and probably not what was meant."""
    best = _ranked(problem, stage, (axis,), values)[0]
    lead = ""
    if stage == "rows":
        lead = (
            f"dense label rows do not sum to 1 over the class axis {axis}, and the loss is "
            "-sum(t log p) of the rows as they are. Perhaps: "
        )
    if stage == "several":
        lead = messages.several_ones(problem, axis)
    if stage == "one row":
        lead = messages.one_row()
    warning = LossInputWarning(f"{lead}{best.sentence} Fix: {'; '.join(map(str, best.fixes))}.")
    warning.cause, warning.fixes = best.tag, best.fixes
    return warning


def _stage(problem: Problem, error: LossInputError) -> tuple[Stage, tuple[int, ...]]:
    """Where in the call the mistake shows, and the axes that the classes may be on."""
    logits, labels, axis = problem.logits, problem.labels, rules.integer(problem.options.axis)
    known = logits.shape is not None
    ndim = len(logits.shape) if known else 0
    given = axis is not None and (not known or -ndim <= axis < ndim)
    axes: tuple[int, ...] = (1, ndim - 1) if ndim > 2 else (ndim - 1,)
    if axis is not None and given:
        axes = (axis % ndim if ndim else axis,)
    if logits.dtype not in rules.FLOATING:
        return "logits", axes
    if not ndim or labels.shape is None or (problem.options.axis is not None and not given):
        return "axis", axes
    if isinstance(error, LabelError):
        return "values", (rules.class_axis(problem),)
    if isinstance(error, OptionError) or labels.dtype not in rules.REAL | {"bool"}:
        return "options", axes
    try:
        axes = (rules.class_axis(problem),)
        rules.label_kind(problem, *axes)
    except LossInputError:
        return "labels", axes
    return "weights", axes


def _candidates(
    problem: Problem, stage: Stage, axes: tuple[int, ...], values: Values | None
) -> tuple[int, ...]:
    """The axes that the classes may be on, the usual one first.

    Rows (N, C) may look like class ids of another axis. Sequences have the classes last, and
    images on axis 1.
    """
    ndim = len(problem.logits.shape or ())
    if stage == "labels" and problem.options.axis is None and ndim > 2:
        rows = values is not None and len(problem.labels.shape) - 1 in values.unit_axes
        if rows or problem.same(problem.logits.shape[-1], 1) is True:
            axes = (*axes, *(axis for axis in (1, ndim - 1) if axis not in axes))
    return tuple(sorted(axes, reverse=ndim == SEQUENCE))


def _ranked(
    problem: Problem,
    stage: Stage,
    axes: tuple[int, ...],
    values: Values | None,
    mapped: tuple[tuple[int, ...], ...] = ((), ()),
) -> tuple[Reading, ...]:
    """The best readings, one for each cause, their best fixes with them."""
    best: dict[str, Reading] = {}
    candidates = _candidates(problem, stage, axes, values)
    for axis in candidates:
        facts = Facts(problem, axis, values, mapped)
        is_plausible = len(candidates) == 1 or _is_plausible(facts)
        for tag, cause in CAUSES.items():
            if stage not in cause.stages:
                continue
            for reading in cause.readings(facts):
                score = reading.score if is_plausible else Score(max(reading.score - 2, 1))
                found = reading._replace(tag=tag, title=cause.title, score=score,
                                         fixes=_ordered(reading.fixes, score))  # fmt: skip
                if found.fixes and not (problem.head and _speaks_of_logits(found)):
                    best[tag] = _better(best[tag], found) if tag in best else found
    ranked = sorted(best.values(), key=lambda one: (-one.score, ORDER.index(one.tag)))
    shown = [one for one in ranked[:SHOWN_READINGS] if _is_rival(one.score, ranked[0].score)]
    return tuple(one._replace(fixes=_different(one.fixes)) for one in shown)


def _speaks_of_logits(reading: Reading) -> bool:
    """Whether a reading is of no use where there are none: in the linear form."""
    return any("logits" in text for text in (reading.sentence, *map(str, reading.fixes)))


def _ordered(fixes: tuple[Fix, ...], score: Score) -> tuple[Fix, ...]:
    """What keeps the meaning first; one coincidence of sizes is no reason to change data."""
    kinds = ["same meaning"]
    if score < Score.STRONG:
        kinds.append("elsewhere")
    return tuple(sorted(fixes, key=lambda fix: (kinds.index(fix.kind) if fix.kind in kinds
                                                else len(kinds))))  # fmt: skip


def _different(fixes: tuple[Fix, ...]) -> tuple[Fix, ...]:
    """The fixes that are shown: one to change the arguments and one to change what made them."""
    if len(fixes) <= SHOWN_FIXES or fixes[0].kind != "elsewhere":
        return fixes[:SHOWN_FIXES]
    inside = [fix for fix in fixes if fix.kind != "elsewhere"]
    return (fixes[0], *(inside or fixes[1:]))[:SHOWN_FIXES]


def _better(one: Reading, other: Reading) -> Reading:
    """Of two readings of one cause the better; if none is, both axes are offered."""
    if one.score != other.score:
        return max(one, other, key=lambda reading: reading.score)
    fixes = (*one.fixes[:1], *other.fixes[:1], *one.fixes[1:], *other.fixes[1:])
    different = {str(fix): fix for fix in fixes}
    return one._replace(fixes=_ordered(tuple(different.values()), one.score))


def _is_rival(score: Score, best: Score) -> bool:
    """Whether a reading is worth showing beside the best one."""
    if best == Score.CERTAIN:
        return score == best
    return score > Score.LAST or best <= Score.GUESS


def _is_plausible(facts: Facts) -> bool:
    """Whether the values of the labels agree that the classes are on the axis."""
    values = facts.values
    if values is None or not facts.logits or facts.problem.labels.shape is None:
        return True
    if len(facts.labels) == len(facts.logits):
        return not values.unit_axes or facts.axis in values.unit_axes
    is_one_unit = facts.equal(facts.classes, 1) and facts.binary  # of a binary model
    return is_one_unit or not isinstance(facts.classes, int) or facts.classes > values.high


def _facts_line(problem: Problem, axes: tuple[int, ...], arrays: tuple[Any, Any]) -> str:
    first, labels = map(_place, arrays, _specs(problem))
    if problem.head is not None:
        specs = problem.head._asdict() | {"labels": problem.labels}
        devices = {"hidden": first, "labels": labels}
        return "   ".join(
            f"{name}: {described(spec)}{devices.get(name, '')}"
            for name, spec in specs.items()
            if spec is not None
        )
    parts = [f"logits: {described(problem.logits)}{first}"]
    parts.append(f"labels: {described(problem.labels)}{labels}")
    if problem.options.axis is not None:
        who = "of the loss" if problem.framework else "given"  # as its default, or as given to it
        axis = f"{shown_value(problem.options.axis)} ({who})"
    else:
        known = problem.logits.dtype in rules.FLOATING and len(axes) == 1 and axes[0] >= 0
        axis = f"{axes[0]} (inferred)" if known else "not given"
    return "   ".join([*parts, f"axis: {axis}"])


def _specs(problem: Problem) -> tuple[Spec, Spec]:
    """Those of the logits, or of what they are made of, and of the labels."""
    return problem.logits if problem.head is None else problem.head.hidden, problem.labels


def _mapped(array: Any, spec: Spec) -> tuple[int, ...]:
    """The sizes of the axes of an array that a vmap took away, where its library can tell."""
    if array is None:
        return ()
    try:
        return libraries.named(spec.library).mapped(array)
    except Exception:  # noqa: BLE001 (what a library keeps to itself may be another tomorrow)
        return ()


def _place(array: Any, spec: Spec) -> str:
    """Where an array is, as people write it, and inside of what."""
    mapped = " x ".join(map(str, _mapped(array, spec)))
    return f"{_device(array)}{f' in vmap of {mapped}' if mapped else ''}"


def _device(array: Any) -> str:
    """Where an array is; nothing on the host, or where it has no place yet."""
    device = None
    if type(array).__module__ != "numpy":
        with contextlib.suppress(Exception):
            device = array.device
    return "" if device in {None, ""} else f" on {str(device).rpartition('device:')[2].lower()}"
