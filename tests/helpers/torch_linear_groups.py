"""Checks of `class_group` of the linear form, for the processes of `torch_processes` (R33)."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.helpers.torch_groups import REDUCE, parts_of, seeded
from tests.linear.cases import HEAD, VARIANTS, Linear, linear
from unified_loss import (
    BackendError,
    LossInputError,
    OptionError,
    explain,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._linear import _walks as walks

Call = dict[str, Any]
OF_CLASSES = ("weight", "bias", "class_weight")  # along their first axis
EVERYTHING = VARIANTS["everything"]


def exact(case: Linear) -> Call:
    """The arrays of a call, all that is floating in float64."""
    call = {name: torch.tensor(values) for name, values in case.arrays.items()}
    return {
        name: value.double() if value.is_floating_point() else value for name, value in call.items()
    }


def own(call: Call, classes: slice, *, is_dense: bool) -> Call:
    """The arguments that this process has: its classes, and all of what has none."""

    def cut(name: str, value: Any) -> Any:
        if name in OF_CLASSES:
            return value[classes]
        if name == "labels" and not is_dense:  # as those of a process with one class must be
            return value.reshape(call["hidden"].shape[:-1]) if "hidden" in call else value
        return value[..., classes] if name == "labels" and is_dense else value

    return {name: cut(name, value) for name, value in call.items()}


def grouped(call: Call, classes: slice, *, is_dense: bool, group: Any = None) -> Call:
    """The call of this process."""
    group = distributed.group.WORLD if group is None else group
    return own(call, classes, is_dense=is_dense) | {"class_group": group}


def derived(call: Call, options: Call, names: tuple[str, ...]) -> dict[str, Any]:
    """The loss, and the gradients of a sum of losses in some arguments."""
    leaves = {
        name: call[name].detach().clone().requires_grad_()
        for name in names
        if isinstance(call.get(name), torch.Tensor) and call[name].is_floating_point()
    }
    loss = linear_cross_entropy(**call | leaves, **options)
    upstream = torch.arange(1.0, loss.numel() + 1, dtype=loss.dtype).reshape(loss.shape)
    (loss * upstream).sum().backward()
    # A member of no class has no number that its arguments of classes could have a slope in.
    slopes = {
        name: leaf.detach() if leaf.grad is None and not leaf.numel() else leaf.grad
        for name, leaf in leaves.items()
    }
    return {"loss": loss.detach()} | slopes


def closed(call: Call, options: Call) -> dict[str, Any]:
    """The closed form, of constants and of arguments with a gradient."""
    found = {}
    for number, is_recorded in enumerate((False, True)):
        leaves = {name: call[name].clone().requires_grad_(is_recorded) for name in HEAD[:2]}
        loss, slopes = linear_cross_entropy_with_grad(**call | leaves, **options)
        found |= {f"{name} {number}": one for name, one in zip(HEAD, slopes, strict=True)
                  if one is not None}  # fmt: skip
        found[f"loss {number}"] = loss
    return {name: one.detach() for name, one in found.items()}


def assert_split(
    call: Call,
    options: Call,
    *,
    is_dense: bool,
    ways: tuple[int, ...],
    but: str | None = None,
) -> None:
    """Loss and gradients of split classes are those of the whole, in these ways to split them.

    `but`: class weights of 0 on masked classes, smoothed, whose slope is no number; labels there,
    in rows whose loss is NaN.
    """
    truths = [run(call, options) for run in RUNS]
    for way, classes in enumerate(parts_of(len(call["weight"]))):
        for run, truth in zip(RUNS, truths, strict=True):
            if way not in ways and run is not RUNS[0]:
                continue
            found = run(grouped(call, classes, is_dense=is_dense), options)
            assert found.keys() == truth.keys()
            for name, value in found.items():
                if name == but:
                    continue
                plain = name.partition(" ")[0]
                wanted = own({plain: truth[name]}, classes, is_dense=is_dense)[plain]
                told = f"{name} {options} {classes}"
                np.testing.assert_allclose(value, wanted, 1e-10, 1e-12, err_msg=told)


RUNS = (
    lambda call, options: derived(call, options, HEAD),
    lambda call, options: derived(call, options, tuple(call)),
    closed,
)


@contextlib.contextmanager
def small_tiles() -> Iterator[None]:
    """Walks of several tiles and blocks, however few logits there are."""
    sizes = {"TWO_STEPS": 0, "TILE": 6, "TILE_ROWS": 3, "CLASSES_AT_LEAST": 2}
    with mock.patch.multiple(walks, **sizes):
        yield


def linear_values_and_gradients() -> None:
    """Every option of class ids and label rows, each under one reduction or another."""
    turn = itertools.count()
    for kind, variant in itertools.product(("index", "dense"), VARIANTS):
        number = next(turn)
        reduction = ("mean", "none", "sum")[number % 3]
        options = {"ignored": 1, "classes": 7, "reduction": reduction} | VARIANTS[variant]
        if kind == "dense" or options.get("ignore_index", 0) is None:
            options.pop("ignored")
        if "normalizer" in options:
            options["reduction"] = "mean"
        case = linear(seeded(), kind, **options)
        is_dense = kind == "dense"
        if distributed.get_world_size() > 2 and number % 3:  # each takes longer there
            continue
        with small_tiles() if number % 2 else contextlib.nullcontext():
            assert_split(exact(case), case.options, is_dense=is_dense, ways=(number % 3,))


def linear_rows_that_do_not_count() -> None:
    """R15 to R18, R30: dropped rows hold anything, and NaN elsewhere is NaN."""
    if distributed.get_world_size() > 2:
        return
    rng = seeded()
    shape: Call = {"batch": (9,), "classes": 6, "sample_weight": "full", "bias": True}
    for kind, options in itertools.product(("index", "dense"), ({}, EVERYTHING)):
        case = linear(rng, kind, **{**EVERYTHING, **shape} if options else shape, reduction="none")
        case = case.but(softcap=None)
        problem, hidden, bias = case.problem, case.hidden.copy(), case.bias.copy()
        weight, labels = problem.sample_weight.copy(), problem.labels.copy()
        weight[:3] = 0
        hidden[0, 1], hidden[1, 2], hidden[4] = np.nan, np.inf, np.nan
        bias[2] = -np.inf  # a masked class
        if kind == "dense":
            labels[:, 2], labels[2, 1], labels[8] = 0, np.inf, 0
        else:
            labels[labels == 2] = 1
            labels[2], labels[8], labels[5] = -7, -100, 77
        hidden[8] = np.nan  # dropped, as its labels are nothing
        w = problem.class_weight
        if w is not None:
            w = w.copy()
            w[2] = 0
        case = case.but(
            hidden=hidden, bias=bias, sample_weight=weight, labels=labels, class_weight=w
        )
        for reduction in ("none", "mean"):
            each = case.but(reduction=reduction)
            given = {**each.options, "check": False}
            own_way = {"is_dense": kind == "dense", "ways": (2,)}
            assert_split(exact(each), given, **own_way, but="labels")
    # Class ids without a weight, which one member knows of: no row may be seen to before it.
    case = linear(rng, classes=6, class_weight=True)
    hidden, w = case.hidden.copy(), case.problem.class_weight.copy()
    hidden[0], w[case.problem.labels[0]] = np.nan, 0
    case = case.but(hidden=hidden, class_weight=w)
    assert_split(exact(case), case.options, is_dense=False, ways=(0, 1, 2))
    for kind in ("index", "dense"):  # nothing to average
        case = linear(rng, kind, classes=6, sample_weight="full")
        case = case.but(sample_weight=np.zeros(6))
        assert_split(exact(case), case.options, is_dense=kind == "dense", ways=(1,))


def linear_padded_vocabularies() -> None:
    """R18: a bias of -inf and, with smoothing, class weights of 0 are no classes."""
    call = exact(linear(seeded(), classes=5, ignored=1, bias=True))
    pad = torch.nn.functional.pad
    padded = {
        **call,
        "weight": pad(call["weight"], (0, 0, 0, 7)),
        "bias": pad(call["bias"], (0, 7), value=-torch.inf),
    }
    ones = pad(torch.ones(5, dtype=torch.float64), (0, 7))
    for way, more in enumerate(({}, {"class_weight": ones})):
        smoothing = 0.25 if more else 0.0
        options = {"label_smoothing": smoothing, "z_loss": 0.125}
        assert_split(padded | more, options, is_dense=False, ways=(way,), but="class_weight")
    whole = linear_cross_entropy(**call)
    part = grouped(padded, next(parts_of(12)), is_dense=False)
    torch.testing.assert_close(linear_cross_entropy(**part), whole)


def linear_numbers_that_move() -> None:
    """Forward two all-reduces of at most 6 numbers a row; backward hidden's gradient once."""
    world, rows, features = distributed.get_world_size(), 50, 3
    moved: list[int] = []

    def counted(tensor: Any, *given: Any, **named: Any) -> Any:
        moved.append(tensor.numel())
        return REDUCE(tensor, *given, **named)

    for kind, options in itertools.product(("index", "dense"), ({}, EVERYTHING)):
        case = linear(seeded(), kind, **{**options, "batch": (rows,), "classes": 8})
        call = exact(case) | {"hidden": torch.tensor(case.hidden, dtype=torch.float32)}
        for classes in parts_of(8):
            part = grouped(call, classes, is_dense=kind == "dense")
            for is_frozen in (False, True):
                part["hidden"].requires_grad_(not is_frozen)
                part["weight"] = part["weight"].detach().requires_grad_()
                with CommDebugMode() as seen, mock.patch.object(distributed, "all_reduce", counted):
                    loss = linear_cross_entropy(**part, **case.options)
                    assert (len(moved), seen.get_total_counts()) == (2, 2)
                    assert sum(moved) <= 6 * rows + world, moved
                    moved.clear()
                    loss.backward()
                assert moved == ([] if is_frozen else [rows * features])
                moved.clear()


