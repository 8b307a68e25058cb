"""`Fix`: what to do to the arguments, as data that can be applied to shapes, and as code."""

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from unified_loss._diagnosis._code import aliases, expression
from unified_loss._diagnosis._facts import Facts, Values
from unified_loss._plan import make_plan
from unified_loss._shapes import without
from unified_loss._types import Options, Plan, Problem, Shape, Size, Spec
from unified_loss.exceptions import LossInputError


class Step(NamedTuple):
    """One operation on one argument; an option has the operation "set"."""

    argument: str
    operation: str
    value: Any = None


@dataclass(frozen=True)
class Fix:
    """One way to mend a call.

    Attributes
    ----------
    text : str
        What to do, on one line.
    code : str
        Python statements in the caller's own library that change the arguments of the call, such
        as ``labels = labels.argmax(dim=1)`` or ``axis=1``; empty if it is not done there.
    sufficient : bool
        Whether the call is valid once `code` has run.
    """

    text: str
    code: str = ""
    sufficient: bool = False
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        """The text, and the code."""
        return f"{self.text}: {self.code}" if self.code else self.text

    def apply(self, logits: Any, labels: Any, **options: Any) -> dict[str, Any]:
        """All arguments of the call, as they are once `code` has run."""
        arguments = {"logits": logits, "labels": labels, **options}
        modules = {name: importlib.import_module(path) for name, path in aliases(self.code).items()}
        if "xp." in self.code:
            from array_api_compat import array_namespace

            modules["xp"] = array_namespace(logits)
        exec(self.code, modules, arguments)  # noqa: S102 (made here, of sizes and fixed names)
        return arguments

    def applied_to(self, problem: Problem) -> Problem:
        """The call as it is once `code` has run."""
        for step in self.steps:
            problem = _stepped(problem, step)
        return problem


def outside(text: str) -> Fix:
    """A fix that is done elsewhere: in the model, or where the data are made."""
    return Fix(text)


def fix(facts: Facts, text: str, *steps: Step) -> Iterator[Fix]:
    """The fix, if it makes the call valid, be it with a cast, the axis or an ignored label more.

    Where labels are known to be out of range even then, it is a fix that does not suffice.
    """
    partial = None
    for more in _completions(facts):
        whole = (*steps, *more)
        plan = _plan(Fix(text, steps=whole).applied_to(facts.problem))
        code = None if plan is None else _code(facts.problem, whole)
        if plan is None or code is None:
            continue
        if _in_range(plan, facts.values, whole):
            yield Fix(text, code, sufficient=True, steps=whole)
            return
        partial = partial or Fix(text, code, sufficient=False, steps=whole)
    if partial is not None:
        yield partial


def _completions(facts: Facts) -> list[tuple[Step, ...]]:
    """What a fix may need besides, the least first."""
    extras = []
    if not facts.integer and not facts.fractional:
        extras.append(Step("labels", "cast", "int64"))
    if facts.problem.options.axis is None and len(facts.logits or ()) > 2:
        extras.append(Step("axis", "set", facts.axis))
    if facts.values is not None and facts.values.low == -1 != facts.problem.options.ignore_index:
        extras.append(Step("ignore_index", "set", -1))
    sizes = range(len(extras) + 1)
    return [more for size in sizes for more in itertools.combinations(extras, size)]


def _plan(problem: Problem) -> Plan | None:
    try:
        return make_plan(problem)
    except LossInputError:
        return None


def _in_range(plan: Plan, values: Values | None, steps: tuple[Step, ...]) -> bool:
    """Whether the labels are what the plan wants after these steps, as far as they are known."""
    if values is None:
        return True
    low, high = values.low, values.high
    for step in steps:
        if step.operation in {"argmax", "exp"}:
            return True
        if step.operation == "one_hot":
            return bool(low >= 0 and high < step.value)
        if step == Step("ignore_index", "set", low):
            low = high if values.above_low is None else values.above_low
        elif step == Step("ignore_index", "set", high):
            high = low if values.below_high is None else values.below_high
        elif step.operation == "subtract":
            low, high = low - step.value, high - step.value
        elif step.operation == "divide":
            low, high = low // step.value, high // step.value
    if plan.label_kind == "dense":
        return plan.check is not True or bool(low >= 0 and high < math.inf)
    return not isinstance(plan.num_classes, int) or bool(low >= 0 and high < plan.num_classes)


