"""The way of a call of the linear form: everything checked, every argument beside hidden."""

from collections.abc import Hashable
from typing import Any, NamedTuple

from unified_loss import _labels as label_values
from unified_loss import _linear_rules as linear_rules
from unified_loss import _messages as messages
from unified_loss import _plan as plans
from unified_loss import _rules as rules
from unified_loss._backend import Backend
from unified_loss._call import (
    argument,
    brought_to,
    check_normalizer,
    diagnose,
    taken_of,
    warn,
    warn_of,
    warn_of_suspicions,
)
from unified_loss._types import Array, Form, Head, Operands, Options, Problem, Spec
from unified_loss.exceptions import LossInputError, SingleClassWarning

AXIS = -1  # of the classes in the logits that are never made


class LinearCall(NamedTuple):
    """A call that nothing is wrong with, ready for its walk."""

    form: Form
    head: Head
    operands: Operands  # without logits
    problem: Problem


def prepare(
    backend: Backend, head: Head, arrays: Operands, options: Options, softcap: Any
) -> LinearCall:
    """Check everything that can be checked (R26), and bring all arrays to hidden (R2)."""
    key = _key_of(backend, head, arrays, options, softcap)
    seen = None if key is None else plans.seen(key, backend, arrays)
    if seen is not None:
        form = Form(seen[0], None if softcap is None else float(softcap))
        return LinearCall(form, head, arrays, seen[1])
    hidden, weight, bias = head
    options = options._replace(axis=AXIS)
    taken = taken_of(backend, arrays._replace(logits=hidden), options, first="hidden")
    weight, weight_spec = _part(backend, hidden, weight, "weight")
    bias, bias_spec = _part(backend, hidden, bias, "bias")
    known = Head(backend.spec(hidden), weight_spec, bias_spec)
    problem = taken.beside(known.hidden, options, backend.same_size, known)
    try:
        problem = linear_rules.with_logits(problem)
        cap = linear_rules.softcap(softcap, problem.logits.dtype)
        plan = plans.make_plan(problem)._replace(device=backend.device(hidden))
        if plan.class_group is not None:
            plan = plan._replace(class_group=backend.group(plan.class_group))
        check_normalizer(plan, taken.normalizer)
        if isinstance(plan.num_classes, int) and plan.num_classes == 1:
            warn(SingleClassWarning(messages.single_class(problem)))
        judged = plan
        plan = label_values.told(plan, taken.labels, taken.sample_weight)
    except LossInputError as error:
        diagnose(error, problem, hidden, taken.labels)
        raise
    if key is not None:
        # The route of the logits' loss, where they are made.
        in_two_steps = backend.linear_route(Form(judged, cap), known).alone is None
        plans.remember(key, judged, problem, backend if in_two_steps else None)
    if plan.class_group is not None:
        pass  # the values here are parts of those to look at
    elif plan.check is True:
        warn_of_suspicions(backend, plan, problem, None, taken)
    elif plan.label_kind == "dense" and label_values.has_several_ones(
        plan, taken.labels, taken.sample_weight
    ):
        warn_of("several", problem, plan, taken.labels)
    plan, operands = brought_to(plan, hidden, taken)
    is_ordinary = backend.outline(hidden, *operands[1:4]) is not None
    form = Form(plan._replace(is_ordinary=is_ordinary), cap)
    return LinearCall(form, Head(hidden, weight, bias), operands, problem)


def _key_of(
    backend: Backend, head: Head, arrays: Operands, options: Options, softcap: Any
) -> Hashable:
    """What a call is recognized by, all but its values; None if it cannot be."""
    hidden, weight, bias = head
    if not backend.owns(weight) or not (bias is None or backend.owns(bias)):
        return None
    outlines = [backend.outline(part) for part in (weight, bias) if part is not None]
    if None in outlines or not (softcap is None or type(softcap) in {int, float}):
        return None
    key = plans.key_of(backend, Operands(hidden, *arrays[1:]), options)
    return None if key is None else (key, *outlines, softcap, type(softcap))


def _part(
    backend: Backend, hidden: Array, value: Any, name: str
) -> tuple[Array | None, Spec | None]:
    """The weight or the bias beside hidden; it keeps its dtype, which is that of its gradient."""
    if value is None and name == "bias":
        return None, None
    part = argument(backend, hidden, value, name, look=False, first="hidden")
    if not part.on_host or part.spec.dtype not in rules.FLOATING:
        return part.value, part.spec
    if backend.name == "numpy":
        return part.value, part.spec
    dtype = part.spec.dtype
    if part.spec.library == "python" or dtype == "bfloat16":
        dtype = rules.compute_dtype(backend.spec(hidden).dtype)
    brought = part.bring(hidden, dtype)
    return brought, backend.spec(brought)
