"""Checks of `class_group` on plain tensors, for the processes of `torch_processes` (R33)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import Problem, sample
from tests.helpers.torch_cases import CASES, EVERYTHING, TORCH, problem_of
from unified_loss import (
    AmbiguousAxisError,
    BackendError,
    LossInputError,
    OptionError,
    cross_entropy,
    cross_entropy_with_grad,
    explain,
)
from unified_loss.integrations.torch import CrossEntropyLoss

Call = dict[str, Any]
REDUCE = distributed.all_reduce
WEIGHTED = {name: EVERYTHING[name] for name in ("class_weight", "label_smoothing", "z_loss")}


def seeded() -> np.random.Generator:
    """The same numbers in every process."""
    return np.random.default_rng(11)


def exact(problem: Problem) -> Call:
    """The arrays of a problem, all that is floating in float64."""
    call = TORCH.place(problem, "float64")
    return {
        name: value.double() if value.is_floating_point() else value for name, value in call.items()
    }


def parts_of(classes: int) -> Iterator[slice]:
    """The classes of this process: split evenly, unevenly, and with none for the first."""
    world, rank = distributed.get_world_size(), distributed.get_rank()
    for bounds in (
        [round(i * classes / world) for i in range(world + 1)],
        [*range(world), classes],
        [0, *(round(i * classes / (world - 1)) for i in range(world))],
    ):
        yield slice(bounds[rank], bounds[rank + 1])


def own(call: Call, classes: slice, axis: int) -> Call:
    """The arguments that this process has: its classes, and all of what has none.

    Class ids are without the class axis, as those of a process with one class must be.
    """
    group = {"class_group": distributed.group.WORLD}

    def cut(name: str, value: Any) -> Any:
        if name == "class_weight":
            return value[classes]
        if name == "labels" and not value.is_floating_point():
            return value.squeeze(axis) if value.ndim == call["logits"].ndim else value
        has_classes = name in {"logits", "labels"}
        return value.movedim(axis, 0)[classes].movedim(0, axis) if has_classes else value

    return {name: cut(name, value) for name, value in call.items()} | group


def derived(call: Call, options: Call) -> dict[str, Any]:
    """The loss, and the gradients of a sum of losses in all floating arguments."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in call.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    loss = cross_entropy(**call | leaves, **options)
    upstream = torch.arange(1.0, loss.numel() + 1, dtype=loss.dtype).reshape(loss.shape)
    (loss * upstream).sum().backward()
    return {"loss": loss.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def assert_split(call: Call, options: Call, axis: int) -> None:
    """Loss and gradients of split classes are those of the whole, in each way to split them."""
    truth = derived(call, options)
    with torch.no_grad():
        _, closed = cross_entropy_with_grad(**call, **options)
    for classes in parts_of(call["logits"].shape[axis]):
        part = own(call, classes, axis)
        wanted = own(truth, classes, axis)
        found = derived(part, options)
        with torch.no_grad():
            found["closed loss"], found["closed"] = cross_entropy_with_grad(**part, **options)
        wanted["closed loss"] = truth["loss"]
        wanted["closed"] = own({"logits": closed}, classes, axis)["logits"]
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name], 1e-10, 1e-12, err_msg=name)


def split_values_and_gradients() -> None:
    """Every option and reduction, of class ids and of label rows, against the whole."""
    for kind, weighted, weight, (smoothing, z_loss), division in itertools.product(
        ("index", "dense"),
        (False, True),
        (None, "full"),
        ((0.0, 0.0), (0.25, 0.125), (1.0, 0.0)),
        ({"reduction": "mean"}, {"reduction": "none"}, {"normalizer": 3.5}),
    ):
        problem = sample(
            seeded(), kind, classes=7, ignored=1, class_weight=weighted, sample_weight=weight,
            label_smoothing=smoothing, z_loss=z_loss, **division,
        )  # fmt: skip
        assert_split(exact(problem), problem.options, 1)
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, batch=(), classes=7, **WEIGHTED)
        assert_split(exact(problem), problem.options, 0)
    for case in CASES:
        problem = problem_of(case, seeded())
        assert_split(exact(problem), problem.options, problem.class_axis)


