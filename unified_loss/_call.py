"""The way of a call: everything checked, and every argument brought to the logits."""

import math
import sys
import warnings
from numbers import Number
from typing import Any, NamedTuple

from unified_loss import _columns as columns
from unified_loss import _host as host
from unified_loss import _labels as label_values
from unified_loss import _messages as messages
from unified_loss import _offered as offered
from unified_loss import _plan as plans
from unified_loss import _rules as rules
from unified_loss._backend import Backend, Route
from unified_loss._dispatch import ALIASES, explain_object
from unified_loss._labels import Argument
from unified_loss._offered import Offer
from unified_loss._shapes import same_size
from unified_loss._shown import name_of
from unified_loss._types import Array, Head, Operands, Options, Plan, Problem, Same, Spec
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
    problem: Problem

    @property
    def route(self) -> Route:
        """Which kernel serves it."""
        sizes = self.problem.logits.shape or ()
        size = math.prod(size for size in sizes if isinstance(size, int))
        return self.backend.route(self.plan, size)


class Taken(NamedTuple):
    """The arguments beside the logits, as the rules and the kernels want them."""

    labels: Argument
    class_weight: Argument | None
    sample_weight: Argument | None
    normalizer: Argument | None

    def beside(
        self, logits: Spec, options: Options, same: Same, head: Head | None = None
    ) -> Problem:
        """The problem of logits, or of hidden states and their head, beside these arguments."""
        labels, *weights = self
        class_weight, sample_weight, normalizer = (
            None if weight is None else weight.spec for weight in weights
        )
        return Problem(
            logits, labels.spec, class_weight, sample_weight, normalizer, options, same, head
        )


def prepare(
    backend: Backend,
    arrays: Operands,
    options: Options,
    *,
    looks: bool = True,
    afresh: bool = False,
) -> Call:
    """Check everything that can be checked (R26), and bring all arrays to the logits (R2).

    Without `looks`, class ids may be left to a kernel that finds wrong ones itself. `afresh`: as
    if it were the first call.
    """
    if "keras" in sys.modules:
        _refuse_labels_first()
    key = None if afresh else plans.key_of(backend, arrays, options)
    seen = None if key is None else plans.seen(key, backend, arrays, looks=looks)
    if seen is not None:
        return Call(backend, seen[0], arrays, seen[1])
    taken = taken_of(backend, arrays, options)
    problem = taken.beside(backend.spec(arrays.logits), options, backend.same_size)
    try:
        judged = plans.make_plan(problem)._replace(device=backend.device(arrays.logits))
        if judged.class_group is not None:
            judged = judged._replace(class_group=backend.group(judged.class_group))
        check_normalizer(judged, taken.normalizer)
        if isinstance(judged.num_classes, int) and judged.num_classes == 1:
            warn(SingleClassWarning(messages.single_class(problem)))
        plan = label_values.told(judged, taken.labels, taken.sample_weight)
    except LossInputError as error:
        diagnose(error, problem, arrays.logits, taken.labels)
        raise
    # Of split classes, the values here are parts of those to look at.
    is_odd = plan.class_group is None and _warn_of_values(
        backend, plan, problem, arrays.logits, taken
    )
    if key is not None and not is_odd:
        plans.remember(key, judged, problem, backend)
    plan, operands = brought_to(plan, arrays.logits, taken)
    is_ordinary = key is not None or backend.outline(*operands) is not None
    return Call(backend, plan._replace(is_ordinary=is_ordinary), operands, problem)


def _warn_of_values(
    backend: Backend, plan: Plan, problem: Problem, logits: Array, taken: Taken
) -> bool:
    """Warn of values that are legal, and probably not meant, as far as they may be looked at.

    Returns whether the arguments look swapped.
    """
    if plan.check is True:
        warn_of_suspicions(backend, plan, problem, logits, taken)
    elif label_values.are_scores(plan, taken.labels) and label_values.are_probabilities(
        plan, backend.read(logits, wait=False)
    ):
        by_keras = _caller() == _KERAS
        text = messages.rows_of_scores(by_keras=by_keras)
        warn(swapped(LossInputWarning, text, instead=messages.SWAP_IN_KERAS if by_keras else ""))
        return True
    elif plan.label_kind == "dense" and label_values.has_several_ones(
        plan, taken.labels, taken.sample_weight
    ):
        warn_of("several", problem, plan, taken.labels)
    return False


def _refuse_labels_first() -> None:
    """R1: Keras has another order, in which floating labels of the logits' shape would train."""
    if _caller().startswith(_LABELS_FIRST):
        raise LossInputError(messages.labels_come_first())


