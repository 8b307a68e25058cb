"""From the arguments of a call to its report."""

import itertools
import math
import warnings

from unified_loss import _messages as messages
from unified_loss._backend import Backend, Route
from unified_loss._call import diagnose, prepare
from unified_loss._dispatch import backend_of
from unified_loss._explain import _reading as reading
from unified_loss._explain._facts import facts_of
from unified_loss._explain._memory import memory_of
from unified_loss._explain._picture import columns_of
from unified_loss._explain._report import Report
from unified_loss._plan import make_plan
from unified_loss._types import Operands, Options, Plan, Problem
from unified_loss.exceptions import LossInputError, LossInputWarning

SMALL, LARGE = 1, 2**24  # what an unknown size may be


def examine(arrays: Operands, options: Options, framework: str | None) -> Report:
    """The report of a call."""
    is_shape = reading.is_shape(arrays.logits)
    reading.check_framework(framework, with_arrays=not is_shape)
    backend = None if is_shape else backend_of(arrays.logits)
    if backend is None or any(map(reading.stands_for_array, arrays)):
        return _of_shapes(reading.read_shapes(arrays, options, framework))
    return _of_arrays(backend, arrays, options)


def _of_arrays(backend: Backend, arrays: Operands, options: Options) -> Report:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call = prepare(backend, arrays, options)
            route = call.route
        except LossInputError as error:
            return _refused(_problem_if_any(backend, arrays, options), error)
    told = [one.message for one in caught if issubclass(one.category, LossInputWarning)]
    return _accepted(call.problem, make_plan(call.problem), [route], tuple(map(str, told)))


def _of_shapes(call: reading.Call) -> Report:
    if call.error is not None:
        return _refused(call.problem, call.error)
    try:
        plan = make_plan(call.problem)
    except LossInputError as error:
        diagnose(error, call.problem)
        return _refused(call.problem, error)
    routes = [] if call.backend is None else _routes(call.backend, plan, call.problem)
    told = (messages.single_class(call.problem),) if _is_single(plan) else ()
    return _accepted(call.problem, plan, routes, told)


def _refused(problem: Problem | None, error: LossInputError) -> Report:
    error = error.with_traceback(None)  # which would keep the arrays
    return Report(None, problem, error, _columns=() if problem is None else columns_of(problem))


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
        _columns=columns_of(problem),
    )


def _problem_if_any(backend: Backend, arrays: Operands, options: Options) -> Problem | None:
    """The shapes of a call that is refused, if all its arguments have one."""
    try:
        return reading.problem_of(backend, arrays, options)
    except LossInputError:
        return None


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
