"""What is said of a call of the linear form: its logits, its walk and its memory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from unified_loss._backend import Backend, LinearRoute
from unified_loss._explain._memory import BYTES, NUMBERS_PER_EXAMPLE, memory_of, shown_bytes
from unified_loss._linear import _walks as walks
from unified_loss._shown import described, shown, shown_size, shown_value
from unified_loss._types import Form, Head, Operands, Problem

Fact = tuple[str, str]


class Way(NamedTuple):
    """How a call goes, and what it takes beside its arguments, in bytes."""

    kernel: str
    sentence: str
    alone: int  # the loss
    with_gradients: int  # beside the gradients themselves
    gradients: int
    logits: int  # which the two steps make


def way_of(backend: Backend, problem: Problem, form: Form) -> Way | None:
    """The way of a call; None where a size is not known."""
    head, plan = problem.head, form.plan
    specs = [part for part in head if part is not None]
    if not all(isinstance(size, int) for spec in specs for size in spec.shape or (None,)):
        return None
    rows, classes, features = walks.sizes_of(head)
    width: int = BYTES[plan.compute_dtype]
    logits: int = rows * classes * width
    gradients = sum(BYTES[spec.dtype] * _count(spec.shape) for spec in specs)
    route = backend.linear_route(form, head)
    if route.alone is None:
        step = backend.route(plan, rows * classes)
        found = memory_of(problem, plan, step)
        more = 0 if found is None else found.size
        kernel = f"two steps: {step.name}"
        return Way(kernel, _two_steps(route, rows * classes), logits + more, 2 * logits + more,
                   gradients, logits)  # fmt: skip
    is_by_rows = route.with_gradients.by == "rows"
    kernel = "by classes, by rows with gradients" if is_by_rows else "by classes"
    alone, together = (
        tiles * tour.rows * tour.classes + NUMBERS_PER_EXAMPLE * rows
        + _casts(route, tour, head, plan.compute_dtype)
        for tour, tiles in zip((route.alone, route.with_gradients), route.tiles, strict=True)
    )  # fmt: skip
    tour = route.with_gradients
    if is_by_rows:  # beside a capped block its gradient
        together += tour.rows * classes * (form.softcap is not None)
    else:  # the part of a tile in the gradient of the weight, or those of all tiles
        together += (classes if route.keeps_weight else tour.classes) * features
        together += rows * features * (head.hidden.dtype != plan.compute_dtype)
        together += tour.rows * tour.classes // 3 * (form.softcap is not None)
    return Way(kernel, _walks(route), width * alone, width * together, gradients, logits)


def _casts(route: LinearRoute, tour: walks.Tour, head: Head, compute_dtype: str) -> int:
    """How many numbers of hidden and weight are held in the compute dtype at once."""
    rows, classes, features = walks.sizes_of(head)
    if not route.casts_all:
        rows, classes = tour.rows, tour.classes
    of_hidden: int = (head.hidden.dtype != compute_dtype) * rows * features
    of_weight: int = (head.weight.dtype != compute_dtype) * classes * features
    return of_hidden + of_weight


def facts_of(problem: Problem, form: Form, way: Way | None, missing: str) -> Iterator[Fact]:
    """The facts that stand in the place of kernel and memory; `missing` where there is no way."""
    if way is None:
        yield "walk", missing
        yield "memory", missing
    else:
        yield "walk", way.sentence
        alone, together, gradients, logits = map(shown_bytes, way[2:])
        beside = f"about {alone} of arrays beside the arguments; with gradients {together}"
        themselves = f"{beside}, and {gradients} for themselves"
        yield "memory", f"{themselves}. The logits of the two steps are {logits}."
    yield "code", code_of(problem, form)


def logits_fact(problem: Problem, form: Form, way: Way | None) -> str:
    """What the logits are, and whether they are made."""
    bias = "" if problem.head.bias is None else " + bias"
    cap = "" if form.softcap is None else f", below a cap of {form.softcap:g}"
    made = "" if way is None else ", made" if way.kernel.startswith("two") else ", never made"
    spec = problem.logits
    shape = "of unknown rank" if spec.shape is None else shown(spec.shape)
    return f"hidden times weight transposed{bias}{cap}: {spec.dtype} {shape}{made}"


def classes_fact(problem: Problem) -> str:
    """Where the number of classes comes from."""
    classes = None if problem.head.weight.shape is None else problem.head.weight.shape[0]
    return f"{shown_size(classes)}, the rows of weight; the last axis of the logits"


def code_of(problem: Problem, form: Form) -> str:
    """The call, as it is written."""
    options: dict[str, Any] = {}
    if problem.head.bias is not None:
        options["bias"] = "bias"
    if form.softcap is not None:
        options["softcap"] = f"{form.softcap:g}"
    arrays = Operands._fields[2:]
    options |= {name: name for name in arrays if getattr(problem, name) is not None}
    given_options = problem.options._asdict()
    options |= {
        name: shown_value(given_options[name])
        for name, usual in _USUAL.items()
        if given_options[name] != usual
    }
    written = "".join(f", {name}={value}" for name, value in options.items())
    if form.plan.class_group is not None:
        written += ", class_group=class_group"
    return f"linear_cross_entropy(hidden, weight, labels{written})"


_USUAL = {"ignore_index": -100, "label_smoothing": 0, "z_loss": 0, "reduction": "mean",
          "check": "auto"}  # fmt: skip


def has_no_logits(problem: Problem) -> bool:
    """Whether the parts of the linear form make no logits, or were not asked for them yet."""
    return problem.head is not None and problem.logits is problem.head.hidden


def headline(problem: Problem) -> str:
    """The arguments of a call."""
    hidden, weight, bias = problem.head
    parts = {"hidden": hidden, "weight": weight, "bias": bias, "labels": problem.labels}
    return ", ".join(f"{name} {described(one)}" for name, one in parts.items() if one is not None)


def _walks(route: LinearRoute) -> str:
    alone, together = map(_walk, (route.alone, route.with_gradients))
    if alone == together:
        return f"{alone}, for the loss and for the gradients"
    return f"for the loss alone {alone}; with gradients {together}"


def _walk(tour: walks.Tour) -> str:
    if tour.by == "rows":
        return f"by rows, all classes of {tour.rows:,} examples at a time"
    return f"by classes, {tour.classes:,} classes of {tour.rows:,} examples at a time"


def _two_steps(route: LinearRoute, number: int) -> str:
    if route.is_lazy:
        return "two steps, the logits and their loss, chunk by chunk"
    if number <= walks.TWO_STEPS:
        return f"two steps, the logits and their loss: up to {walks.TWO_STEPS:,} of them are few"
    return "two steps, the logits and their loss: this call has no walk in this library"


def _count(shape: Any) -> int:
    number = 1
    for size in shape:
        number *= size
    return number