def _code(problem: Problem, steps: tuple[Step, ...]) -> str | None:
    """The code of steps, one statement for each argument; None if a library has no such."""
    statements = []
    for name, group in itertools.groupby(steps, key=lambda step: step.argument):
        operations = tuple((step.operation, step.value) for step in group)
        if operations[0][0] == "set":
            statements.append(f"{name}={operations[-1][1]!r}")
        elif operations[0][0] == "swap":
            statements.append("logits, labels = labels, logits")
        elif operations[0][0] == "rename":
            statements.append(f"{operations[0][1]}, {name} = {name}, None")
        else:
            code = expression(getattr(problem, name).library, name, operations)
            if code is None or not all(map(_is_writable, operations)):
                return None
            statements.append(f"{name} = {code}")
    return "; ".join(statements)


def _is_writable(operation: tuple[str, Any]) -> bool:
    """Whether all sizes are known, but one at most that a reshape finds out by itself."""
    name, value = operation
    unknown = sum(not isinstance(size, int) for size in value) if isinstance(value, tuple) else 0
    return name not in {"reshape", "broadcast"} or unknown <= (name == "reshape")


def _stepped(problem: Problem, step: Step) -> Problem:
    if step.operation == "swap":
        return problem._replace(logits=problem.labels, labels=problem.logits)
    changed: dict[str, Any] = {step.argument: step.value}
    if step.argument in Options._fields:
        return problem._replace(options=problem.options._replace(**changed))
    if step.operation == "rename":
        changed = {step.value: getattr(problem, step.argument), step.argument: None}
    elif step.operation != "set":
        spec: Spec = getattr(problem, step.argument)
        shape, dtype = EFFECTS[step.operation](spec.shape, spec.dtype, step.value)
        changed = {step.argument: spec._replace(shape=shape, dtype=dtype)}
    return problem._replace(**changed)


def _cut(size: Size, start: int | None, stop: int | None) -> Size:
    return len(range(size)[start:stop]) if isinstance(size, int) else None


def _strided(size: Size, step: int) -> Size:
    return size if step == 1 else len(range(0, size, step))


def _at(shape: Shape, axis: int, *sizes: Size) -> Shape:
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


# From (shape, dtype, value) to shape and dtype.
EFFECTS: dict[str, Callable[[Shape, str, Any], tuple[Shape, str]]] = {
    "argmax": lambda shape, _, axis: (without(shape, axis), "int64"),
    "cast": lambda shape, _, dtype: (shape, dtype),
    "reshape": lambda _, dtype, new: (new, dtype),
    "squeeze": lambda shape, dtype, axis: (without(shape, axis), dtype),
    "insert": lambda shape, dtype, axis: ((*shape[:axis], 1, *shape[axis:]), dtype),
    "permute": lambda shape, dtype, order: (tuple(shape[i] for i in order), dtype),
    "mean": lambda shape, dtype, axes: (
        tuple(size for i, size in enumerate(shape) if i not in axes),
        dtype,
    ),
    "broadcast": lambda _, dtype, new: (new, dtype),
    "exp": lambda shape, dtype, _: (shape, dtype),
    "one_hot": lambda shape, _, classes: ((*shape, classes), "float32"),
    "cut": lambda shape, dtype, value: (
        _at(shape, value[0], _cut(shape[value[0]], *value[1:])),
        dtype,
    ),
    "pick": lambda shape, dtype, value: (without(shape, value[0]), dtype),
    "stride": lambda shape, dtype, value: (
        tuple(_strided(size, dict(value).get(i, 1)) for i, size in enumerate(shape)),
        dtype,
    ),
    "subtract": lambda shape, dtype, _: (shape, dtype),
    "divide": lambda shape, dtype, _: (shape, dtype),
    "resize": lambda _, dtype, value: (value[2], dtype),
}
