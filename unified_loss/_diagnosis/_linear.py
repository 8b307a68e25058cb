"""Causes: shapes of hidden, weight, bias and labels that make no logits, or do not fit them.

A fix is tried on the call before it is offered.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import Values, count
from unified_loss._diagnosis._fixes import Fix, Step, outside
from unified_loss._diagnosis._operations import expression
from unified_loss._diagnosis._ranges import HIDDEN_SIZES
from unified_loss._diagnosis._table import LINEAR_CAUSES, Reading, Readings, Score, cause
from unified_loss._linear_rules import with_logits
from unified_loss._offered import Kind
from unified_loss._plan import make_plan
from unified_loss._shapes import same_shape
from unified_loss._shown import shown, shown_size
from unified_loss._types import Problem, Shape, Size
from unified_loss.exceptions import LossInputError


class Parts(NamedTuple):
    """The shapes of a call of the linear form, whose ranks are known."""

    problem: Problem
    hidden: Shape
    weight: Shape  # of two axes
    bias: Shape | None
    labels: Shape
    values: Values | None = None

    @property
    def batch(self) -> Shape:
        """The shape of hidden without its features."""
        return self.hidden[:-1]

    def differ(self, a: Size, b: Size) -> bool:
        """Whether two sizes are known to differ."""
        return self.problem.same(a, b) is False

    @property
    def fits_weight(self) -> bool:
        """Whether weight may have a column for each feature."""
        return not self.differ(self.hidden[-1], self.weight[1])

    @property
    def fits_bias(self) -> bool:
        """Whether bias, if there is one, may have a number for each class."""
        bias = self.bias
        return bias is None or (len(bias) == 1 and not self.differ(bias[0], self.weight[0]))

    def allows(self, classes: Size) -> bool:
        """Whether bias and labels may be those of so many classes."""
        high = math.nan if self.values is None else self.values.high  # NaN, too, if none is there
        ids_fit = not (isinstance(classes, int) and high >= classes)
        if len(self.labels) > len(self.batch):
            last = self.labels[-1]
            ids_fit = last == 1 or not self.differ(last, classes)
        return ids_fit and not (self.bias and self.differ(self.bias[-1], classes))


def readings_of(problem: Problem, values: Values | None) -> tuple[Reading, ...]:
    """The readings of a call of the linear form that is refused for its shapes, the best first."""
    head = problem.head
    shapes = [head.hidden.shape, head.weight.shape, head.bias and head.bias.shape]
    parts = Parts._make((problem, *shapes, problem.labels.shape, values))
    if not parts.hidden or parts.weight is None or len(parts.weight) != 2 or parts.labels is None:
        return ()
    found = (
        reading._replace(tag=tag, title=one.title)
        for tag, one in LINEAR_CAUSES.items()
        for reading in one.readings(parts)
    )
    return tuple(sorted(found, key=lambda reading: -reading.score))


@cause(
    "weight_transposed",
    "weight is transposed",
    "head",
    example="np.zeros((4, 3)), np.zeros((3, 7)), [0, 6, 2, 1]",
)
def weight_transposed(parts: Parts) -> Readings:
    """A weight with a column for each class, as a kernel of Flax or Keras has."""
    size, (rows, columns) = parts.hidden[-1], parts.weight
    if parts.fits_weight or parts.differ(size, rows):
        return
    step, is_known = Step("weight", "transpose"), not parts.allows(size)
    fixes = (
        _fix(parts.problem, "a row for each class", step)
        if is_known
        else _fix(
            parts.problem, "if it has a column for each class, transpose it", step, "conditional"
        )
    )
    if is_known or parts.allows(columns):
        yield Reading(
            Score.CERTAIN if is_known else Score.LIKELY,
            f"weight {shown(parts.weight)} has the features of hidden on its first axis.",
            tuple(fixes),
        )


@cause(
    "logits_not_hidden",
    "logits where hidden states are wanted",
    "head",
    example="np.zeros((4, 7)), np.zeros((7, 3)), [0, 6, 2, 1]",
)
def logits_not_hidden(parts: Parts) -> Readings:
    """The scores that the last layer makes, beside its weight, instead of what it takes."""
    size, (rows, columns) = parts.hidden[-1], parts.weight
    if parts.fits_weight or parts.differ(size, rows) or not parts.allows(size):
        return
    is_known = not parts.allows(columns)
    is_usual = columns in HIDDEN_SIZES and size not in HIDDEN_SIZES
    yield Reading(
        Score.CERTAIN if is_known else Score.STRONG if is_usual else Score.GUESS,
        f"hidden {shown(parts.hidden)} has a number for each of the {shown_size(rows)} rows of "
        "weight, as logits have, which the last layer has made already.",
        (
            outside(f"pass what the last layer takes, of shape (..., {shown_size(columns)})"),
            outside("take cross_entropy, if they are the logits"),
        ),
    )


@cause(
    "bias_not_per_class",
    "bias is not one per class",
    "head",
    example="np.zeros((4, 3)), np.zeros((7, 3)), [0, 6, 2, 1], bias=np.zeros((1, 7))",
)
def bias_not_per_class(parts: Parts) -> Readings:
    """A bias that does not have one number for each class."""
    if not parts.fits_weight or parts.fits_bias or parts.bias is None:
        return
    fixes: tuple[Fix, ...] = ()
    if count(parts.bias) == parts.weight[0]:
        step = Step("bias", "reshape", parts.weight[:1])
        fixes = tuple(_fix(parts.problem, "flatten it", step, written=(-1,)))
    yield Reading(
        Score.CERTAIN,
        f"bias {shown(parts.bias)} is to have a number for each of the "
        f"{shown_size(parts.weight[0])} rows of weight.",
        fixes,
    )


@cause(
    "labels_shifted",
    "labels were shifted and cut",
    "head",
    example="np.zeros((2, 5, 3)), np.zeros((7, 3)), np.zeros((2, 4), int)",
)
def labels_shifted(parts: Parts) -> Readings:
    """Labels that are one position shorter than the hidden states."""
    batch, labels, problem = parts.batch, parts.labels, parts.problem
    if not parts.fits_weight or not parts.fits_bias or problem.labels.dtype not in rules.INTEGER:
        return
    if len(labels) != len(batch) or not batch:
        return
    last, given = batch[-1], labels[-1]
    is_shorter = isinstance(last, int) and isinstance(given, int) and last == given + 1 > 1
    if not is_shorter or same_shape(labels[:-1], batch[:-1], problem.same) is False:
        return
    value = rules.integer(problem.options.ignore_index)
    text = "if each label is that of the position before it, pad them with ignore_index"
    step = Step("labels", "pad", (len(labels), value))
    yield Reading(
        Score.LIKELY,
        f"labels {shown(labels)} are one shorter than the {last} positions of hidden: the last "
        "position has no next one to predict.",
        () if value is None else tuple(_fix(problem, text, step, "conditional", ignored=value)),
    )


@cause(
    "hidden_not_flattened",
    "labels are flattened otherwise than hidden",
    "head",
    example="np.zeros((2, 5, 3)), np.zeros((7, 3)), np.zeros(10, int)",
)
def hidden_not_flattened(parts: Parts) -> Readings:
    """Labels that are flattened where the hidden states are not, or the other way round."""
    batch, labels = parts.batch, parts.labels
    number = count(batch)
    if not parts.fits_weight or not parts.fits_bias or not number or number != count(labels):
        return
    if labels == batch:
        return
    which, shape = ("labels", labels) if len(labels) < len(batch) else ("hidden", parts.hidden)
    written = batch if len(batch) > 1 else (-1,)
    text = "the labels in the shape of the rows of hidden"
    yield Reading(
        Score.STRONG,
        f"{which} {shown(shape)} are flattened, and the others are not; there is a label for each "
        "row of hidden.",
        tuple(_fix(parts.problem, text, Step("labels", "reshape", batch), written=written)),
    )


def _fix(
    problem: Problem,
    text: str,
    step: Step,
    kind: Kind = "same meaning",
    *,
    written: Any = None,
    ignored: int | None = None,
) -> Iterator[Fix]:
    """The fix, if it makes the call valid, and `ignored` a label that is."""
    fix = Fix(text, kind=kind, steps=(step,))
    try:
        plan = make_plan(with_logits(fix.applied_to(problem)))
    except LossInputError:
        return
    if ignored is not None and plan.ignore_index != ignored:
        return
    spec = problem.labels if step.argument == "labels" else getattr(problem.head, step.argument)
    value = step.value if written is None else written
    code = expression(spec.library, step.argument, ((step.operation, value),))
    yield Fix(text, f"{step.argument} = {code}" if code else "", kind, (step,))
