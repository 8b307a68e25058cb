"""One of several processes: ``python -m tests.helpers.torch_processes RANK WORLD FOLDER``.

Runs every check of `CHECKS` on all ranks, and leaves what happened in ``FOLDER/RANK.json``.
"""

import functools
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor.placement_types import _StridedShard
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import gloo, torch_groups, torch_linear_groups
from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import Problem, sample
from tests.helpers.torch_cases import CASES, EVERYTHING, TORCH, problem_of
from tests.helpers.totals import expected, options_of
from unified_loss import (
    BackendError,
    LabelError,
    RunningCrossEntropy,
    cross_entropy,
    cross_entropy_totals,
    cross_entropy_with_grad,
)

Placed = tuple[Any, list[Any]]  # a mesh and the placements on it


@functools.cache
def mesh_of(*shape: int) -> Any:
    """One mesh of each shape: compiled, torch mistakes an equal one for another result."""
    return init_device_mesh("cpu", shape)


def layouts(class_axis: int, batch_axis: int) -> Iterator[Placed]:
    """The rows, the classes, or both spread over the processes."""
    world = distributed.get_world_size()
    line = mesh_of(world)
    yield line, [Shard(class_axis)]
    yield line, [Shard(batch_axis)]
    if world == 2:
        yield line, [Replicate()]
    else:
        square = mesh_of(2, 2)
        yield square, [Shard(batch_axis), Shard(class_axis)]
        yield square, [Shard(class_axis), Replicate()]


def axes_of(problem: Problem) -> tuple[int, int]:
    """The class axis and a batch axis."""
    return problem.class_axis, 1 if problem.class_axis == 0 else 0


def seeded() -> np.random.Generator:
    """The same numbers in every process."""
    return np.random.default_rng(7)


def whole(result: Any) -> Any:
    """All of a result, as NumPy."""
    return (result.full_tensor() if isinstance(result, DTensor) else result).detach().numpy()


class Traffic(TorchDispatchMode):
    """What collectives were called, and the largest array that one of them moved."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Take note, and go on."""
        if any(kind is DTensor for kind in types):
            return NotImplemented
        space, name, *_ = str(function).split(".")
        if "c10d_functional" in space and name not in {"wait_tensor", "_wrap_tensor_autograd"}:
            self.names.add(name)
            self.largest = max(self.largest, arguments[0].numel())
        return function(*arguments, **keywords or {})


def values_and_gradients() -> None:
    """Loss, backward and closed form, in every layout, against the reference."""
    for case in CASES:
        problem = problem_of(case, seeded())
        arrays = TORCH.place(problem, "float32")
        for mesh, places in layouts(*axes_of(problem)):
            logits = distribute_tensor(arrays["logits"], mesh, places).requires_grad_()
            given = arrays | {"logits": logits}
            loss = cross_entropy(**given, **problem.options)
            loss.backward()
            assert_accurate(whole(loss), problem, "float32")
            # An axis shorter than the mesh is no longer spread: torch gathers what little it has.
            short = any(p.is_shard() and logits.shape[p.dim] < mesh.size() for p in places)
            assert short or logits.grad.placements == tuple(places)
            assert_accurate(whole(logits.grad), problem, "float32", "gradient")
            loss, slope = cross_entropy_with_grad(**given, **problem.options)
            assert_accurate(whole(loss), problem, "float32")
            assert_accurate(whole(slope), problem, "float32", "gradient")


def only_numbers_of_rows_move() -> None:
    """With the classes spread, all-reduces of at most one number a row, forward and backward."""
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, batch=(8,), classes=66, **EVERYTHING)
        arrays = TORCH.place(problem, "float32")
        for mesh, places in layouts(1, 0):
            logits = distribute_tensor(arrays["logits"], mesh, places).requires_grad_()
            with Traffic() as traffic:
                cross_entropy(**arrays | {"logits": logits}, **problem.options).backward()
            assert traffic.names <= {"all_reduce"}, traffic.names
            assert traffic.largest <= 8
            assert traffic.names or places == [Replicate()]
            assert_accurate(whole(logits.grad), problem, "float32", "gradient")


def totals_of_all() -> None:
    """R35, R36: whole sums on each process, and the same bits in the running form."""
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, batch=(8,), classes=66, **EVERYTHING)
        arrays = TORCH.place(problem, "float32")
        for mesh, places in layouts(1, 0):
            given = arrays | {"logits": distribute_tensor(arrays["logits"], mesh, places)}
            with Traffic() as traffic:
                totals = cross_entropy_totals(**given, **options_of(problem))
            assert traffic.names <= {"all_reduce"}, traffic.names
            assert traffic.largest <= 8
            truth = expected(problem)
            np.testing.assert_allclose([float(whole(each)) for each in totals], truth, rtol=1e-5)
            running = RunningCrossEntropy()
            running.merge(totals)
            assert running.compute().count == truth.count
            everywhere: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(everywhere, running)
            assert len({each.compute() for each in everywhere}) == 1