def _caller() -> str:
    """The module that called the public function."""
    frame: Any = sys._getframe(1)  # noqa: SLF001 (there is no other way to it)
    while frame is not None and frame.f_globals.get("__name__") in _WAY:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__"))


def swapped(kind: Any, text: str, *, instead: str = "") -> Any:
    """The error or warning of arguments in the other order; what to do where Keras gives them."""
    offer = Offer(instead) if instead else offered.SWAP
    return kind(offered.told(text, offer, cause=offered.SWAPPED))


def taken_of(backend: Backend, arrays: Operands, options: Options, first: str = "logits") -> Taken:
    """R2: the arguments, each of the library of the first one, or host data."""
    logits, labels, class_weight, sample_weight, normalizer = arrays
    reason = backend.refusal(logits)
    if reason is not None:
        raise BackendError(
            messages.refused(first, _kind(logits), reason, rules.attribute(logits, "dtype"))
        )
    look = options.check if isinstance(options.check, bool) else "auto"

    def optional(value: Any, name: str, look: Any) -> Argument | None:
        return None if value is None else argument(backend, logits, value, name, look, first)

    taken = argument(backend, logits, labels, "labels", look, first)
    if isinstance(class_weight, str):
        spec = backend.spec(logits)
        head = None if first == "logits" else Head(spec, spec._replace(shape=None), None)
        problem = Problem(spec, taken.spec, None, None, None, options, same_size, head)
        raise weights_by_name(class_weight, problem)
    return Taken(
        taken,
        optional(class_weight, "class_weight", look),
        optional(sample_weight, "sample_weight", look),
        optional(number(normalizer), "normalizer", "auto"),
    )


def weights_by_name(value: str, problem: Problem) -> BackendError:
    """R7: class weights that are named, with the code that makes them of the labels of the call."""
    try:
        from unified_loss._diagnosis._weights import balanced

        code = balanced(problem)
    except Exception:  # noqa: BLE001 (labels that do not fit have nothing to count)
        code = None
    return BackendError(messages.balanced(value, code))


def argument(
    backend: Backend, logits: Array, value: Any, name: str, look: Any, first: str = "logits"
) -> Argument:
    """An argument of the library of the first one, or host data as a NumPy array."""
    if backend.owns(value):
        reason = backend.refusal(value)
        if reason is not None:
            raise BackendError(
                messages.refused(name, _kind(value), reason, rules.attribute(value, "dtype"))
            )
        reason = backend.combinable(logits, value)
        if reason is not None:
            fix = backend.move(_on_host(backend, value, name))
            raise BackendError(messages.cannot_combine(name, reason, fix, first))
        if backend.name != "numpy":
            return Argument(backend, value, backend.spec(value), on_host=False, look=look)
    try:
        value = _host_data(backend, logits, value, name, first)
    except BackendError as error:
        explain_object(error, name, value, backend.spec(logits).library)
        raise
    array = host.as_numpy(value, name)
    spec = host.spec(value, array)
    return Argument(backend, host.in_bytes(array), spec, on_host=True, look=look)


def _host_data(backend: Backend, logits: Array, value: Any, name: str, first: str) -> Any:
    """Host data as they are, columns as a NumPy array; `BackendError` for anything else."""
    value = columns.as_host(value, name)
    if host.is_host_data(value):
        return value
    told = columns.text(value, name)
    if told is None:
        kind, offer = _kind(value), offered.NUMBERS
        held = host.array_in(value)
        if rules.is_array(value):
            offer = offered.converted(name, backend.convert(_on_host(backend, value, name)))
            if name == "weight" and hasattr(value, "__jax_array__"):  # of Flax or Keras
                side = "it has a row for each class (a kernel, (D, C), has a column: weight.T)"
                offer = offered.on_condition(side, offer.text, offer.code)
        elif held is not None:
            kind += " of arrays"
            offer = _stacked(backend.spec(logits).library, value, held, name) or offer
        told = messages.foreign(name, backend.spec(logits).library, kind, offer, first)
    raise BackendError(told)


def _stacked(library: str, value: Any, held: Array, name: str) -> Offer | None:
    """An array of a list of a library's arrays, and of numbers beside them."""
    from unified_loss._diagnosis._operations import expression

    package = rules.package_of(type(held))
    if ALIASES.get(package, package) != library:
        return None
    if not all(rules.is_array(entry) or isinstance(entry, Number) for entry in host.entries(value)):
        return None
    code = expression(library, name, (("stack", all(map(rules.is_array, value))),))
    return offered.converted(name, code, "make an array of them") if code else None


def _on_host(backend: Backend, value: Any, name: str) -> str:
    """Code of an argument that any library can read: NumPy refuses a tensor with a gradient."""
    is_foreign = backend.name != "torch" and hasattr(type(value), "requires_grad_")
    return f"{name}.detach().cpu().numpy()" if is_foreign else name


