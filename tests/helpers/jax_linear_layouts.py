"""R33 of the linear form on eight devices, without a group: run by `test_jax_sharding`.

What moves is counted in compiled programs, as often as loops run, and compared with what has to.
"""

import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.random import Generator

from tests.helpers.jax_on_eight_devices import numbers_in
from tests.linear.cases import EVERYTHING, HEAD, Linear, linear
from unified_loss import (
    BackendError,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._linear import _walks as walks

Arrays = dict[str, Any]
N, C, D, K = 256, 1024, 32, 8  # rows, classes and features, and the blocks that they are cut into
MOVES = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\((.*)"
)
CALLED = re.compile(r"(?:calls|to_apply|branch_computations)=\{?([^,})]*(?:, %[^,}]*)*)")


class Move(NamedTuple):
    """A collective, how many numbers it brings to a device at a time, and how often it runs."""

    kind: str
    numbers: int
    times: int


def moves_of(text: str) -> list[Move]:
    """The collectives of a compiled program."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    first = ""
    for line in text.splitlines():
        start = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if start:
            lines = bodies.setdefault(start[2], [])
            first = start[2] if start[1] else first
        else:
            lines.append(line)

    def walk(name: str, times: int) -> Iterator[Move]:
        for line in bodies.get(name, []):
            found = MOVES.search(line)
            if found:
                result, kind, arguments = found.groups()
                given = arguments if kind == "reduce-scatter" else result
                yield Move(kind, numbers_in(given), times)
            elif " while(" in line:
                (body,) = re.findall(r"body=%?([\w.\-]+)", line)
                (trips,) = re.findall(r"known_trip_count[^\d]*(\d+)", line)
                yield from walk(body, times * int(trips))
            else:
                for names in CALLED.findall(line):
                    for each in names.split(","):
                        yield from walk(each.strip(" %"), times)

    return list(walk(first, 1))


class Layout(NamedTuple):
    """How hidden and the weight are split; numbers that move, as multiples of N D, C D and N C."""

    mesh: dict[str, int]
    hidden: tuple[Any, ...]
    weight: tuple[Any, ...]
    forward: float  # the loss: arrays of two axes
    backward: float  # the loss and its gradients
    batch: tuple[int, ...] = (N,)


ND, CD = N * D, C * D
ONE, TWO = {"all": 8}, {"data": 4, "model": 2}
BOTH = ("data", "model")
LAYOUTS = {
    "rows": Layout(ONE, ("all",), (), 0, CD),
    "classes": Layout(ONE, (), ("all",), 0, K * ND),
    "features": Layout(ONE, (), (None, "all"), CD, 2 * CD),
    "features of both": Layout(ONE, (None, "all"), (None, "all"), CD + ND, 2 * CD + 2 * ND),
    "rows, classes": Layout(TWO, ("data",), ("model",), 0, CD / 2 + K * ND / 4),
    "rows, both": Layout(TWO, ("data",), ("model", "data"), CD / 2, 3 * CD / 2 + K * ND / 4),
    "rows, both turned": Layout(TWO, ("data",), BOTH, 1.25 * CD, 3.5 * CD),
    "all rows, both": Layout(TWO, (BOTH,), (BOTH,), CD, 3 * CD),
    "fully sharded": Layout(ONE, ("all",), ("all",), CD, 3 * CD),
    "fully sharded features": Layout(ONE, ("all",), (None, "all"), CD, 3 * CD),
    "sequence": Layout(ONE, (None, "all"), (), 0, CD, (4, N // 4)),
    "batch, sequence": Layout(TWO, BOTH, (), 0, 2 * CD, (4, N // 4)),
    "sequence, classes": Layout(
        TWO, (None, "data"), ("model",), 0, CD / 2 + K * ND / 4, (4, N // 4)
    ),
    "few rows, fully sharded": Layout(ONE, ("all",), ("all",), ND / 4, (2 + K) * ND / 4, (N // 4,)),
}


def mesh_of(sizes: dict[str, int], kind: str) -> Any:
    """A mesh whose axes are explicit, or automatic."""
    kinds = (getattr(AxisType, kind),) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)


def in_blocks(rows: int, classes: int) -> Any:
    """Walks with so many classes in a block of so many rows."""
    return mock.patch.multiple(walks, TWO_STEPS=0, TILE=rows * classes, CLASSES_AT_LEAST=1)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_moves_has_to(name: str, kind: str, rng: Generator) -> None:
    """R33: in every layout, numbers of rows, blocks of the weight, and gradients; on both meshes.

    Where rows and classes are split over one axis, all pairs of them meet on no device, so that
    blocks of the weight are gathered, or rows, if there are fewer than a block has classes.
    """
    layout = LAYOUTS[name]
    mesh, batch = mesh_of(layout.mesh, kind), layout.batch
    rows = math.prod(batch)
    case = linear(rng, batch=batch, classes=C, features=D, ignored=1)
    of_labels = layout.hidden[: len(batch)]
    specs = {"hidden": layout.hidden, "weight": layout.weight, "labels": of_labels}
    places = {part: NamedSharding(mesh, PartitionSpec(*spec)) for part, spec in specs.items()}
    arrays = {part: jax.device_put(case.arrays[part], place) for part, place in places.items()}
    head = {part: arrays.pop(part) for part in HEAD[:2]}

    def loss(head: Arrays, labels: Any) -> Any:
        return linear_cross_entropy(**head, labels=labels)

    with in_blocks(rows, C // K), jax.set_mesh(mesh) if kind == "Explicit" else nullcontext():
        step = jax.jit(
            jax.value_and_grad(loss),
            out_shardings=(
                NamedSharding(mesh, PartitionSpec()),
                {part: places[part] for part in head},
            ),
        )
        programs = [each.lower(head, arrays["labels"]).compile() for each in (jax.jit(loss), step)]
    for program, bound in zip(programs, (layout.forward, layout.backward), strict=True):
        moves = moves_of(program.as_text())
        moved = sum(each.numbers * each.times for each in moves)
        assert moved <= bound + 6 * K * rows, moves
        if "fully sharded" in name:  # what any program has to send to a device
            assert moved * 7 / 8 >= (2 * math.sqrt(rows * C / 8) - (rows + C) / 8) * D
        gathered = [each.numbers for each in moves if each.kind == "all-gather"]
        features = layout.hidden[len(batch) :]
        hidden = rows * D if any(features) or "few" in name else 0
        assert all(size <= max(rows, CD // K, hidden) for size in gathered), moves
    value, slopes = programs[1](head, arrays["labels"])
    truth, wanted = linear_cross_entropy_with_grad(**case.arrays)
    np.testing.assert_allclose(value, truth, 1e-5)
    for part, slope in slopes.items():
        np.testing.assert_allclose(slope, getattr(wanted, part), 1e-4, 1e-5, err_msg=part)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("labels", ["index", "dense"])
def test_blocks_of_any_number_of_classes(labels: Any, kind: str, rng: Generator) -> None:
    """R33: blocks are dealt out of each device's classes, though these are 37 on each of eight."""
    mesh = mesh_of(ONE, kind)
    options = {"label_smoothing": 0.25, "class_weight": True, "bias": True}
    case = linear(rng, labels, batch=(16,), classes=8 * 37, features=24, **options)
    split = PartitionSpec("all")
    specs = {"weight": split, "bias": split, "class_weight": split, "hidden": PartitionSpec()}
    of_labels = PartitionSpec() if labels == "index" else PartitionSpec(None, "all")
    arrays = {
        name: jax.device_put(one, NamedSharding(mesh, specs.get(name, of_labels)))
        for name, one in case.arrays.items()
    }
    head = {name: arrays[name] for name in HEAD}

    def loss(head: Arrays) -> Any:
        return linear_cross_entropy(**arrays | head, **case.options)

    with in_blocks(16, 50), jax.set_mesh(mesh) if kind == "Explicit" else nullcontext():
        program = jax.jit(jax.value_and_grad(loss)).lower(head).compile()
    assert all(each.numbers <= 24 * 16 for each in moves_of(program.as_text()))
    value, slopes = program(head)
    truth, wanted = linear_cross_entropy_with_grad(**case.arrays, **case.options)
    np.testing.assert_allclose(value, truth, 1e-5)
    for name, one in zip(HEAD, wanted, strict=True):
        np.testing.assert_allclose(slopes[name], one, 1e-4, 1e-5, err_msg=name)


TOTALS = ("ignore_index", "label_smoothing", "z_loss", "softcap")
SPLITS: list[dict[str, Any]] = [  # what is not named is whole; None: on no mesh
    {"hidden": ("data",)},
    {"hidden": (None, "data"), "labels": ("data",)},
    {"hidden": None, "weight": None, "labels": ("data",)},
    {"hidden": ("data",), "weight": BOTH, "class_weight": ("data",)},
    {"hidden": None, "weight": ("model",), "labels": ("model",)},
    {"weight": (None, BOTH), "labels": ("model",), "bias": ("model",)},
    {"weight": (("model", "data"),), "bias": ("model",), "class_weight": (BOTH,)},
]
DENSE_SPLITS: list[dict[str, Any]] = [
    {"weight": (None, "data"), "labels": (None, BOTH), "bias": ("data",)},
    {"weight": (None, "model"), "labels": BOTH},
]
REFUSED: list[dict[str, Any]] = [
    {"labels": (BOTH,), "sample_weight": ("model",)},
    {"hidden": (BOTH,), "labels": ("model",)},
]
DENSE_REFUSED: list[dict[str, Any]] = [
    {"hidden": ("data",), "labels": (None, "data")},
    {"weight": ("data",), "labels": (None, "model")},
]


def explicit(splits: dict[str, Any], labels: Any, rng: Generator) -> tuple[Linear, Any, Arrays]:
    """A call under every option, the mesh, and the arrays split over it."""
    mesh = mesh_of(TWO, "Explicit")
    case = linear(rng, labels, batch=(8,), classes=16, features=8, **EVERYTHING)
    arrays = {}
    for name, values in case.arrays.items():
        spec = splits.get(name, ())
        where = None if spec is None else NamedSharding(mesh, PartitionSpec(*spec))
        arrays[name] = jnp.asarray(values) if where is None else jax.device_put(values, where)
    return case, mesh, arrays


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    ("splits", "labels"),
    [*((each, "index") for each in SPLITS), *((each, "dense") for each in DENSE_SPLITS)],
)
def test_explicit_splits(
    splits: dict[str, Any],
    labels: Any,
    few: bool,  # noqa: FBT001
    rng: Generator,
) -> None:
    """R2, R33: whatever is split, and however, an explicit mesh gives the numbers of the whole."""
    case, mesh, arrays = explicit(splits, labels, rng)
    value, wanted = linear_cross_entropy_with_grad(**case.arrays, **case.options)

    def loss(head: Arrays) -> Any:
        return linear_cross_entropy(**arrays | head, **case.options)

    if few:
        found, gradients = linear_cross_entropy_with_grad(**arrays, **case.options)
        slopes = gradients._asdict()
    else:
        given = {name: one for name, one in case.options.items() if name in TOTALS}
        with in_blocks(8, 4), jax.set_mesh(mesh):
            head = {name: arrays[name] for name in HEAD}
            found, slopes = jax.jit(jax.value_and_grad(loss))(head)
            totals = linear_cross_entropy_totals(**arrays, **given)
        truth = linear_cross_entropy_totals(**case.arrays, **given)
        np.testing.assert_allclose(list(map(float, totals)), list(map(float, truth)), 2e-5)
    np.testing.assert_allclose(found, value, 1e-5)
    for name, one in zip(HEAD, wanted, strict=True):
        np.testing.assert_allclose(slopes[name], one, 1e-4, 1e-5, err_msg=name)
        place = arrays[name].sharding
        assert not arrays[name].committed or slopes[name].sharding.is_equivalent_to(place, one.ndim)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    ("splits", "labels"),
    [*((each, "index") for each in REFUSED), *((each, "dense") for each in DENSE_REFUSED)],
)
def test_explicit_splits_that_contradict(
    splits: dict[str, Any],
    labels: Any,
    few: bool,  # noqa: FBT001
    rng: Generator,
) -> None:
    """R2, R25: rows, or classes, that are split in two ways are a `BackendError`."""
    case, mesh, arrays = explicit(splits, labels, rng)
    with nullcontext() if few else in_blocks(8, 4), jax.set_mesh(mesh):
        for call in (linear_cross_entropy, linear_cross_entropy_with_grad):
            with pytest.raises(BackendError, match=r"cannot be combined with hidden: the mesh"):
                call(**arrays, **case.options)