def rows_over_processes() -> None:
    """R34: under `DistributedDataParallel`, by one sum of masses: loss and gradient of the whole.

    A mean on each process, of rows of other numbers and weights, is another one.
    """
    world, rank = distributed.get_world_size(), distributed.get_rank()
    problem = sample(seeded(), batch=(9,), classes=5, **EVERYTHING)
    problem = problem.but(reduction="mean", normalizer=None)
    arrays = TORCH.place(problem, "float32")
    rows = {name: arrays.pop(name) for name in ("logits", "labels", "sample_weight")}
    ends = [0, *range(2, world + 1), 9]  # the last one has more, and none as many as all others
    mine = {name: part[ends[rank] : ends[rank + 1]] for name, part in rows.items()}
    slopes = []
    for given, is_whole in ((rows, True), (mine, False)):
        model: Any = torch.nn.Linear(5, 5)
        with torch.no_grad():
            model.weight.copy_(torch.eye(5))
            model.bias.zero_()
        mass = None
        if not is_whole:
            model = torch.nn.parallel.DistributedDataParallel(model)
            totals = cross_entropy_totals(**given, **arrays, **options_of(problem))
            mass = totals.mass.clone()
            distributed.all_reduce(mass)
            mass /= world  # DDP averages gradients
        placed = given | {"logits": model(given["logits"])}
        options = problem.options | {"normalizer": mass}
        loss = cross_entropy(**placed, **arrays, **options)
        loss.backward()
        slopes.append([loss.detach(), *(part.grad for part in model.parameters())])
    (truth, *wanted), (loss, *found) = slopes
    distributed.all_reduce(loss)
    assert_accurate(truth, problem, "float32")
    torch.testing.assert_close([loss / world, *found], [truth, *wanted])


def arguments_of_other_placements() -> None:
    """Labels and weights may be spread in any way; a plain tensor is a replica."""
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, batch=(8,), **EVERYTHING)
        arrays = TORCH.place(problem, "float64")
        trained = [name for name in arrays if arrays[name].is_floating_point()]
        plain = {
            name: value.double().requires_grad_() if name in trained else value
            for name, value in arrays.items()
        }
        cross_entropy(**plain, **problem.options).backward()
        for mesh, places in layouts(1, 0):
            for place in (None, Replicate(), Shard(0)):
                given = {}
                for name, value in plain.items():
                    wanted = places if name == "logits" else place and [place] * mesh.ndim
                    given[name] = value.detach().clone()
                    if wanted:
                        given[name] = distribute_tensor(given[name], mesh, wanted)
                    given[name].requires_grad_(name in trained)
                cross_entropy(**given, **problem.options).backward()
                for name in trained:
                    expected = plain[name].grad.numpy()
                    np.testing.assert_allclose(whole(given[name].grad), expected, 1e-9, 1e-12)


def losses_stay_where_their_rows_are() -> None:
    """Unreduced losses of spread rows, also along a later batch axis, are spread as the rows."""
    problem = sample(seeded(), batch=(4, 6), class_axis=1, sample_weight="first", reduction="none")
    arrays = TORCH.place(problem, "float32")
    mesh = mesh_of(distributed.get_world_size())
    for axis, wanted in ((0, Shard(0)), (1, Replicate()), (2, Shard(1))):
        logits = distribute_tensor(arrays["logits"], mesh, [Shard(axis)]).requires_grad_()
        losses = cross_entropy(**arrays | {"logits": logits}, **problem.options)
        assert losses.placements == (wanted,)
        assert_accurate(whole(losses), problem, "float32")
        losses.sum().backward()
        assert_accurate(whole(logits.grad), problem, "float32", "gradient")


def second_derivatives() -> None:
    """A gradient of a gradient equals that of whole logits."""
    for kind in ("index", "dense"):
        problem = sample(seeded(), kind, **EVERYTHING)
        arrays = TORCH.place(problem, "float64")
        direction = torch.tensor(seeded().standard_normal(problem.logits.shape))

        def product(logits: Any, direction: Any, arrays: Any = arrays, p: Any = problem) -> Any:
            loss = cross_entropy(**arrays | {"logits": logits}, **p.options)
            (slope,) = torch.autograd.grad(loss, logits, create_graph=True)
            return torch.autograd.grad((slope * direction).sum(), logits)[0]

        expected = product(arrays["logits"].clone().requires_grad_(), direction).numpy()
        for layout in layouts(1, 0):
            spread = [distribute_tensor(each, *layout) for each in (arrays["logits"], direction)]
            found = product(spread[0].requires_grad_(), spread[1])
            np.testing.assert_allclose(whole(found), expected, 1e-9, 1e-12)


