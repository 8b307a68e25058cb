"""From the arguments of a call to its report."""

import itertools
import math
import warnings
from typing import Any

from unified_loss import _messages as messages
from unified_loss import _words as words
from unified_loss._backend import Backend, Route
from unified_loss._call import diagnose, prepare
from unified_loss._cross_entropy import cross_entropy
from unified_loss._diagnosis import Values, extend
from unified_loss._dispatch import backend_of
from unified_loss._explain import _reading as reading
from unified_loss._explain._facts import facts_of, facts_of_linear
from unified_loss._explain._linear import has_no_logits, way_of
from unified_loss._explain._memory import memory_of
from unified_loss._explain._picture import drawings_of
from unified_loss._explain._report import Report
from unified_loss._linear_call import prepare as prepare_linear
from unified_loss._linear_rules import softcap as cap_of
from unified_loss._linear_rules import with_logits
from unified_loss._plan import make_plan
from unified_loss._types import Form, Head, Operands, Options, Plan, Problem
from unified_loss.exceptions import (
    BackendError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
)

SMALL, LARGE = 1, 2**24  # what an unknown size may be
MATRIX = 2  # the number of axes of a layer's weight


def examine(
    arrays: Operands,
    options: Options,
    framework: str | None,
    head: Head,
    softcap: Any,
    ends: tuple[int, int] | None = None,
) -> Report:
    """The report of a call; one of the linear form, if the head has a weight.

    `ends` are the smallest and the largest label beside shapes, if not all are class ids.
    """
    is_shape = reading.is_shape(arrays.logits)
    reading.check_framework(framework, with_arrays=not is_shape)
    if _has_weights_alone(head, softcap, tuples=is_shape):
        known, foreign = cross_entropy.__kwdefaults__ or {}, {"weight": head.weight}
        return _refused(None, words.refused(cross_entropy.__name__, known, (), foreign))
    _check_head(head, softcap, options)
    is_linear = head.weight is not None
    first = "hidden" if is_linear else "logits"
    given = (arrays._asdict() | head._replace(hidden=None)._asdict()).items()
    try:
        backend = None if is_shape else backend_of(arrays.logits, first)
        if backend is None or any(reading.stands_for_array(*each) for each in given):
            call = reading.read_shapes(arrays, options, framework, head)
            return _of_shapes(call, softcap, ends)
    except BackendError as error:  # of what is neither an array nor a shape
        return _refused(None, error)
    if is_linear:
        return _of_head(backend, head, arrays._replace(logits=None), options, softcap)
    return _of_arrays(backend, arrays, options)


def _has_weights_alone(head: Head, softcap: Any, *, tuples: bool) -> bool:
    """Whether a weight is that of another library's loss: of classes or examples, no layer's."""
    if head.weight is None or head.bias is not None or softcap is not None:
        return False
    if reading.is_name("weight", head.weight):
        return True
    try:
        shape = reading.shape_of("weight", head.weight, tuples=tuples)
    except BackendError:  # a layer, say, and told apart later
        return False
    return shape is not None and len(shape) < MATRIX


def _check_head(head: Head, softcap: Any, options: Options) -> None:
    """`OptionError` for what goes with a weight alone, or not beside it."""
    if head.weight is None:
        for name, value in (("bias", head.bias), ("softcap", softcap)):
            if value is not None:
                raise OptionError(messages.option(name, value, "None without weight="))
    elif options.axis is not None:
        wanted = "None beside weight, whose rows are the classes"
        raise OptionError(messages.option("axis", options.axis, wanted))


def _of_arrays(backend: Backend, arrays: Operands, options: Options) -> Report:
    with _recorded() as caught:
        try:
            call = prepare(backend, arrays, options, afresh=True)
            route = call.route
        except LossInputError as error:
            return _refused(_problem_if_any(backend, arrays, options), error)
    return _accepted(call.problem, make_plan(call.problem), [route], _told(caught))


def _of_head(
    backend: Backend, head: Head, arrays: Operands, options: Options, softcap: Any
) -> Report:
    with _recorded() as caught:
        try:
            call = prepare_linear(backend, head, arrays, options, softcap)
        except LossInputError as error:
            return _refused(
                _problem_of_head(arrays._replace(logits=head.hidden), options, head), error
            )
    plan = make_plan(call.problem)._replace(device=call.form.plan.device)
    return _accepted_linear(backend, call.problem, call.form._replace(plan=plan), _told(caught))