def linear_in_small_dtypes() -> None:
    """R20, R32: half precision is multiplied into float32, and hidden's gradient rounded once."""
    case = linear(seeded(), batch=(32,), classes=12, features=8, bias=True)
    for dtype in (torch.float32, torch.bfloat16):
        call = {name: one.to(dtype) if name in HEAD else one for name, one in exact(case).items()}
        truth = derived(exact(case), case.options, HEAD)
        for classes in parts_of(12):
            part = grouped(call, classes, is_dense=False)
            found = derived(part, case.options, HEAD)
            assert found["loss"].dtype == torch.float32
            np.testing.assert_allclose(found["loss"], truth["loss"], 1e-6)
            for name in HEAD:
                assert found[name].dtype == dtype
                wanted = own(truth, classes, is_dense=False)[name]
                bound = (4e-3 if dtype == torch.bfloat16 else 1e-6) * float(wanted.norm() + 1e-6)
                assert float((found[name].double() - wanted).norm()) <= bound, (name, classes)
            assert float(linear_cross_entropy(**part)) >= 0
    # A loss that is all but 0 is not less than 0, though the label's logit is another product.
    sure = call | {"hidden": 64 * call["weight"].float()[call["labels"].long()].to(dtype)}
    for classes in parts_of(12):
        losses = linear_cross_entropy(**grouped(sure, classes, is_dense=False), reduction="none")
        assert losses.min() >= 0


