"""`Fix`: what to do to the arguments, as data that can be applied to shapes, and as code."""

import ast
import importlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import Facts, Values
from unified_loss._diagnosis._operations import OPERATIONS, aliases, expression
from unified_loss._offered import Kind
from unified_loss._plan import make_plan
from unified_loss._types import Head, Operands, Options, Plan, Problem
from unified_loss.exceptions import AmbiguousAxisError, ArgumentError, LossInputError

HEAD = Head._fields
ARGUMENTS = {*Operands._fields, *HEAD}
OPTIONS = {*Options._fields, "softcap"}
CLAIMS = "cast", "argmax", "one_hot", "exp"  # operations that say what labels are


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
        What to do, on one line; of a conditional fix "if ..., ...".
    code : str
        Python statements in the caller's own library that change the arguments of the call, such
        as ``labels = labels.argmax(dim=1)`` or ``axis=1``; empty if it is not done there, or if
        the library writes it in a way that is not known here.
    kind : {"same meaning", "conditional", "elsewhere"}
        "same meaning": `code` makes the call valid, and every label stays with its logits: nothing
        is dropped, moved or reinterpreted. "conditional": it makes the call valid, and is right if
        the condition in `text` is what was meant. "elsewhere": a change outside of the call, of
        the model or of the data.
    """

    text: str
    code: str = ""
    kind: Kind = "elsewhere"
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        """The text, and the code."""
        return f"{self.text}: {self.code}" if self.code else self.text

    @property
    def sufficient(self) -> bool:
        """Whether it is all there is to do, whatever was meant."""
        return self.kind == "same meaning"

    def apply(self, logits: Any = None, labels: Any = None, **options: Any) -> dict[str, Any]:
        """All arguments of the call, as they are once `code` has run.

        Those of the linear form are given by name, and there are no logits among them. A fix
        without code is none of the arguments: that is a `LossInputError`.
        """
        if not self.code:
            message = f"this fix is no code that changes the arguments of the call: {self.text}."
            raise LossInputError(message)
        arguments = {"logits": logits, "labels": labels, **options}
        names = [node for node in ast.walk(ast.parse(self.code)) if isinstance(node, ast.Name)]
        read, made, renamed = (
            {name.id for name in names if isinstance(name.ctx, use)}
            for use in (ast.Load, ast.Store, ast.Del)
        )
        if "hidden" in options.keys() | made:
            del arguments["logits"]
        needed = (arguments.keys() - options.keys()) | read & ARGUMENTS | renamed
        missing = sorted(name for name in needed if arguments.get(name) is None)
        if missing:
            message = (
                f"a fix is applied to the arguments of the call, but has no {', '.join(missing)}: "
            )
            message += "fix.apply(logits, labels, ...), all others by name."
            raise ArgumentError(message)
        modules = {name: importlib.import_module(path) for name, path in aliases(self.code).items()}
        known = {*arguments, *ARGUMENTS, *OPTIONS}
        exec(self.code, modules, arguments)  # noqa: S102 (made here, of sizes and fixed names)
        return {name: value for name, value in arguments.items() if name in known}

    def applied_to(self, problem: Problem) -> Problem:
        """The call as it is once `code` has run."""
        for step in self.steps:
            problem = _stepped(problem, step)
        return problem


def outside(text: str) -> Fix:
    """A fix that is done elsewhere: in the model, or where the data are made."""
    return Fix(text)


def fix(facts: Facts, text: str, *steps: Step, given: str = "") -> Iterator[Fix]:
    """The fix, if it makes the call valid, be it with a cast, the axis or an ignored label more.

    `given` is the condition under which it is right, in place of that of the operations; what they
    claim of the labels is added. Where labels are known to be out of range even then, the rest is
    to be done elsewhere.
    """
    partial = None
    for more in _completions(facts, steps):
        whole = (*steps, *more)
        plan = _plan(Fix(text, steps=whole).applied_to(facts.problem))
        code = None if plan is None else _code(facts.problem, whole)
        if plan is None or code is None or _is_dense_of_ids(plan, whole):
            continue
        if _cuts_rows(facts, plan, whole):
            continue
        excess = _excess(plan, facts.values, whole)
        if excess is None:
            conditions = dict.fromkeys(filter(None, (given, *_conditions(facts, whole, given))))
            kind: Kind = "conditional" if conditions else "same meaning"
            lead = f"if {' and '.join(conditions)}, " if conditions else ""
            yield Fix(f"{lead}{text}", code, kind, whole)
            return
        partial = partial or outside(f"{text}, and {excess}")
    if partial is not None:
        yield partial


def two_scores(facts: Facts) -> Iterator[Fix]:
    """The scores of two classes, where each example has one that tells them apart."""
    is_outcome = facts.binary or facts.values is None
    if not is_outcome or facts.problem.head is not None:  # which makes the scores
        return
    axis = facts.axis if len(facts.logits) > 1 else None
    given = OPERATIONS["pair"].condition
    if facts.values is None:
        given += " and labels are 0 and 1"
    yield from fix(facts, "give class 0 the score 0", Step("logits", "pair", axis), given=given)


def _completions(facts: Facts, steps: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    """What a fix may need besides, the least first; never what contradicts it."""
    extras = []
    changed = {step.argument for step in steps}
    claims = any(step.argument == "labels" and step.operation in CLAIMS for step in steps)
    is_whole = facts.problem.labels.dtype in rules.REAL | {"bool"} and not facts.fractional
    if not facts.integer and is_whole and not claims:
        extras.append(Step("labels", "cast", "int64"))
    is_open = facts.problem.options.axis is None and "axis" not in changed
    if is_open and len(facts.logits or ()) > 2:
        extras.append(Step("axis", "set", facts.axis))
    low = None if facts.values is None or _swaps(steps) else facts.values.low
    is_marked = low == -1 != facts.problem.options.ignore_index
    if is_marked and not changed & {"ignore_index"}:
        extras.append(Step("ignore_index", "set", -1))
    sizes = range(len(extras) + 1)
    return [more for size in sizes for more in itertools.combinations(extras, size)]


def _conditions(facts: Facts, steps: tuple[Step, ...], given: str) -> Iterator[str]:
    """What must be so that the steps keep the meaning of the labels."""
    for step in steps:
        if step.operation in OPERATIONS:
            operation = OPERATIONS[step.operation]
            is_said = given and (step.operation not in CLAIMS or given.startswith("each row"))
            if not is_said and not operation.keeps(facts, step.value):
                yield operation.condition
        elif step.argument == "ignore_index" and not given:
            yield f"{step.value} marks padding"
        elif step.argument == "axis" and _is_choice(facts, steps):
            yield f"the classes are on axis {step.value}"


def _is_choice(facts: Facts, steps: tuple[Step, ...]) -> bool:
    """Whether the mended call would leave open where the classes are, and the labels do, too."""
    is_dense = len(facts.labels or ()) == len(facts.logits or ())
    if is_dense and _unit_axes(facts, steps) == {facts.axis}:
        return False
    problem = Fix("", steps=steps).applied_to(facts.problem)
    try:
        make_plan(problem._replace(options=problem.options._replace(axis=None)))
    except AmbiguousAxisError:
        return True
    except LossInputError:
        pass
    return False


def _unit_axes(facts: Facts, steps: tuple[Step, ...]) -> set[int]:
    """The axes along which all sums of the labels are 1 once their axes are in another order."""
    found = set() if facts.values is None else set(facts.values.unit_axes)
    for step in steps:
        if step.argument == "labels" and step.operation == "permute":
            found = {step.value.index(axis) for axis in found}
    return found


def _cuts_rows(facts: Facts, plan: Plan, steps: tuple[Step, ...]) -> bool:
    """Whether steps would take numbers of different label rows for one, where rows are known."""
    units = _unit_axes(facts, steps)
    moves = [step for step in steps if step.argument == "labels" and step.operation != "cast"]
    if not units or len(moves) != 1:
        return False
    if moves[0].operation == "argmax":
        return moves[0].value % len(facts.labels) not in units
    return moves[0].operation == "permute" and plan.label_kind == "dense" and plan.axis not in units


def _plan(problem: Problem) -> Plan | None:
    try:
        return make_plan(problem)
    except LossInputError:
        return None


def is_valid(problem: Problem) -> bool:
    """Whether the shapes, dtypes and options of a call go together."""
    return _plan(problem) is not None


def _is_dense_of_ids(plan: Plan, steps: tuple[Step, ...]) -> bool:
    """Whether numbers were cast to class ids, and are taken for probabilities nevertheless."""
    last = next((step for step in reversed(steps) if step.operation in CLAIMS), None)
    return plan.label_kind == "dense" and last is not None and last[2] == "int64"


def _excess(plan: Plan, values: Values | None, steps: tuple[Step, ...]) -> str | None:
    """What is still wrong with the labels after these steps, as far as they are known."""
    if values is None or _swaps(steps):
        return None
    low, high = values.low, values.high
    for step in steps:
        operation = OPERATIONS.get(step.operation)
        if step.argument == "labels" and operation is not None:
            if step.operation == "one_hot" and not 0 <= low <= high < step.value:
                return "mend the ids"
            if operation.bound is None:
                return None
            low, high = operation.bound(low, step.value), operation.bound(high, step.value)
        elif step == Step("ignore_index", "set", low):
            low = high if values.above_low is None else values.above_low
        elif step == Step("ignore_index", "set", high):
            high = low if values.below_high is None else values.below_high
    return _out_of_range(plan, low, high)


def _swaps(steps: tuple[Step, ...]) -> bool:
    """Whether what is known of the labels is known of the logits then."""
    return any(step.operation == "swap" for step in steps)


def _out_of_range(plan: Plan, low: Any, high: Any) -> str | None:
    """What is wrong with labels between two numbers."""
    if plan.label_kind == "dense":
        is_legal = plan.check is not True or (low >= 0 and high < math.inf)
        return None if is_legal else "give probabilities"
    if low < 0:
        return "mend the negative labels"
    if isinstance(plan.num_classes, int) and high >= plan.num_classes:
        return f"give the last layer {high + 1} output units"
    return None


def _code(problem: Problem, steps: tuple[Step, ...]) -> str | None:
    """The code of steps, one statement for each argument; None if a library has no such.

    It is empty where the way of a library is not known.
    """
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
            if not code:
                return ""
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
    if step.argument in HEAD:
        spec = getattr(problem.head, step.argument)
        shape = OPERATIONS[step.operation].shape(spec.shape, step.value)
        head = problem.head._replace(**{step.argument: spec._replace(shape=shape)})
        return problem._replace(head=head)
    changed: dict[str, Any] = {step.argument: step.value}
    if step.argument in Options._fields:
        return problem._replace(options=problem.options._replace(**changed))
    if step.operation == "rename":
        changed = {step.value: getattr(problem, step.argument), step.argument: None}
    elif step.operation != "set":
        spec = getattr(problem, step.argument)
        operation = OPERATIONS[step.operation]
        shape = operation.shape(spec.shape, step.value)
        dtype = operation.dtype(spec.dtype, step.value)
        changed = {step.argument: spec._replace(shape=shape, dtype=dtype)}
    return problem._replace(**changed)
