"""The table of causes: what a cause is, and how one enters."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from unified_loss._diagnosis._facts import Facts
from unified_loss._diagnosis._fixes import Fix

Stage = Literal[
    "logits", "options", "axis", "labels", "weights", "values", "softmax", "ignored", "rows"
]
CERTAIN = 100


class Reading(NamedTuple):
    """One way to read a mistake."""

    score: int  # `CERTAIN`, or below it how well the arithmetic explains the sizes
    sentence: str
    fixes: tuple[Fix, ...]
    avoid: str | None = None  # what people do instead, and should not
    tag: str = ""


class Cause(NamedTuple):
    """One entry: the tag, where in a call it shows, and the readings of a call that it explains."""

    tag: str
    stages: tuple[Stage, ...]
    example: str
    readings: Callable[[Facts], Iterator[Reading]]
    summary: str


CAUSES: dict[str, Cause] = {}
Readings = Iterator[Reading]


def cause(
    tag: str, *stages: Stage, example: str
) -> Callable[[Callable[[Facts], Readings]], Callable[[Facts], Readings]]:
    """Enter a cause; `example` is a call that shows it."""

    def enter(readings: Callable[[Facts], Readings]) -> Callable[[Facts], Readings]:
        CAUSES[tag] = Cause(tag, stages, example, readings, readings.__doc__ or "")
        return readings

    return enter
