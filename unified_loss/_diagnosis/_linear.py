"""What is wrong with the shapes of the linear form, and how to mend it. Imported on failure.

A fix is tried on the call before it is offered.
"""

import math
from collections.abc import Iterator
from typing import Any

from unified_loss import _rules as rules
from unified_loss._diagnosis import LEADS, Fix, Reading, Score
from unified_loss._linear_rules import spec_of_logits
from unified_loss._messages import described
from unified_loss._plan import make_plan
from unified_loss._shapes import same_shape
from unified_loss._types import Head, Problem, Shape, Spec
from unified_loss.exceptions import LossInputError

# How each library writes a row of labels that is one longer.
_PADS = {
    "numpy": "np.pad(labels, {pairs}, constant_values={value})",
    "python": "np.pad(labels, {pairs}, constant_values={value})",
    "torch": "F.pad(labels, (0, 1), value={value})",
    "jax": "jnp.pad(labels, {pairs}, constant_values={value})",
    "tensorflow": "tf.pad(labels, {pairs}, constant_values={value})",
    "mlx": "mx.pad(labels, {pairs}, constant_values={value})",
}


def extend(error: LossInputError, head: Head, problem: Problem) -> None:
    """Add all the shapes to an error, and the cause and the fixes where they are known."""
    hidden, weight, bias = head
    names = {"hidden": hidden, "weight": weight, "labels": problem.labels}
    if bias is not None:
        names["bias"] = bias
    facts = "   ".join(f"{name}: {described(spec)}" for name, spec in names.items())
    lines = [str(error).partition("\n")[0], f"  {facts}"]
    readings = tuple(_readings(head, problem))
    for reading in readings:
        verb = "cause" if reading.score == Score.CERTAIN else "perhaps"
        lines.append(f"  {verb}: {reading.title} ({reading.tag}): {reading.sentence}")
        lines += (f"    {LEADS[fix.kind]}{fix}" for fix in reading.fixes)
    error.args = ("\n".join(lines),)
    if readings:
        fixes = tuple(fix for reading in readings for fix in reading.fixes)
        error.with_details(cause=readings[0].tag, fixes=fixes, readings=readings)
    error.__suppress_context__ = True


def _readings(head: Head, problem: Problem) -> Iterator[Reading]:
    shapes = [None if part is None else part.shape for part in (*head, problem.labels)]
    hidden, weight, bias, labels = shapes
    if not hidden or weight is None or len(weight) != 2:
        return
    same = problem.same
    if same(hidden[-1], weight[1]) is False:
        turned = weight[::-1]
        if same(hidden[-1], turned[1]) is not False:
            sentence = f"weight {weight} has the features of hidden on its first axis."
            is_tensorflow = head.weight.library == "tensorflow"
            code = "weight = tf.transpose(weight)" if is_tensorflow else "weight = weight.T"
            fix = Fix("a row per class", code, "same meaning")
            changed = head._replace(weight=head.weight._replace(shape=turned))
            yield from _if_valid(
                changed, problem, Reading(Score.CERTAIN, sentence, (fix,), None,
                "weight_transposed", "weight is transposed"))  # fmt: skip
        return
    if (
        head.bias is not None
        and bias is not None
        and (len(bias) != 1 or same(bias[0], weight[0]) is False)
    ):
        yield from _of_bias(head, problem, head.bias, weight)
        return
    if labels is not None:
        yield from _of_labels(head, problem, hidden, labels)


def _of_bias(head: Head, problem: Problem, bias: Spec, weight: Shape) -> Iterator[Reading]:
    shape = bias.shape
    sentence = f"bias {shape} is to have a number for each of the {weight[0]} classes."
    fixes: tuple[Fix, ...] = ()
    title = "bias is not one per class"
    if _count(shape) == weight[0]:
        fixes = (Fix("flatten it", _reshaped(bias.library, "bias", (-1,)), "same meaning"),)
    reading = Reading(Score.CERTAIN, sentence, fixes, None, "bias_not_per_class", title)
    if not fixes:
        yield reading
        return
    changed = head._replace(bias=bias._replace(shape=(weight[0],)))
    yield from _if_valid(changed, problem, reading)


def _of_labels(head: Head, problem: Problem, hidden: Shape, labels: Shape) -> Iterator[Reading]:
    batch = hidden[:-1]
    if len(labels) == len(batch) and batch and problem.labels.dtype in rules.INTEGER:
        yield from _of_shifted(head, problem, batch, labels)
    number = _count(batch)
    if labels != batch and number is not None and number == _count(labels) and number:
        which = "labels" if len(labels) < len(batch) else "hidden"
        sentence = f"{which} {batch if which == 'hidden' else labels} are flattened, and the "
        sentence += "others are not; a label per row of hidden is there."
        code = _reshaped(problem.labels.library, "labels", batch if len(batch) > 1 else (-1,))
        fix = Fix("the labels in the shape of the rows of hidden", code, "same meaning")
        reading = Reading(Score.STRONG, sentence, (fix,), None, "hidden_not_flattened",
                          "labels are flattened otherwise than hidden")  # fmt: skip
        yield from _if_valid(head, _with_labels(problem, batch), reading)


def _of_shifted(head: Head, problem: Problem, batch: Shape, labels: Shape) -> Iterator[Reading]:
    last, given = batch[-1], labels[-1]
    if not (isinstance(last, int) and isinstance(given, int) and last == given + 1):
        return
    if same_shape(labels[:-1], batch[:-1], problem.same) is False:
        return
    value = problem.options.ignore_index
    sentence = (
        f"labels {labels} are one shorter than the {last} positions of hidden: the last position "
        "has no next one to predict."
    )
    fixes: tuple[Fix, ...] = ()
    if rules.integer(value) is not None:
        pairs = [[0, 0]] * (len(labels) - 1) + [[0, 1]]
        pad = _PADS.get(problem.labels.library, "")
        code = pad and f"labels = {pad.format(pairs=pairs, value=value)}"
        text = "if each label is that of the position before it, pad them with ignore_index"
        fixes = (Fix(text, code, "conditional"),)
    reading = Reading(Score.LIKELY, sentence, fixes, None, "labels_shifted",
                      "labels were shifted and cut")  # fmt: skip
    yield from _if_valid(head, _with_labels(problem, batch), reading)


def _if_valid(head: Head, problem: Problem, reading: Reading) -> Iterator[Reading]:
    """The reading, with its fixes where the call is valid once they are done."""
    try:
        make_plan(problem._replace(logits=spec_of_logits(head, problem.labels, problem.same)))
    except LossInputError:
        reading = reading._replace(fixes=())
    yield reading


def _with_labels(problem: Problem, shape: Shape) -> Problem:
    return problem._replace(labels=problem.labels._replace(shape=shape))


def _reshaped(library: str, name: str, shape: Shape) -> str:
    """Code, in the caller's own library."""
    sizes: Any = tuple(shape)
    if library == "python":
        return f"{name} = np.reshape({name}, {sizes})"
    if library == "tensorflow":
        return f"{name} = tf.reshape({name}, {sizes})"
    return f"{name} = {name}.reshape({sizes})"


def _count(shape: Shape) -> int | None:
    return math.prod(shape) if all(isinstance(size, int) for size in shape) else None