def linear_derivatives() -> None:
    """R22: second derivatives, forward mode and `torch.func`, in hidden and in weight."""
    if distributed.get_world_size() > 2:
        return
    for kind in ("index", "dense"):
        case = linear(seeded(), kind, **{**EVERYTHING, "batch": (6,), "classes": 6})
        call, rng = exact(case), np.random.default_rng(3)
        directions = [torch.tensor(rng.standard_normal(call[name].shape)) for name in HEAD[:2]]
        truth = _second(call, case, directions)
        for classes in parts_of(6):
            part = grouped(call, classes, is_dense=kind == "dense")
            found = _second(part, case, [directions[0], directions[1][classes]])
            for name, value in found.items():
                wanted = truth[name][classes] if name.endswith("weight") else truth[name]
                np.testing.assert_allclose(value, wanted, 1e-9, 1e-11, err_msg=name)


def _second(call: Call, case: Linear, directions: list[Any]) -> dict[str, Any]:
    """Second derivatives along a direction, in reverse and forward mode."""
    head = [call[name].clone().requires_grad_() for name in HEAD[:2]]

    def loss(hidden: Any, weight: Any) -> Any:
        return linear_cross_entropy(**call | {"hidden": hidden, "weight": weight}, **case.options)

    def along(slopes: Any) -> Any:
        # Of hidden all members have the direction; of the weight each has its own part.
        of_hidden, of_weight = (
            (slope * way).sum() for slope, way in zip(slopes, directions, strict=True)
        )
        return of_hidden, of_weight

    found = {}
    group = call.get("class_group")
    for name, make in (
        ("grad", lambda: torch.autograd.grad(loss(*head), head, create_graph=True)),
        ("closed", lambda: linear_cross_entropy_with_grad(
            **call | dict(zip(HEAD, head, strict=False)), **case.options)[1][:2]),
    ):  # fmt: skip
        of_hidden, of_weight = along(make())
        # What all members have counts once; what each has alone is added up.
        total = torch.stack([of_weight]) if group is None else _Sum.apply(of_weight[None])
        twice = torch.autograd.grad(of_hidden + total.sum(), head)
        found |= {f"{name} {one}": slope for one, slope in zip(HEAD, twice, strict=False)}
    plain = tuple(one.detach() for one in head)
    slopes = torch.func.grad(loss, (0, 1))(*plain)
    found |= {f"func {one}": slope for one, slope in zip(HEAD, slopes, strict=False)}
    found["forward"] = torch.func.jvp(loss, plain, tuple(directions))[1]
    return found