def _recorded() -> "warnings.catch_warnings[list[warnings.WarningMessage]]":
    return warnings.catch_warnings(record=True, action="always")


def _told(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    ours = (one.message for one in caught if issubclass(one.category, LossInputWarning))
    return tuple(map(str, ours))


def _of_shapes(call: reading.Call, softcap: Any, ends: tuple[int, int] | None) -> Report:
    problem, error = call.problem, call.error
    if error is not None:
        return _refused(problem, error)
    cap = None
    try:
        if problem.head is not None:
            problem = with_logits(problem)
            cap = cap_of(softcap, problem.logits.dtype)
        plan = make_plan(problem)
    except LossInputError as refusal:
        diagnose(refusal, problem)
        return _refused(problem, refusal)
    if ends is not None:
        return _refused(problem, _wrong_ids(problem, *ends, plan.num_classes))
    told = (messages.single_class(problem),) if _is_single(plan) else ()
    if problem.head is not None:
        return _accepted_linear(call.backend, problem, Form(plan, cap), told)
    routes = [] if call.backend is None else _routes(call.backend, plan, problem)
    return _accepted(problem, plan, routes, told)


def _wrong_ids(problem: Problem, low: int, high: int, classes: int) -> LabelError:
    """The error of labels of which the ends are known, and taken for the only wrong ones."""
    text = messages.ids_beyond(low, high, classes)
    error = LabelError(text).with_details(smallest=low, largest=high)
    inner = 0 if low < 0 else None, classes - 1 if high >= classes else None
    extend(error, problem, Values(low, high, *inner))
    return error


def _refused(problem: Problem | None, error: LossInputError) -> Report:
    error = error.with_traceback(None)  # which would keep the arrays
    if problem is None or has_no_logits(problem):
        return Report(None, problem, error)
    return Report(None, problem, error, _drawings=drawings_of(problem))


def _accepted(problem: Problem, plan: Plan, routes: list[Route], told: tuple[str, ...]) -> Report:
    kernel = " or ".join(dict.fromkeys(route.name for route in routes)) or None
    memory = memory_of(problem, plan, routes[0]) if routes else None
    return Report(
        plan,
        problem,
        warnings=told,
        kernel=kernel,
        extra_memory=None if memory is None else memory.size,
        facts=tuple(facts_of(problem, plan, kernel, memory)),
        _drawings=drawings_of(problem),
    )


def _accepted_linear(
    backend: Backend | None, problem: Problem, form: Form, told: tuple[str, ...]
) -> Report:
    way = None if backend is None else way_of(backend, problem, form)
    return Report(
        form.plan,
        problem,
        warnings=told,
        kernel=None if way is None else way.kernel,
        extra_memory=None if way is None else way.alone,
        facts=tuple(facts_of_linear(problem, form, way, is_installed=backend is not None)),
        _drawings=drawings_of(problem),
    )


def _problem_if_any(backend: Backend, arrays: Operands, options: Options) -> Problem | None:
    """The shapes of a call that is refused, if all its arguments have one."""
    try:
        return reading.problem_of(backend, arrays, options)
    except LossInputError:
        return None


def _problem_of_head(arrays: Operands, options: Options, head: Head) -> Problem | None:
    """The same for the linear form; its logits, if there can be any."""
    try:
        problem = reading.read_shapes(arrays, options, None, head).problem
    except LossInputError:
        return None
    try:
        return with_logits(problem)
    except LossInputError:
        return problem


def _is_single(plan: Plan) -> bool:
    return isinstance(plan.num_classes, int) and plan.num_classes == 1


def _routes(backend: Backend, plan: Plan, problem: Problem) -> list[Route]:
    """The routes by the shapes alone; all that there can be where sizes are not known."""
    if plan.label_kind == "index" and plan.check is not False:
        plan = plan.of_class_ids()  # as labels will be
    routes = []
    for batch, classes in itertools.product((SMALL, LARGE), repeat=2):
        known = plan.num_classes if isinstance(plan.num_classes, int) else classes
        sizes = [size if isinstance(size, int) else batch for size in problem.logits.shape or ()]
        if sizes:
            sizes[plan.axis] = known
        else:  # of unknown rank
            sizes = [batch, known]
        filled = plan._replace(num_classes=known, ndim=len(sizes), is_ordinary=True)
        routes.append(backend.route(filled, math.prod(sizes)))
    return routes
