"""The way of a call: everything checked, and every argument brought to the logits."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from unified_loss import _familiar as familiar
from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._plan import plan_for
from unified_loss._types import Array, Backend, Operands, Plan, Problem, Spec
from unified_loss.exceptions import (
    BackendError,
    LabelError,
    LossInputError,
    LossInputWarning,
    SingleClassWarning,
)


class Call(NamedTuple):
    """A call that nothing is wrong with, ready for its kernel."""

    backend: Backend
    plan: Plan
    operands: Operands


class _Argument(NamedTuple):
    """An argument beside the logits, and what the rules may know of it."""

    value: Any
    spec: Spec
    on_host: bool


def prepare(
    backend: Backend,
    logits: Array,
    labels: Any,
    class_weight: Any,
    sample_weight: Any,
    normalizer: Any,
    options: tuple[Any, ...],
) -> Call:
    """Check everything that can be checked (R26), and bring all arrays to the logits (R2)."""
    key = None
    if class_weight is None and sample_weight is None and normalizer is None:
        key = familiar.key_of(backend, logits, labels, options)
        known = None if key is None else familiar.plan_of(key, backend, labels)
        if known is not None:
            return Call(backend, known, Operands(logits, labels, None, None, None))
    reason = backend.refusal(logits)
    if reason is not None:
        raise BackendError(messages.refused("logits", _kind(logits), reason))
    arguments = (
        _argument(backend, logits, labels, "labels"),
        _optional(backend, logits, class_weight, "class_weight"),
        _optional(backend, logits, sample_weight, "sample_weight"),
        _optional(backend, logits, _number(normalizer), "normalizer"),
    )
    specs = [None if argument is None else argument.spec for argument in arguments]
    types = tuple(map(type, options))
    problem = Problem._make((backend.spec(logits), *specs, *options, types, backend.same_size))
    try:
        plan = plan_for(problem)
        if isinstance(plan.num_classes, int) and plan.num_classes == 1:
            warnings.warn(messages.single_class(problem), SingleClassWarning, stacklevel=4)
        call = _looked_at(backend, plan, logits, *arguments)
    except LossInputError as error:
        _diagnose(error, backend, problem, logits, arguments[0])
        raise
    if key is not None:
        familiar.remember(key, plan)
    elif call.plan.is_bare:
        call = call._replace(plan=call.plan._replace(is_bare=False))
    if plan.check is True:
        for suspicion in _suspicions(backend, plan, problem, logits, arguments[0], arguments[2]):
            warnings.warn(suspicion, stacklevel=4)
    return call


def _argument(backend: Backend, logits: Array, value: Any, name: str) -> _Argument:
    """An argument of the logits' library, or host data as a NumPy array."""
    if backend.owns(value):
        reason = backend.refusal(value)
        if reason is not None:
            raise BackendError(messages.refused(name, _kind(value), reason))
        reason = backend.combinable(logits, value)
        if reason is not None:
            raise BackendError(messages.cannot_combine(name, reason, backend.move(name)))
        if backend.NAME != "numpy":
            return _Argument(value, backend.spec(value), on_host=False)
    if not host.is_host_data(value):
        dense = f"{name}.todense()" if hasattr(type(value), "todense") else name
        fix = f"convert it first: {backend.convert(dense)}"
        raise BackendError(messages.foreign(name, backend.spec(logits).library, _kind(value), fix))
    reason = host.refusal(value)
    if reason is not None:
        raise BackendError(messages.refused(name, _kind(value), reason))
    array = host.as_numpy(value, name)
    return _Argument(host.in_bytes(array), host.spec(value, array), on_host=True)


def _optional(backend: Backend, logits: Array, value: Any, name: str) -> _Argument | None:
    return None if value is None else _argument(backend, logits, value, name)


def _number(normalizer: Any) -> Any:
    """A normalizer that is no array, as a float."""
    if normalizer is None or rules.is_array(normalizer):
        return normalizer
    return rules.normalizer(normalizer)