class _Sum(torch.autograd.Function):
    """A sum over the members of what each has alone, of which all go on to compute the same."""

    @staticmethod
    def forward(_ctx: Any, x: Any) -> Any:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx: Any, *slopes: Any) -> Any:
        return slopes[0]


def linear_under_compilers() -> None:
    """R23: `torch.compile` in one graph, the closed form in it, and checkpoints."""
    if distributed.get_world_size() > 2:  # it compiles the same for each number of them
        return
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    case = linear(seeded(), **{**EVERYTHING, "classes": 7})
    call = exact(case)
    truth, slopes = derived(call, case.options, HEAD), closed(call, case.options)
    classes = next(parts_of(7))
    part = grouped(call, classes, is_dense=False, group=mesh)
    wanted = own(truth, classes, is_dense=False)

    def loss(hidden: Any, weight: Any) -> Any:
        return linear_cross_entropy(**{**part, "hidden": hidden, "weight": weight}, **case.options)

    def both(hidden: Any, weight: Any) -> Any:
        given = part | {"hidden": hidden, "weight": weight}
        return linear_cross_entropy_with_grad(**given, **case.options)

    def again(hidden: Any, weight: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(loss, hidden, weight, use_reentrant=False)

    torch._dynamo.reset()
    for step in (torch.compile(loss, backend="aot_eager", fullgraph=True), again):
        head = [part[name].clone().requires_grad_() for name in HEAD[:2]]
        value = step(*head)
        value.backward()
        np.testing.assert_allclose(value.detach(), truth["loss"], 1e-10)
        for name, leaf in zip(HEAD, head, strict=False):
            np.testing.assert_allclose(leaf.grad, wanted[name], 1e-10, 1e-12)
    compiled = torch.compile(both, backend="eager", fullgraph=True)
    _, found = compiled(part["hidden"], part["weight"])
    np.testing.assert_allclose(found[0], slopes["hidden 0"], 1e-10, 1e-12)
    np.testing.assert_allclose(found[1], slopes["weight 0"][classes], 1e-10, 1e-12)


def linear_of_placed_arguments() -> None:
    """R33: `DTensor` of any placements, without a group; only sums move where classes are split."""
    world = distributed.get_world_size()
    if world == 2:  # too few for a mesh of two axes
        return
    line = init_device_mesh("cpu", (world,))
    square = init_device_mesh("cpu", (world // 2, 2))
    whole, rows, features = Replicate(), Shard(0), Shard(1)
    layouts: dict[str, tuple[Any, Any, Any, Any]] = {  # a mesh, hidden, weight and labels
        "classes": (line, [whole], [rows], [whole]),
        "classes beside plain ones": (line, None, [rows], None),
        "rows": (line, [rows], [whole], [rows]),
        "both": (square, [rows, whole], [whole, rows], [rows, whole]),
        "features": (line, [features], [features], [whole]),
        "fully sharded": (line, [rows], [rows], [rows]),
    }
    case = linear(seeded(), batch=(8,), classes=12, features=8, bias=True, ignored=1)
    case = case.but(label_smoothing=0.125, softcap=3.0)
    call = exact(case)
    truth = derived(call, case.options, HEAD)
    for name, (mesh, hidden, weight, labels) in layouts.items():
        of_bias = [one if one == rows else whole for one in weight]
        places = {"hidden": hidden, "weight": weight, "labels": labels, "bias": of_bias}
        placed = {
            name: value.clone() if place is None else distribute_tensor(value, mesh, place)
            for (name, place), value in ((each, call[each[0]]) for each in places.items())
        }
        leaves = {name: placed[name].requires_grad_() for name in HEAD}
        with mock.patch.multiple(walks, TWO_STEPS=0), CommDebugMode() as seen:
            loss = linear_cross_entropy(**placed | leaves, **case.options)
            loss.backward()
            totals = linear_cross_entropy_totals(**placed, label_smoothing=0.125, softcap=3.0)
            with torch.no_grad():
                _, closed_ = linear_cross_entropy_with_grad(**placed, **case.options)
        kinds = {str(kind) for kind in seen.get_comm_counts()}
        if not name.startswith("fully"):
            assert not any("gather" in kind for kind in kinds), (name, kinds)
        found = {"loss": loss, "totals": totals.loss / totals.mass}
        wanted = {"loss": truth["loss"], "totals": truth["loss"]}
        for one, slope in zip(HEAD, closed_, strict=True):
            found |= {one: leaves[one].grad, f"closed {one}": slope}
            wanted |= {one: truth[one], f"closed {one}": truth[one]}
        for one, value in found.items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            told = f"{name} {one}"
            np.testing.assert_allclose(full.detach(), wanted[one], 1e-10, 1e-12, err_msg=told)


def linear_mistakes() -> None:
    """What is no group, a mapped or a placed tensor: refused with the library's own errors."""
    group = distributed.group.WORLD
    hidden, weight, labels = torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 5, 1])
    world = distributed.get_world_size()
    line = init_device_mesh("cpu", (world,))
    spread = distribute_tensor(weight, line, [Replicate()])
    call = {"labels": labels, "class_group": group}
    mapped = torch.vmap(lambda h: linear_cross_entropy(h, weight, [0, 1], class_group=group))
    refused: list[tuple[type[LossInputError], Callable[[], Any]]] = [
        (OptionError, lambda: linear_cross_entropy(hidden, weight, labels, class_group=2)),
        (BackendError, lambda: linear_cross_entropy(hidden, spread, **call)),
        (BackendError, lambda: linear_cross_entropy_with_grad(hidden, spread, **call)),
        (BackendError, lambda: linear_cross_entropy(
            distribute_tensor(hidden, init_device_mesh("cpu", (1, world)), [Replicate()] * 2),
            spread, labels % 5)),
        (BackendError, lambda: mapped(torch.zeros(2, 2, 4))),
        (BackendError, lambda: linear_cross_entropy(
            hidden.numpy(), weight.numpy(), labels.numpy(), class_group=group)),
    ]  # fmt: skip
    for error, call_ in refused:
        try:
            call_()
        except error:
            continue
        message = f"no {error.__name__}"
        raise AssertionError(message)
    report = explain(hidden, labels, weight=weight, class_group=group)
    assert report.valid
    assert "by classes" in report.kernel
    assert dict(report.facts)["class_group"].startswith("5 of the classes are here")


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        linear_values_and_gradients,
        linear_rows_that_do_not_count,
        linear_padded_vocabularies,
        linear_numbers_that_move,
        linear_in_small_dtypes,
        linear_derivatives,
        linear_under_compilers,
        linear_of_placed_arguments,
        linear_mistakes,
    )
}