def number(normalizer: Any) -> Any:
    """A normalizer that is no array, as a float."""
    if normalizer is None or rules.is_array(normalizer):
        return normalizer
    return rules.normalizer(normalizer)


def check_normalizer(plan: Plan, normalizer: Argument | None) -> None:
    """R8: refuse a normalizer <= 0 where it can be read for free."""
    value = None if normalizer is None else normalizer.values
    if value is not None and value != float("inf"):  # which is held everywhere
        rules.held("normalizer", rules.normalizer(value.item()), plan.compute_dtype)


def brought_to(plan: Plan, logits: Array, taken: Taken) -> tuple[Plan, Operands]:
    """The arguments where the logits are; index labels on the host as codes of 32 bits."""
    labels = taken.labels
    dtype = labels_dtype = plan.compute_dtype
    if plan.label_kind == "index":
        labels_dtype = "int32"
        if labels.on_host and (plan.below or plan.above or plan.ignore_index is not None):
            labels.value = host.encoded(labels.value, plan.num_classes, plan.ignore_index)
            plan = plan._replace(
                labels_dtype=labels_dtype,
                ignore_index=host.DROPPED,
                below=plan.below or plan.above,
                above=not isinstance(plan.num_classes, int),
            )
    dtypes = (labels_dtype, dtype, "bool" if plan.sample_weight == "mask" else dtype, dtype)
    brought = (
        None if argument is None else argument.bring(logits, dtype)
        for argument, dtype in zip(taken, dtypes, strict=True)
    )
    return plan, Operands(logits, *brought)


def diagnose(
    error: LossInputError,
    problem: Problem,
    logits: Array | None = None,
    labels: Argument | None = None,
) -> None:
    """Add to an error what the call, and labels that may be read (R17), tell of its cause.

    Whatever goes wrong here, the error itself is what people have to see.
    """
    try:
        from unified_loss._diagnosis import extend, values_of

        values = None if labels is None else labels.values
        if values is not None:
            within = (error.smallest, error.largest) if isinstance(error, LabelError) else None
            values = values_of(values, problem.options.ignore_index, within)
        if _caller() == _KERAS:
            problem = problem._replace(framework="keras")
        extend(error, problem, values, (logits, None if labels is None else labels.value))
    except Exception:  # noqa: BLE001, S110
        pass


def warn_of_suspicions(
    backend: Backend, plan: Plan, problem: Problem, logits: Array | None, taken: Taken
) -> None:
    """R17: what is legal under ``check=True``, and probably not meant."""
    scores = None if logits is None else backend.read(logits, wait=True)
    stages = label_values.suspicions(plan, scores, taken.labels, taken.sample_weight)
    if "rows" in stages and scores is not None and _is_rather_a_batch(plan, problem, taken.labels):
        stages[stages.index("rows")] = "one row"
    for stage in stages:
        warn_of(stage, problem, plan, taken.labels)


def _is_rather_a_batch(plan: Plan, problem: Problem, labels: Argument) -> bool:
    """Whether the row of one example (R4) is rather the labels of many, with a score for each.

    Logits without values may be a row of many all the same, which a function is mapped over.
    """
    is_open = plan.ndim == 1 and plan.num_classes != 1 and problem.options.axis is None
    return is_open and labels.values is not None and label_values.is_far_from_one(labels.values)


def warn_of(stage: Any, problem: Problem, plan: Plan, labels: Argument) -> None:
    """Warn of inputs that are legal, and probably not meant."""
    from unified_loss._diagnosis import suspicion, values_of

    values = labels.values
    seen = None if values is None else values_of(values)
    warn(suspicion(stage, problem, plan.axis, seen))


# The modules that a call goes through until here.
_WAY = frozenset({"unified_loss._call", "unified_loss._cross_entropy"})
_LABELS_FIRST = "keras.src.losses", "keras.src.metrics"  # where Keras calls functions of people
_KERAS = "unified_loss.integrations.keras"
# A loss is called by these on behalf of the people who called them.
_BETWEEN = frozenset({
    "accelerate", "jax", "keras", "lightning", "pytorch_lightning", "skorch", "tensorflow",
    "torch", "transformers", "unified_loss",
})  # fmt: skip


def warn(warning: LossInputWarning) -> None:
    """Warn at the line that people wrote."""
    frame, steps = sys._getframe(1), 3  # noqa: SLF001 (there is no other way to it)
    while frame.f_back is not None:
        frame = frame.f_back
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
            break
        steps += 1
    warnings.warn(warning, stacklevel=steps)


def _kind(value: Any) -> str:
    return name_of(type(value))