def transforms() -> None:
    """`torch.compile`, checkpoints, `inference_mode`, `no_grad` and `loss_parallel`."""
    from torch.distributed.tensor.parallel import loss_parallel

    problem = problem_of("everything", seeded())
    arrays = TORCH.place(problem, "float32")

    def loss(logits: Any) -> Any:  # Dynamo of torch 2.6 does not know `|` of dicts
        return cross_entropy(**{**arrays, "logits": logits}, **problem.options)

    for layout in itertools.islice(layouts(1, 0), 2):
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        for step in (
            compiled,
            lambda x: torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False),
        ):
            logits = distribute_tensor(arrays["logits"], *layout).requires_grad_()
            value = step(logits)
            value.backward()
            assert_accurate(whole(value), problem, "float32")
            assert_accurate(whole(logits.grad), problem, "float32", "gradient")
        logits = distribute_tensor(arrays["logits"], *layout).requires_grad_()
        with loss_parallel():
            loss(logits).backward()
        assert_accurate(whole(logits.grad), problem, "float32", "gradient")
        with torch.no_grad():
            assert not loss(logits).requires_grad
        with torch.inference_mode():
            logits = distribute_tensor(arrays["logits"], *layout)
            assert_accurate(whole(loss(logits)), problem, "float32")
            assert_accurate(whole(compiled(logits)), problem, "float32")


def odd_sizes() -> None:
    """Fewer classes or rows than processes, no rows, one row, NaN and nothing to average."""
    for batch, classes, ignored in (
        ((5,), 2, 0),
        ((1,), 7, 0),
        ((0,), 7, 0),
        ((), 7, 0),
        ((3,), 7, 3),
    ):
        problem = sample(seeded(), batch=batch, classes=classes, ignored=ignored)
        arrays = TORCH.place(problem, "float32")
        for mesh, places in layouts(problem.class_axis, 0):
            if any(place.is_shard() and place.dim >= arrays["logits"].ndim for place in places):
                continue
            logits = arrays["logits"].clone()
            if ignored:
                logits[0] = torch.nan
            spread = distribute_tensor(logits, mesh, places).requires_grad_()
            loss = cross_entropy(spread, arrays["labels"], axis=-1)
            loss.backward()
            assert_accurate(whole(loss), problem, "float32")
            assert_accurate(whole(spread.grad), problem, "float32", "gradient")


def half_precision_and_partial_sums() -> None:
    """bfloat16 logits give a float32 loss; partial sums are added up first."""
    problem = problem_of("plain", seeded())
    arrays = TORCH.place(problem, "bfloat16")
    mesh = mesh_of(distributed.get_world_size())
    logits = distribute_tensor(arrays["logits"], mesh, [Shard(1)]).requires_grad_()
    loss = cross_entropy(logits, arrays["labels"])
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    assert_accurate(whole(loss), problem, "bfloat16")
    part = arrays["logits"].float() / mesh.size()
    loss = cross_entropy(DTensor.from_local(part, mesh, [Partial()]), arrays["labels"])
    assert_accurate(whole(loss), problem, "float32")


def mistakes() -> None:
    """Bad labels are an error where they can be read; what cannot be combined is refused."""
    mesh = mesh_of(distributed.get_world_size())
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 4, 1])
    spread, replica = (distribute_tensor(each, mesh, [Replicate()]) for each in (logits, labels))
    odd = DTensor.from_local(logits, mesh, [_StridedShard(0, split_factor=2)], run_check=False)
    losses = cross_entropy(spread, replica, reduction="none")
    assert np.isnan(whole(losses)).tolist() == [False, True, False]
    for refused, error in (
        (lambda: cross_entropy(spread, labels), LabelError),
        (lambda: cross_entropy(spread, replica, check=True), LabelError),
        (lambda: cross_entropy(logits, replica), BackendError),
        (lambda: cross_entropy(odd, [0] * odd.shape[0]), BackendError),
        (lambda: torch.func.grad(cross_entropy)(spread, labels % 4), BackendError),
    ):
        try:
            refused()
        except error:
            continue
        message = f"no {error.__name__}"
        raise AssertionError(message)


CHECKS: dict[str, Callable[[], None]] = (
    {
        check.__name__: check
        for check in (
            values_and_gradients,
            only_numbers_of_rows_move,
            totals_of_all,
            rows_over_processes,
            arguments_of_other_placements,
            losses_stay_where_their_rows_are,
            second_derivatives,
            transforms,
            odd_sizes,
            half_precision_and_partial_sums,
            mistakes,
        )
    }
    | torch_groups.CHECKS
    | torch_linear_groups.CHECKS
)


def main(rank: str, world: str, folder: str) -> None:
    """Run all checks; one that fails may leave the others waiting, so it is the last."""
    gloo.join(rank, world, folder)
    outcomes = dict.fromkeys(CHECKS, "not reached")
    for name, check in CHECKS.items():
        try:
            check()
        except Exception:  # noqa: BLE001 (the test shows it)
            outcomes[name] = traceback.format_exc()
            break
        outcomes[name] = ""
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes), "utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
