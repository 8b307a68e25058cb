"""Dask: lazy in, lazy out, in blocks, never computed by us, silent when computed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import Problem, sample
from unified_loss import ShapeError, cross_entropy, cross_entropy_with_grad

CASES: dict[str, dict[str, Any]] = {
    "index": {"ignored": 2},
    "kept": {"kind": "kept", "label_smoothing": 0.25},
    "channels first": {"batch": (4, 3, 2), "class_axis": 1, "z_loss": 0.25},
    "weights": {"class_weight": True, "sample_weight": "full", "ignored": 1},
    "all smoothing": {"label_smoothing": 1.0, "class_weight": True},
    "mask": {"sample_weight": "mask", "reduction": "none"},
    "normalizer": {"batch": (5, 2), "sample_weight": "first", "normalizer": 7.0},
    "dense": {"kind": "dense"},
    "dense, everything": {
        "kind": "dense",
        "batch": (4, 3),
        "class_axis": 1,
        "class_weight": True,
        "sample_weight": "first",
        "label_smoothing": 0.25,
        "z_loss": 0.125,
    },
}
FUNCTIONS = (cross_entropy, cross_entropy_with_grad)


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if BACKENDS["dask"] not in installed:
        pytest.skip("dask is not under test")


@pytest.fixture(params=CASES)
def problem(request: pytest.FixtureRequest, rng: Generator) -> Problem:
    """One problem for each case."""
    options = dict(CASES[request.param])
    return sample(rng, options.pop("kind", "index"), **options)


@pytest.fixture
def nothing_computes() -> Any:
    """A scheduler that raises."""
    import dask

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a lazy graph was computed")

    return dask.config.set(scheduler=refuse)


def lazy(problem: Problem, size: int, axes: tuple[int, ...]) -> dict[str, Any]:
    """The arrays of a problem, the logits in chunks of `size` along `axes`, the others in one."""
    from dask import array as da

    arrays = {name: da.from_array(value, chunks=-1) for name, value in problem.arrays.items()}
    arrays["logits"] = arrays["logits"].rechunk(dict.fromkeys(axes, size))
    return arrays


def hold(problem: Problem, loss: Any, slope: Any) -> None:
    """Compute, and hold the results to the reference."""
    loss, slope = (part.compute(scheduler="synchronous") for part in (loss, slope))
    assert_accurate(np.asarray(loss), problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("where", ["batch", "classes", "both", "one"])
def test_blocks_give_the_numbers_of_the_reference(
    problem: Problem, where: str, nothing_computes: Any
) -> None:
    """R2, R23: lazy in and out, chunked along batch and classes, with labels in other chunks."""
    axis = problem.class_axis
    batch = tuple(i for i in range(problem.logits.ndim) if i != axis)
    axes = {"batch": batch, "classes": (axis,), "both": (*batch, axis), "one": ()}[where]
    arrays = lazy(problem, 2, axes)
    with nothing_computes:
        loss = cross_entropy(**arrays, **problem.options)
        again, slope = cross_entropy_with_grad(**arrays, **problem.options)
    assert slope.chunks == arrays["logits"].chunks
    assert loss.shape == again.shape
    hold(problem, loss, slope)
    hold(problem, again, slope)


@pytest.mark.parametrize("unknown", ["batch", "classes", "both"])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_sizes_may_be_unknown(
    kind: Any, unknown: str, nothing_computes: Any, rng: Generator
) -> None:
    """R3, R23: chunks of unknown size along the batch, the classes or both."""
    whole = sample(
        rng, kind, batch=(9,), class_weight=True, sample_weight="full", label_smoothing=0.25
    )
    rows = np.ones(9, bool) if unknown == "classes" else np.arange(9) % 3 != 1
    classes = np.ones(5, bool) if unknown == "batch" else np.array([True, False, True, True, True])
    labels = whole.labels[rows]
    labels = labels[:, classes] if kind == "dense" else labels % classes.sum()
    problem = whole.but(
        logits=whole.logits[rows][:, classes],
        labels=labels,
        class_weight=whole.class_weight[classes],
        sample_weight=whole.sample_weight[rows],
    )
    full = whole.labels if kind == "dense" else whole.labels % classes.sum()
    arrays = lazy(whole.but(labels=full), 2, (0, 1))
    for name in ("labels", "sample_weight", "class_weight"):
        chunks = dict(enumerate(arrays["logits"].chunks))
        along = {0: chunks[1]} if name == "class_weight" else {0: chunks[0]}
        if name == "labels" and kind == "dense":
            along = chunks
        arrays[name] = arrays[name].rechunk(along)
    if unknown != "classes":
        for name in ("logits", "labels", "sample_weight"):
            arrays[name] = arrays[name][masked(rows)]
    if unknown != "batch":
        mask = masked(classes)
        arrays["logits"] = arrays["logits"][:, mask]
        arrays["class_weight"] = arrays["class_weight"][mask]
        if kind == "dense":
            arrays["labels"] = arrays["labels"][:, mask]
    with nothing_computes:
        loss, slope = cross_entropy_with_grad(**arrays, **problem.options)
    hold(problem, loss, slope)


def masked(keep: Any) -> Any:
    """A lazy mask in chunks of 2, which makes sizes unknown."""
    from dask import array as da

    return da.from_array(keep, chunks=2)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_sizes_never_broadcast(function: Any, rng: Generator) -> None:
    """R5, R25: chunks that do not fit are refused, at once if they cannot pair up."""
    import dask
    from dask import array as da

    logits = da.from_array(rng.standard_normal((6, 3)), chunks=(3, 3))[masked(np.ones(6, bool))]
    one = da.from_array(np.zeros(4, int), chunks=2)[masked(np.array([True, False, True, False]))]
    with pytest.raises(ShapeError, match="compute_chunk_sizes"):
        function(logits, one)
    logits = da.from_array(rng.standard_normal((4, 3)), chunks=2)[masked(np.ones(4, bool))]
    with pytest.raises(ShapeError, match="chunk"):
        dask.compute(function(logits, one), scheduler="synchronous")


def test_host_data_joins(problem: Problem, nothing_computes: Any) -> None:
    """R2: NumPy labels and weights beside lazy logits."""
    logits = lazy(problem, 2, (0, problem.class_axis))["logits"]
    arrays = problem.arrays | {"logits": logits}
    with nothing_computes:
        loss, slope = cross_entropy_with_grad(**arrays, **problem.options)
    hold(problem, loss, slope)


def test_bad_labels_poison_their_row(rng: Generator) -> None:
    """R17: no value is read, and a wrong label gives NaN in its row alone."""
    problem = sample(rng, reduction="none")
    problem.labels[1:3] = 5, -1
    arrays = lazy(problem, 2, (0, 1))
    hold(problem, *cross_entropy_with_grad(**arrays, **problem.options))


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.5, "label_smoothing": 0.25}])
def test_unusable_rows_are_silent(kind: Any, options: Any, rng: Generator) -> None:
    """R16, R18: log 0 and inf - inf inside the blocks warn of nothing."""
    problem = sample(rng, kind, batch=(7,), classes=3, sample_weight="full", **options)
    problem.logits[:4] = [[0, np.nan, 1], [0, np.inf, 1], [-np.inf] * 3, [-np.inf, 0, 1]]
    problem.sample_weight[:3] = 0
    for reduction in ("mean", "none"):
        for weight in (problem.sample_weight, None):
            case = problem.but(reduction=reduction, sample_weight=weight)
            arrays = lazy(case, 2, (0, 1))
            hold(case, *cross_entropy_with_grad(**arrays, **case.options))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dense", [False, True])
def test_graph_grows_with_the_number_of_blocks(function: Any, axis: int, *, dense: bool) -> None:
    """R23: O(B) tasks for B chunks."""
    from dask import array as da

    def tasks(blocks: int) -> int:
        logits = da.zeros((64, 64), chunks={axis: 64 // blocks, 1 - axis: -1})
        labels = da.zeros_like(logits) if dense else da.zeros(64, dtype=int, chunks=64)
        weights = {"class_weight": np.ones(64), "sample_weight": np.ones(64)}
        result = function(logits, labels, label_smoothing=0.1, **weights)
        graphs = result if isinstance(result, tuple) else (result,)
        return sum(len(dict(graph.__dask_graph__())) for graph in graphs)

    few, more, many = tasks(4), tasks(8), tasks(16)
    assert many - more <= 2.2 * (more - few)


MEMORY = """
import sys, tracemalloc
import dask.array as da, numpy as np
from unified_loss import cross_entropy, cross_entropy_with_grad