def _looked_at(
    backend: Backend,
    plan: Plan,
    logits: Array,
    labels: _Argument,
    class_weight: _Argument | None,
    sample_weight: _Argument | None,
    normalizer: _Argument | None,
) -> Call:
    """Look at the values that may be looked at, and bring the arguments to the logits."""

    def bring(argument: _Argument | None, dtype: str) -> Array:
        if argument is None or not argument.on_host:
            return None if argument is None else argument.value
        return backend.from_host(argument.value, logits, dtype)

    _check_normalizer(backend, plan, normalizer)
    if plan.check is not False:
        plan = _check_labels(backend, plan, labels, sample_weight)
    dtype = labels_dtype = plan.compute_dtype
    if plan.label_kind == "index":
        labels_dtype = "int32"
        if labels.on_host and (plan.below or plan.above or plan.ignore_index is not None):
            codes = host.encoded(labels.value, plan.num_classes, plan.ignore_index)
            labels = labels._replace(value=codes)
            plan = plan._replace(
                labels_dtype=labels_dtype,
                ignore_index=host.DROPPED,
                below=plan.below or plan.above,
                above=not isinstance(plan.num_classes, int),
            )
    operands = Operands(
        logits,
        bring(labels, labels_dtype),
        bring(class_weight, dtype),
        bring(sample_weight, "bool" if plan.sample_weight == "mask" else dtype),
        bring(normalizer, dtype),
    )
    return Call(backend, plan, operands)


def _check_normalizer(backend: Backend, plan: Plan, normalizer: _Argument | None) -> None:
    """R8: refuse a normalizer <= 0 where it can be read for free."""
    value = _values(backend, normalizer, wait=False)
    if value is not None:
        rules.held("normalizer", rules.normalizer(value.item()), plan.compute_dtype)


def _check_labels(
    backend: Backend, plan: Plan, labels: _Argument, sample_weight: _Argument | None
) -> Plan:
    """R17: look at label values where that is free, or asked for.

    Returns the plan with what is known then.
    """
    wait = plan.check is True
    values = None
    if wait or plan.label_kind == "index":
        values = _values(backend, labels, wait=wait)
    if values is None:
        return plan

    def weight_drops() -> Any:
        return _weight_drops(backend, plan, values, sample_weight)

    if plan.label_kind == "index":
        return host.check_index_labels(plan, values, weight_drops)
    drops = weight_drops()
    if drops is not None:
        host.check_dense_labels(plan, values, drops)
    return plan


def _weight_drops(
    backend: Backend, plan: Plan, labels: Array, sample_weight: _Argument | None
) -> Any:
    """Where the sample weight drops the example; None if that cannot be known."""
    weights = _values(backend, sample_weight, wait=plan.check is True)
    if weights is None:
        return None if sample_weight is not None else False
    missing = labels.ndim - plan.labels_have_axis - weights.ndim
    return (weights == 0).reshape(weights.shape + (1,) * missing)


def _diagnose(
    error: LossInputError, backend: Backend, problem: Problem, logits: Array, labels: _Argument
) -> None:
    """Add to an error what the call, and labels that may be read (R17), tell of its cause."""
    from unified_loss._diagnosis import extend, values_of

    values = None
    if problem.check is not False:
        values = _values(backend, labels, wait=problem.check is True)
    if values is not None:
        within = (error.smallest, error.largest) if isinstance(error, LabelError) else None
        values = values_of(values, problem.ignore_index, within)
    extend(error, problem, values, (logits, labels.value))


def _suspicions(
    backend: Backend,
    plan: Plan,
    problem: Problem,
    logits: Array,
    labels: _Argument,
    sample_weight: _Argument | None,
) -> Iterator[LossInputWarning]:
    """Under ``check=True``: what is legal, and probably not meant."""
    stages: list[Any] = []
    scores, values = backend.read(logits, wait=True), _values(backend, labels, wait=True)
    if scores is not None and host.is_softmax_output(plan, scores):
        stages.append("softmax")
    if values is not None and plan.label_kind == "index" and host.all_ignored(plan, values):
        stages.append("ignored")
    if values is not None and plan.label_kind == "dense":
        drops = _weight_drops(backend, plan, values, sample_weight)
        if drops is not None and not host.sums_to_one(plan, values, drops):
            stages.append("rows")
    if stages:
        from unified_loss._diagnosis import suspicion, values_of

        seen = None if values is None else values_of(values)
        for stage in stages:
            yield suspicion(stage, problem, plan.axis, seen)


def _values(backend: Backend, argument: _Argument | None, *, wait: bool) -> Any:
    """The values of an argument as a NumPy array, if they can be read."""
    if argument is None or argument.spec.dtype not in rules.REAL | {"bool"}:
        return None
    return argument.value if argument.on_host else backend.read(argument.value, wait=wait)


def _kind(value: Any) -> str:
    return messages.name_of(type(value))
