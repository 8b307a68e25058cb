"""`Report`: what `explain` returns."""

import textwrap
from dataclasses import dataclass
from typing import Any

from unified_loss import _rules as rules
from unified_loss._explain._facts import Fact
from unified_loss._explain._linear import has_no_logits, headline
from unified_loss._explain._picture import Drawing, drawn
from unified_loss._shapes import without
from unified_loss._shown import described
from unified_loss._types import LabelKind, Plan, Problem, Shape
from unified_loss.exceptions import LossInputError

WIDTH = 100


@dataclass(frozen=True, repr=False, eq=False)
class Report:
    """How a call is understood, or what is wrong with it; `str` gives the text.

    It is true if the call is valid, and false if it is refused.

    Attributes
    ----------
    axis, num_classes, batch_shape
        Of the logits; None where they are not known, be the call valid or not.
    error : LossInputError or None
        What the call would raise, with `cause`, `fixes` and `readings`.
    warnings : tuple of str
        What the call would warn of.
    kernel : str or None
        The name of the kernel that would serve the call; of the linear form the walk.
    extra_memory : int or None
        An estimate of the most bytes that the loss takes beside its arguments, without a gradient.
    facts : tuple of (str, str)
        Headings and sentences; empty for an invalid call.
    """

    _plan: Plan | None
    _problem: Problem | None
    error: LossInputError | None = None
    warnings: tuple[str, ...] = ()
    kernel: str | None = None
    extra_memory: int | None = None
    facts: tuple[Fact, ...] = ()
    _drawings: tuple[Drawing, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the call would return a loss."""
        return self.error is None

    def __bool__(self) -> bool:
        """Whether the call would return a loss."""
        return self.valid

    @property
    def axis(self) -> int | None:
        """The class axis of the logits."""
        return self._known_axis() if self._plan is None else self._plan.axis

    @property
    def num_classes(self) -> Any:
        """The number of classes."""
        if self._plan is not None:
            return self._plan.num_classes
        shape, axis = self._logits_shape(), self.axis
        return None if shape is None or axis is None else shape[axis]

    @property
    def label_kind(self) -> LabelKind | None:
        """Whether labels are class ids ("index") or rows ("dense")."""
        return None if self._plan is None else self._plan.label_kind

    @property
    def batch_shape(self) -> Shape | None:
        """The shape of the logits without the class axis."""
        shape, axis = self._logits_shape(), self.axis
        return None if shape is None or axis is None else without(shape, axis)

    @property
    def result_shape(self) -> Shape | None:
        """The shape of the loss."""
        if self._plan is None:
            return None
        return self.batch_shape if self._plan.reduction == "none" else ()

    @property
    def result_dtype(self) -> str | None:
        """The dtype of the loss."""
        return None if self._plan is None else self._plan.compute_dtype

    def _logits_shape(self) -> Shape | None:
        """The shape of the logits, be they made or not; those of a refused head have none."""
        return (
            None
            if self._problem is None or has_no_logits(self._problem)
            else (self._problem.logits.shape)
        )

    def _known_axis(self) -> int | None:
        """The class axis of a call that is refused for something else."""
        shape = self._logits_shape()
        if self._problem is None or not shape:
            return None
        try:
            return rules.class_axis(self._problem)
        except LossInputError:
            return None

    def __str__(self) -> str:
        """The report for a terminal."""
        if self.error is not None:
            return f"invalid ({type(self.error).__name__}): {self.error}"
        rows = [*self.facts, *(("warning", text) for text in self.warnings)]
        indent = max(len(heading) for heading, _ in rows) + 4
        lines = (
            textwrap.fill(text, WIDTH, initial_indent=f"  {heading}".ljust(indent),
                          subsequent_indent=" " * indent)
            for heading, text in rows
        )  # fmt: skip
        return "\n".join([self._headline(), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The report for a notebook: the axes drawn, and the text."""
        rows = [*self.facts, *(("warning", text) for text in self.warnings)]
        return drawn(self._headline(), self._drawings, rows, self.error)

    def _headline(self) -> str:
        verdict = "valid" if self.error is None else f"invalid ({type(self.error).__name__})"
        if self._problem is None:
            return verdict
        if self._problem.head is not None:
            return f"{verdict}: {headline(self._problem)}"
        names = described(self._problem.logits), described(self._problem.labels)
        return f"{verdict}: logits {names[0]}, labels {names[1]}"