dense, chunks = sys.argv[1] == "dense", tuple(map(int, sys.argv[2].split(",")))
logits = da.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32, chunks=chunks)
labels = da.random.default_rng(1).random((4096, 4096), dtype=np.float32, chunks=chunks)
if not dense:
    labels = da.random.default_rng(1).integers(0, 4096, 4096, chunks=chunks[0])
weights = {"class_weight": np.ones(4096, np.float32), "sample_weight": np.ones(4096, np.float32)}
# What the mean of dense labels divides by is known when all labels are; a gradient waits for it.
reduction = "sum" if dense else "mean"
slope = cross_entropy_with_grad(logits, labels, reduction=reduction, **weights)[1]
value = cross_entropy(logits, labels, label_smoothing=0.1, **weights)
tracemalloc.start()
value.compute(scheduler="synchronous")
abs(slope).sum().compute(scheduler="synchronous")
print(tracemalloc.get_traced_memory()[1] / (logits.nbytes * (1 + dense)))
"""


@pytest.mark.parametrize("chunks", ["128,4096", "128,1024"])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_a_loss_larger_than_memory_runs_in_blocks(kind: str, chunks: str) -> None:
    """R23: of logits of 64 MB that are made block by block, a part is ever there at once."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", MEMORY, kind, chunks]
    done = subprocess.run(
        command, cwd=root, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert float(done.stdout) < 0.75
