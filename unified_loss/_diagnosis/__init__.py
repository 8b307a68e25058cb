"""What is wrong with a call, and how to mend it. Imported on failure, and by `explain`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unified_loss import _rules as rules
from unified_loss._diagnosis import _axes, _counts, _kinds, _lengths, _ranges
from unified_loss._diagnosis._facts import Facts, Values, values_of
from unified_loss._diagnosis._fixes import Fix
from unified_loss._diagnosis._table import CAUSES, CERTAIN, Reading, Stage
from unified_loss._messages import described, shown_value
from unified_loss._types import Problem
from unified_loss.exceptions import LabelError, LossInputError, LossInputWarning, OptionError

__all__ = [
    "CAUSES",
    "Diagnosis",
    "Facts",
    "Fix",
    "Reading",
    "Values",
    "diagnose",
    "extend",
    "suspicion",
    "values_of",
]

TABLES = _kinds, _axes, _counts, _lengths, _ranges  # they enter their causes
SHOWN_READINGS, SHOWN_FIXES = 3, 2
IMPLAUSIBLE = 25  # what a reading loses for an axis that the values of the labels speak against
RIVAL, RIVAL_OF_CERTAIN = 40, 6  # a reading that is so much worse than the best is not shown


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
        """The fixes of all readings, the best reading first."""
        return tuple(fix for reading in self.readings for fix in reading.fixes)

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
            verb = "cause" if reading.score == CERTAIN else "perhaps"
            yield f"{verb} {reading.tag}: {reading.sentence}"
            yield from (f"  fix: {fix}" for fix in reading.fixes)
        if self.avoid:
            yield f"not: {self.avoid}"


def diagnose(
    problem: Problem,
    error: LossInputError,
    values: Values | None = None,
    arrays: tuple[Any, Any] = (None, None),
) -> Diagnosis:
    """The diagnosis of a call that raises `error`, whose first line it keeps.

    Of `arrays`, the logits and the labels, only the devices are asked for.
    """
    first_line = str(error).partition("\n")[0]
    stage, axes = _stage(problem, error)
    readings = _ranked(problem, stage, axes, values)
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
    """The axes that the classes may be on: rows (N, C) may look like class ids of another axis."""
    ndim = len(problem.logits.shape or ())
    if stage != "labels" or problem.options.axis is not None or ndim < 3:
        return axes
    rows = values is not None and len(problem.labels.shape) - 1 in values.unit_axes
    is_open = rows or problem.same(problem.logits.shape[-1], 1) is True
    return (*axes, *(axis for axis in (1, ndim - 1) if is_open and axis not in axes))


def _ranked(
    problem: Problem, stage: Stage, axes: tuple[int, ...], values: Values | None
) -> tuple[Reading, ...]:
    """The best readings, one for each cause, their best fixes with them."""
    best: dict[str, Reading] = {}
    for axis in _candidates(problem, stage, axes, values):
        facts = Facts(problem, axis, values)
        doubt = 0 if _is_plausible(facts) else IMPLAUSIBLE
        for tag, cause in CAUSES.items():
            if stage not in cause.stages:
                continue
            for reading in cause.readings(facts):
                score, fixes = reading.score - doubt, reading.fixes[:SHOWN_FIXES]
                if fixes and (tag not in best or score > best[tag].score):
                    best[tag] = reading._replace(tag=tag, score=score, fixes=fixes)
    ranked = sorted(best.values(), key=lambda reading: -reading.score)[:SHOWN_READINGS]
    return tuple(reading for reading in ranked if _is_rival(reading.score, ranked[0].score))


def _is_rival(score: int, best: int) -> bool:
    """Whether a reading is worth showing beside the best one."""
    return score > best - (RIVAL_OF_CERTAIN if best == CERTAIN else RIVAL)


def _is_plausible(facts: Facts) -> bool:
    """Whether the values of the labels agree that the classes are on the axis."""
    values = facts.values
    if values is None or not facts.logits or facts.problem.labels.shape is None:
        return True
    if len(facts.labels) == len(facts.logits):
        return not values.unit_axes or facts.axis in values.unit_axes
    return not isinstance(facts.classes, int) or facts.classes > values.high


def _facts_line(problem: Problem, axes: tuple[int, ...], arrays: tuple[Any, Any]) -> str:
    arguments = zip(("logits", "labels"), (problem.logits, problem.labels), arrays, strict=True)
    parts = [f"{name}: {described(spec)}{_device(array)}" for name, spec, array in arguments]
    if problem.options.axis is not None:
        axis = f"{shown_value(problem.options.axis)} (given)"
    else:
        known = problem.logits.dtype in rules.FLOATING and len(axes) == 1 and axes[0] >= 0
        axis = f"{axes[0]} (inferred)" if known else "not given"
    return "   ".join([*parts, f"axis: {axis}"])


def _device(array: Any) -> str:
    """Where an array is, as people write it; nothing on the host, or where it has no place yet."""
    device = None
    if type(array).__module__ != "numpy":
        with contextlib.suppress(Exception):
            device = array.device
    return "" if device in {None, ""} else f" on {str(device).rpartition('device:')[2].lower()}"