def split_ids_that_keep_their_axis() -> None:
    """R4: valid where each process has several classes, and refused where it has one."""
    world = distributed.get_world_size()
    for classes in (2 * world, world):
        call = exact(sample(seeded(), classes=classes))
        part = own(call, next(parts_of(classes)), 1)
        kept = part | {"labels": part["labels"][:, None]}
        if classes > world:
            torch.testing.assert_close(cross_entropy(**kept), cross_entropy(**call))
            continue
        try:
            cross_entropy(**kept)
        except AmbiguousAxisError:
            continue
        raise AssertionError(classes)


def split_in_small_dtypes() -> None:
    """R20: half precision is computed in float32; the gradient has the dtype of the logits."""
    for dtype in ("float32", "bfloat16"):
        problem = problem_of("everything", seeded())
        call = TORCH.place(problem, dtype)
        for classes in parts_of(problem.num_classes):
            part = own(call, classes, problem.class_axis)
            loss, slope = cross_entropy_with_grad(**part, **problem.options)
            assert (loss.dtype, slope.dtype) == (torch.float32, part["logits"].dtype)
            assert_accurate(loss.numpy(), problem, dtype)
            logits = part["logits"].requires_grad_()
            cross_entropy(**part, **problem.options).backward()
            np.testing.assert_allclose(logits.grad.float(), slope.float(), 1e-2, 1e-6)


def split_rows_that_do_not_count() -> None:
    """R15 to R18: dropped rows hold anything, and what is not finite elsewhere is NaN or inf."""
    rng = seeded()
    for kind, options in itertools.product(
        ("index", "dense"), ({}, {"label_smoothing": 0.25}, {"label_smoothing": 1.0}, WEIGHTED)
    ):
        shape: Call = {"batch": (9,), "classes": 6, "sample_weight": "full"}
        problem = sample(rng, kind, **shape, reduction="none", **options)
        logits, weight = problem.logits.copy(), problem.sample_weight.copy()
        labels = problem.labels.copy()
        weight[:4] = 0  # dropped: NaN, inf and -inf alone, and huge labels
        logits[0, 1], logits[1, 5], logits[2] = np.nan, np.inf, -np.inf
        logits[4, 2] = -np.inf  # a masked class, which a label may be on
        logits[5, 0], logits[6, 5], logits[7] = np.nan, np.inf, -np.inf
        if kind == "dense":
            labels[3, 1], labels[1, 4], labels[8] = np.inf, np.nan, 0
            logits[8] = np.nan  # dropped, as its labels are nothing
        else:
            labels[3], labels[8] = -7, 77
        rows = problem.but(logits=logits, labels=labels, sample_weight=weight)
        for each in (rows, rows.but(reduction="sum"), rows.but(reduction="mean")):
            assert_split(exact(each), {**each.options, "check": False}, 1)
    for options in ({}, {"label_smoothing": 0.25}, {"class_weight": True}):
        problem = sample(rng, "dense", classes=6, normalizer=3.5, **options)  # R15: it divides
        problem = problem.but(labels=np.zeros_like(problem.labels))
        assert_split(exact(problem), problem.options, 1)
    nothing = np.zeros(6, np.float32)
    for options in ({}, {"label_smoothing": 0.25}):  # no class has a weight
        problem = sample(rng, "dense", classes=6, class_weight=True, **options)
        for logits in (problem.logits, problem.logits * np.nan):
            for each in (problem, problem.but(labels=np.zeros(6, np.int32))):
                dropped = each.but(class_weight=nothing, logits=logits, reduction="sum")
                assert_split(exact(dropped), dropped.options, 1)


def split_padded_vocabularies() -> None:
    """R18: logits of -inf and, with smoothing, class weights of 0 are classes that there are not.

    The padding is with the last members, one of which may have nothing else.
    """
    problem = sample(seeded(), classes=5, ignored=1)
    call = exact(problem)
    logits = torch.nn.functional.pad(call["logits"], (0, 7), value=-torch.inf)
    weight = torch.nn.functional.pad(torch.ones(5, dtype=torch.float64), (0, 7))
    for options in ({}, {"class_weight": weight}, {"class_weight": weight, "z_loss": 0.125}):
        for smoothing in (0.0, 0.25) if options else (0.0,):
            padded = {**call, **options, "logits": logits}
            assert_split(padded, {"label_smoothing": smoothing}, 1)


