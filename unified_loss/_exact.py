"""Sums of floats that round nothing, so that no order of additions changes a bit."""

import math
from typing import NamedTuple

from unified_loss._sums import FLOATS

_SHIFT = 1074  # every finite float is a multiple of 2**-1074, and these are added as integers


class Evaluation(NamedTuple):
    """What a model is worth on the data seen, as numbers of Python.

    Attributes
    ----------
    loss : float
        The mean loss in nats, as of `cross_entropy`; 0 of nothing.
    perplexity : float
        The exponential of the mean negative log-likelihood, in which neither class weights nor
        label smoothing nor z-loss have a part; infinite where it is too large for a float, 1 of
        nothing.
    accuracy : float
        The share of the sample weight in [0, 1] on examples whose label has the largest logit;
        NaN of nothing.
    confidence : float
        The mean of the largest probability in [0, 1]. Far from the accuracy, the probabilities
        are not to be trusted. NaN of nothing.
    count : int
        How many examples were not dropped.
    mass : float
        What the loss is divided by.
    """

    loss: float
    perplexity: float
    accuracy: float
    confidence: float
    count: int  # type: ignore[assignment]  # tuples have a method of this name
    mass: float


class ExactSum:
    """A sum of floats."""

    __slots__ = ("finite", "rest")

    def __init__(self) -> None:
        self.finite = 0
        self.rest = 0.0  # the sum of what is not finite

    def add(self, value: float) -> None:
        """Add a number."""
        if math.isfinite(value):
            numerator, denominator = value.as_integer_ratio()  # the latter a power of 2
            self.finite += numerator << (_SHIFT + 1 - denominator.bit_length())
        else:
            self.rest += value

    def merge(self, other: "ExactSum") -> None:
        """Add what another one holds."""
        self.finite += other.finite
        self.rest += other.rest

    def value(self) -> float:
        """The sum, rounded once."""
        return self.rest or _quotient(self.finite, 1 << _SHIFT)

    def over(self, other: "ExactSum", empty: float) -> float:
        """The quotient, rounded once; `empty` over a sum of 0."""
        if not (other.finite or other.rest):
            return empty
        if self.rest or other.rest:
            return self.value() / other.value()
        return _quotient(self.finite, other.finite)


def _quotient(a: int, b: int) -> float:
    """The float that is nearest to a / b."""
    try:
        return a / b
    except OverflowError:
        return math.inf if (a < 0) == (b < 0) else -math.inf


class ExactTotals:
    """The sums of `Totals`."""

    __slots__ = ("count", "sums")

    def __init__(self) -> None:
        self.sums = [ExactSum() for _ in range(FLOATS)]
        self.count = 0

    def add(self, numbers: list[float]) -> None:
        """Add the numbers of one `Totals`."""
        *values, count = numbers
        for mine, value in zip(self.sums, values, strict=True):
            mine.add(value)
        self.count += int(count)

    def merge(self, other: "ExactTotals") -> None:
        """Add what another one holds."""
        for mine, more in zip(self.sums, other.sums, strict=True):
            mine.merge(more)
        self.count += other.count

    def evaluation(self) -> Evaluation:
        """What the sums come to."""
        loss, mass, nll, weight, correct, confidence = self.sums
        try:
            perplexity = math.exp(nll.over(weight, empty=0.0))
        except OverflowError:
            perplexity = math.inf
        return Evaluation(
            loss=loss.over(mass, empty=0.0),
            perplexity=perplexity,
            accuracy=correct.over(weight, empty=math.nan),
            confidence=confidence.over(weight, empty=math.nan),
            count=self.count,
            mass=mass.value(),
        )
