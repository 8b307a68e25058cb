"""The way of a call: everything checked, and every argument brought to the logits."""

import warnings
from typing import Any, NamedTuple

from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._dispatch import backend_of
from unified_loss._plan import make_plan, plan_for
from unified_loss._types import Array, Backend, Operands, Plan, Problem, Spec
from unified_loss.exceptions import (
    BackendError,
    LossInputWarning,
    OptionError,
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
    logits: Array,
    labels: Any,
    class_weight: Any,
    sample_weight: Any,
    normalizer: Any,
    options: tuple[Any, ...],
) -> Call:
    """Check everything that can be checked (R26), and bring all arrays to the logits (R2)."""
    backend = backend_of(logits)
    reason = backend.refusal(logits)
    if reason is not None:
        raise BackendError(messages.refused("logits", _kind(logits), reason))
    arguments = (
        _argument(backend, logits, labels, "labels"),
        _optional(backend, logits, class_weight, "class_weight"),
        _optional(backend, logits, sample_weight, "sample_weight"),
        _optional(backend, logits, _number(normalizer), "normalizer"),
    )
    problem = Problem(
        backend.spec(logits),
        *(None if argument is None else argument.spec for argument in arguments),
        *options,
        option_types=tuple(map(type, options)),
        same=backend.same_size,
    )
    plan = make_plan(problem) if backend.is_tracing() else plan_for(problem)
    if plan.num_classes == 1 and isinstance(plan.num_classes, int):
        warnings.warn(messages.single_class(problem), SingleClassWarning, stacklevel=3)
    return _checked(backend, plan, logits, *arguments)


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
        fix = f"convert it first: {backend.convert(name)}"
        raise BackendError(messages.foreign(name, backend.NAME, _kind(value), fix))
    reason = host.refusal(value)
    if reason is not None:
        raise BackendError(messages.refused(name, _kind(value), reason))
    array = host.as_numpy(value, name)
    library = "numpy" if hasattr(value, "dtype") else "python"
    return _Argument(array, Spec(library, array.shape, host.dtype_name(array)), on_host=True)


def _optional(backend: Backend, logits: Array, value: Any, name: str) -> _Argument | None:
    return None if value is None else _argument(backend, logits, value, name)


def _number(normalizer: Any) -> Any:
    """A normalizer that is no array, as a float."""
    if normalizer is None or rules.is_array(normalizer):
        return normalizer
    return rules.number("normalizer", normalizer, "a positive number")


def _checked(
    backend: Backend,
    plan: Plan,
    logits: Array,
    labels: _Argument,
    class_weight: _Argument | None,
    sample_weight: _Argument | None,
    normalizer: _Argument | None,
) -> Call:
    """Look at the values that may be looked at, and bring the arguments to the logits."""

    def values(argument: _Argument | None) -> Any:
        """R17: values that can be read for free, or that ``check=True`` asks to wait for."""
        if argument is None or argument.on_host:
            return None if argument is None else argument.value
        return backend.read(argument.value, wait=plan.check is True)

    def bring(argument: _Argument | None, dtype: str) -> Array:
        if argument is None or not argument.on_host:
            return None if argument is None else argument.value
        return backend.from_host(argument.value, logits, dtype)

    def weight_drops() -> Any:
        """Where the sample weight drops the example; None if that cannot be known."""
        if sample_weight is None:
            return False
        weights = values(sample_weight)
        if weights is None:
            return None
        return (weights == 0).reshape(weights.shape + (1,) * (plan.ndim - 1 - weights.ndim))

    _check_normalizer(backend, normalizer)
    dtype = plan.compute_dtype
    if plan.label_kind == "index":
        if plan.check is not False:
            read = values(labels)
            if read is not None:
                host.check_index_labels(plan, read, weight_drops)
        if labels.on_host:
            codes = host.encoded(labels.value, plan.num_classes, plan.ignore_index)
            labels = labels._replace(value=codes)
            plan = plan._replace(
                labels_dtype="int32", ignore_index=host.DROPPED, below=True, above=False
            )
        brought = bring(labels, "int32")
    else:
        if plan.check is True:
            read = values(labels)
            text = None if read is None else host.check_dense_labels(plan, read, weight_drops())
            if text is not None:
                warnings.warn(text, LossInputWarning, stacklevel=4)
        brought = bring(labels, dtype)
    return Call(
        backend,
        plan,
        Operands(
            logits,
            brought,
            bring(class_weight, dtype),
            bring(sample_weight, "bool" if plan.sample_weight == "mask" else dtype),
            bring(normalizer, dtype),
        ),
    )


def _check_normalizer(backend: Backend, normalizer: _Argument | None) -> None:
    """R8: refuse a normalizer <= 0 where it can be read for free."""
    if normalizer is None:
        return
    value = normalizer.value if normalizer.on_host else backend.read(normalizer.value, wait=False)
    if value is not None and not float(value) > 0:
        raise OptionError(messages.option("normalizer", float(value), "a number > 0"))


def _kind(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