def split_numbers_that_move() -> None:
    """Forward two all-reduces of at most 6 numbers a row; backward none."""
    world, rows = distributed.get_world_size(), 50
    for kind, options in itertools.product(("index", "dense"), ({}, EVERYTHING)):
        problem = sample(seeded(), kind, batch=(rows,), classes=8, **options)
        for classes in parts_of(8):
            part = own(TORCH.place(problem, "float32"), classes, 1)
            part["logits"].requires_grad_()
            moved: list[int] = []

            def counted(tensor: Any, *given: Any, moved: Any = moved, **named: Any) -> Any:
                moved.append(tensor.numel())
                return REDUCE(tensor, *given, **named)

            with CommDebugMode() as seen, mock.patch.object(distributed, "all_reduce", counted):
                loss = cross_entropy(**part, **problem.options)
            assert (len(moved), seen.get_total_counts()) == (2, 2)
            assert sum(moved) <= 6 * rows + world, moved
            with CommDebugMode() as seen:
                loss.backward()
            assert seen.get_total_counts() == 0


def split_derivatives() -> None:
    """R22: second derivatives, forward mode and `torch.func`; a map over rows is refused."""
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, classes=6, **EVERYTHING)
        call = exact(problem)
        direction = torch.tensor(seeded().standard_normal(problem.logits.shape))
        for classes in parts_of(6):
            truth, found = (
                _second(each, problem, towards)
                for each, towards in (
                    (call, direction),
                    (own(call, classes, 1), direction[:, classes]),
                )
            )
            for name, value in found.items():
                wanted = truth[name]
                wanted = wanted[:, classes] if wanted.ndim == 2 else wanted
                np.testing.assert_allclose(value, wanted, 1e-9, 1e-12, err_msg=name)


def _second(call: Call, problem: Problem, direction: Any) -> dict[str, Any]:
    """Second derivatives along a direction, in reverse and forward mode."""
    logits = call["logits"].clone().requires_grad_()

    def loss(logits: Any) -> Any:
        return cross_entropy(**call | {"logits": logits}, **problem.options)

    (slope,) = torch.autograd.grad(loss(logits), logits, create_graph=True)
    (twice,) = torch.autograd.grad((slope * direction).sum(), logits)
    _, closed = cross_entropy_with_grad(**call | {"logits": logits}, **problem.options)
    (again,) = torch.autograd.grad((closed * direction).sum(), logits)
    plain = logits.detach()

    def losses(logits: Any) -> Any:
        given = {**problem.options, "reduction": "none", "normalizer": None}
        return cross_entropy(**call | {"logits": logits}, **given)

    # Backward nothing moves, so that it can be mapped.
    mapped = torch.autograd.functional.jacobian(losses, plain, vectorize=True)
    return {
        "mapped": mapped.diagonal(dim1=0, dim2=1).T,
        "twice": twice,
        "closed": again,
        "func": torch.func.grad(loss)(plain),
        "forward": torch.func.jvp(loss, (plain,), (direction,))[1],
    }


