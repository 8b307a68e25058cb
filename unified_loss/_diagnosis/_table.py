"""The table of causes: what a cause is, and how one enters."""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Literal, NamedTuple, TypeVar

from unified_loss._diagnosis._fixes import Fix

Stage = Literal[
    "logits", "options", "axis", "labels", "weights", "values", "softmax", "ignored", "rows",
    "several", "one row", "head", "object",
]  # fmt: skip


class Score(IntEnum):
    """How well a reading explains a call."""

    LAST = 1  # nothing speaks for it but that nothing else is known
    GUESS = 2  # it may be so, as other things may
    LIKELY = 3  # the sizes or the values fit, as they do by accident now and then
    STRONG = 4  # they hardly fit by accident
    CERTAIN = 5  # nothing else is possible


class Reading(NamedTuple):
    """One way to read a mistake."""

    score: Score
    sentence: str
    fixes: tuple[Fix, ...]
    avoid: str | None = None  # what people do instead, and should not
    tag: str = ""
    title: str = ""


class Cause(NamedTuple):
    """One entry: the tag, where in a call it shows, and the readings of a call that it explains."""

    tag: str
    title: str
    stages: tuple[Stage, ...]
    example: str
    # Of `Facts`; of the linear form's `Parts`; or of `Given`, what is no array.
    readings: Callable[[Any], Iterator[Reading]]
    summary: str


CAUSES: dict[str, Cause] = {}
LINEAR_CAUSES: dict[str, Cause] = {}  # of the shapes of the linear form
OBJECT_CAUSES: dict[str, Cause] = {}  # of arguments that are no arrays
HINT_CAUSES: dict[str, Cause] = {}  # that an error tells by itself, with what it offers
Readings = Iterator[Reading]
EntryT = TypeVar("EntryT", bound=Callable[[Any], Iterator[Reading]])


def cause(tag: str, title: str, *stages: Stage, example: str) -> Callable[[EntryT], EntryT]:
    """Enter a cause, with a title in plain words; `example` is a call that shows it."""
    table = LINEAR_CAUSES if stages == ("head",) else CAUSES
    if "object" in stages:
        table = OBJECT_CAUSES

    def enter(readings: EntryT) -> EntryT:
        table[tag] = Cause(tag, title, stages, example, readings, readings.__doc__ or "")
        return readings

    return enter


def hint_cause(tag: str, title: str, summary: str, *, example: str) -> None:
    """Enter a cause that no reading tells: the text of its error does, by `_offered`."""
    HINT_CAUSES[tag] = Cause(tag, title, (), example, _no_reading, summary)


def _no_reading(_: Any) -> Readings:
    yield from ()