def split_under_compilers() -> None:
    """R23: `torch.compile` in one graph, by a group or a mesh; and checkpoints."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for case, group, backend in (
        ("plain", distributed.group.WORLD, "eager"),
        ("everything", mesh, "aot_eager"),
    ):
        problem = problem_of(case, seeded())
        call = exact(problem)
        truth = derived(call, problem.options)
        part = own(call, next(parts_of(problem.num_classes)), 1) | {"class_group": group}

        def loss(logits: Any, part: Call = part, options: Call = problem.options) -> Any:
            return cross_entropy(**{**part, "logits": logits}, **options)

        def again(logits: Any, loss: Any = loss) -> Any:
            return torch.utils.checkpoint.checkpoint(loss, logits, use_reentrant=False)

        torch._dynamo.reset()
        for step in (torch.compile(loss, backend=backend, fullgraph=True), again, loss):
            logits = part["logits"].detach().clone().requires_grad_()
            value = step(logits)
            value.backward()
            wanted = own(truth, next(parts_of(problem.num_classes)), 1)
            np.testing.assert_allclose(value.detach(), truth["loss"], 1e-10)
            np.testing.assert_allclose(logits.grad, wanted["logits"], 1e-10, 1e-12)


def split_beside_rows() -> None:
    """R34: on a mesh whose other axis holds the rows, parts over one normalizer add up."""
    world = distributed.get_world_size()
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("rows", "classes"))
    problem = sample(seeded(), batch=(8,), classes=7, ignored=1)
    call = exact(problem)
    truth = derived(call, problem.options)
    at, of = mesh.get_local_rank("rows"), world // 2
    rows = slice(8 * at // of, 8 * (at + 1) // of)
    classes = (slice(0, 3), slice(3, 7))[mesh.get_local_rank("classes")]
    logits = call["logits"][rows, classes].clone().requires_grad_()
    loss = CrossEntropyLoss(class_group=mesh["classes"])(logits, call["labels"][rows], normalizer=7)
    loss.backward()
    total = loss.detach().clone()
    distributed.all_reduce(total, group=mesh.get_group("rows"))
    np.testing.assert_allclose(total, truth["loss"], 1e-10)
    np.testing.assert_allclose(logits.grad, truth["logits"][rows, classes], 1e-10, 1e-12)


def split_where_loss_parallel_fails() -> None:
    """The calls that torch's own `loss_parallel` refuses, or answers with a wrong number."""
    rng = seeded()
    problem = sample(rng, classes=10, ignored=1)
    dense = sample(rng, "dense", classes=10)
    ignored = problem.but(labels=np.full(6, -100, np.int32))
    for each in (
        problem.but(class_weight=dense.labels[0] + 0.25),
        problem.but(label_smoothing=0.125),
        dense,
        ignored,
    ):
        assert_split(exact(each), each.options, 1)
    call = exact(problem)
    part = own(call, next(parts_of(10)), 1)
    logits = part["logits"].requires_grad_()
    # Another softmax beside the loss, along an axis that is not split.
    other = torch.log_softmax(logits, 0)[0].sum()
    (cross_entropy(**part, **problem.options) + other).backward()
    whole = call["logits"].requires_grad_()
    (cross_entropy(**call) + torch.log_softmax(whole, 0)[0].sum()).backward()
    wanted = own({"logits": whole.grad}, next(parts_of(10)), 1)["logits"]
    np.testing.assert_allclose(logits.grad, wanted, 1e-10, 1e-12)


def split_mistakes() -> None:
    """What is no group, a mapped or a placed tensor: refused with the library's own errors."""
    world, rank = distributed.get_world_size(), distributed.get_rank()
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 5, 1])
    group = distributed.group.WORLD
    line = init_device_mesh("cpu", (world,))
    square = init_device_mesh("cpu", (1, world))
    others = distributed.new_group([0])
    spread = distribute_tensor(torch.zeros(3, 4), line, [Replicate()])
    refused: list[tuple[type[LossInputError], Callable[[], Any]]] = [
        (OptionError, lambda value=value: cross_entropy(logits, labels, class_group=value))
        for value in ("classes", 2, square, *([others] if rank else []))
    ]
    refused += [
        (BackendError, lambda: cross_entropy(spread, labels, class_group=group)),
        (BackendError, lambda: cross_entropy(logits.numpy(), labels.numpy(), class_group=group)),
        (
            BackendError,
            lambda: torch.vmap(lambda x: cross_entropy(x, [0, 1], class_group=group))(
                torch.zeros(2, 2, 4)
            ),
        ),
        (
            BackendError,
            lambda: torch.vmap(
                torch.func.grad(lambda x: cross_entropy(x, [0, 1], class_group=group))
            )(torch.zeros(2, 2, 4)),
        ),
    ]
    for error, call in refused:
        try:
            call()
        except error:
            continue
        message = f"no {error.__name__}"
        raise AssertionError(message)
    report = explain(logits, labels, class_group=group)
    assert report.valid
    assert "split classes" in report.kernel
    assert dict(report.facts)["class_group"].startswith("4 of the classes are here")


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        split_values_and_gradients,
        split_ids_that_keep_their_axis,
        split_in_small_dtypes,
        split_rows_that_do_not_count,
        split_padded_vocabularies,
        split_numbers_that_move,
        split_derivatives,
        split_under_compilers,
        split_beside_rows,
        split_where_loss_parallel_fails,
        split_mistakes,
    )
}
