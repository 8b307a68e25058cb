"""NumPy in blocks and in threads: the same numbers as all at once, whatever the walk."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.plans import plan
from unified_loss import _threads as threads
from unified_loss import cross_entropy, cross_entropy_totals, cross_entropy_with_grad
from unified_loss._backends import numpy as backend
from unified_loss._blocks import cuts

SHAPES = [
    ((700, 10), 1),
    ((10, 700), 0),
    ((30, 200), 1),
    ((3, 21, 12, 12), 1),
    ((5, 40, 30), 2),
    ((40, 30, 5), 1),
    ((2, 3, 4, 50, 5), 3),
    ((33, 1, 200), 2),
]
OPTIONS = [
    "plain",
    "ignored",
    "dense",
    "finite",
    "class_weight",
    "sample_weight",
    "first",
    "mask",
    "all",
]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks and thresholds for a few thousand logits."""
    sizes = {"SHORT": 0, "SMALL": 500, "TRANSPOSED_BLOCK": 600, "BLOCK": 1000, "PARALLEL": 2000}
    for name, size in sizes.items():
        monkeypatch.setattr(backend, name, size)


def sample(shape, axis, option, rng):
    """Logits, labels and options, with a class that one row cannot have."""
    logits = rng.standard_normal(shape).astype(np.float32)
    if option != "finite":
        logits[tuple(rng.integers(size) for size in shape)] = -np.inf
    axis %= len(shape)
    batch, classes = shape[:axis] + shape[axis + 1 :], shape[axis]
    labels, options = rng.integers(0, classes, batch), {"axis": axis}
    if option == "ignored":
        labels.reshape(-1)[::3] = -100
    if option in {"dense", "finite"}:
        labels = np.moveaxis(np.eye(classes)[labels], -1, axis)
    if option in {"class_weight", "all"}:
        options["class_weight"] = rng.uniform(size=classes)
    if option in {"sample_weight", "all"}:
        options["sample_weight"] = rng.uniform(size=batch) * (rng.uniform(size=batch) > 0.3)
    if option == "first":
        options["sample_weight"] = rng.uniform(size=batch[:1])
    if option == "mask":
        options["sample_weight"] = rng.uniform(size=batch) > 0.3
    if option == "all":
        options |= {"label_smoothing": 0.1, "z_loss": 0.1, "reduction": "none"}
    return logits, labels, options


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_blocks_change_no_number(small_blocks, monkeypatch, shape, axis, option, rng):
    """R3, R14, R20: loss and gradient in blocks are those of all rows at once."""
    logits, labels, options = sample(shape, axis, option, rng)
    loss, slope = cross_entropy_with_grad(logits, labels, **options)
    np.testing.assert_array_equal(loss, cross_entropy(logits, labels, **options))
    monkeypatch.setattr(backend, "SMALL", 10**9)
    whole_loss, whole_slope = cross_entropy_with_grad(logits, labels, **options)
    assert loss.shape == whole_loss.shape
    assert slope.shape == logits.shape
    assert slope.dtype == np.float32
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
    np.testing.assert_allclose(slope, whole_slope, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("option", ["plain", "finite", "first", "kept", "all"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_order_in_memory_changes_no_number(small_blocks, order, axis, option, rng):
    """R13, R20: axes may lie in any order, and those of the gradient lie as the logits' do."""
    logits, labels, options = sample((30, 20, 10), axis, option, rng)
    if option == "kept":
        labels = np.expand_dims(labels, axis)
    there = np.ascontiguousarray(logits.transpose(order)).transpose(np.argsort(order))
    loss, slope = cross_entropy_with_grad(there, labels, **options)
    other_loss, other_slope = cross_entropy_with_grad(logits, labels, **options)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    np.testing.assert_allclose(slope, other_slope, rtol=1e-5, atol=3e-7)
    assert slope.strides == there.strides
    totals, others = (cross_entropy_totals(x, labels, axis=axis) for x in (there, logits))
    np.testing.assert_allclose(totals.loss, others.loss, rtol=1e-5)
    assert totals.correct == others.correct


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("row", [0.0, np.nan])
def test_a_label_row_of_nothing_or_nan_in_one_walk(small_blocks, row, reduction, rng):
    """R8, R15: what "mean" divides by is known once all labels were read, here and all at once."""
    logits = rng.standard_normal((300, 20)).astype(np.float32)
    labels = rng.dirichlet(np.ones(20), 300).astype(np.float32)
    labels[[7, 280]] = row
    loss, slope = cross_entropy_with_grad(logits, labels, reduction=reduction)
    few = [cross_entropy_with_grad(logits[i : i + 5], labels[i : i + 5], reduction="sum")
           for i in range(0, 300, 5)]  # fmt: skip
    if reduction == "none":
        loss = loss.sum()
    number = 298 if row == 0 else 300
    scale = 1 / number if reduction == "mean" else 1
    np.testing.assert_allclose(loss, sum(one for one, _ in few) * scale, rtol=1e-5)
    whole = np.concatenate([each for _, each in few]) * scale
    np.testing.assert_allclose(slope, whole, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize(("shape", "axis"), [((3000, 40), 0), ((2, 5001, 6), 1), ((40, 3000), 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_sums_along_any_axis_keep_their_digits(shape, axis, reverse, rng):
    """R20: of thousands of exponentials, whatever lies beside them in memory."""
    logits = rng.standard_normal(shape).astype(np.float32)
    if reverse:
        logits = np.asfortranarray(logits)
    labels = np.zeros(shape[:axis] + shape[axis + 1 :], int)
    found = cross_entropy(logits, labels, axis=axis, reduction="none")
    x = np.moveaxis(logits, axis, -1).astype(np.float64)
    wanted = np.log(np.exp(x).sum(-1)) - x[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7 * np.abs(wanted).max())


ORDERS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "reversed": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
}


@pytest.mark.parametrize("labels_lie", ORDERS)
@pytest.mark.parametrize("logits_lie", ORDERS)
@pytest.mark.parametrize("size", [(400, 1000), (20, 60_000)])
def test_digits_are_kept_in_any_order(size, logits_lie, labels_lie, rng):
    """R20: sums of products, of which one factor lies in rows and one in columns."""
    logits = rng.standard_normal(size).astype(np.float32)
    labels = rng.random(size).astype(np.float32)
    labels /= labels.sum(1, keepdims=True)
    x, t = logits.astype(np.float64), labels.astype(np.float64)
    wanted = np.log(np.exp(x).sum(-1)) * t.sum(-1) - (t * x).sum(-1)
    logits, labels = ORDERS[logits_lie](logits), ORDERS[labels_lie](labels)
    found = cross_entropy(logits, labels, reduction="none", axis=1)
    assert np.max(np.abs(found - wanted) / np.spacing(wanted.astype(np.float32))) < 5


def test_long_rows_of_pixels_are_cut_into_lines_of_memory():
    """A few neighbors at a time would be read from as many lines as many."""
    widths = [cut[2].stop - cut[2].start for cut in cuts((1, 52_332, 196), backend.BLOCK)]
    assert min(widths) == 32


@pytest.mark.parametrize("shape", [(329, 1551), (1000, 900), (177, 2864)])
def test_what_threads_share_is_two_blocks_at_least(shape):
    """R20: of the same size, whatever the number of threads."""
    walk = backend.BACKEND.route(plan(shape, shape[:1], z_loss=0.1), math.prod(shape)).walk
    sizes = [block[0].stop - block[0].start for block in cuts((*shape, 1), walk.size)]
    assert len(sizes) == 2
    assert 0 <= sizes[0] * 2 - shape[0] < 4


@pytest.mark.parametrize("rows", [1200, 1800, 2700, 20_011])
def test_blocks_are_even_in_number(rows):
    """R20: so that neither of two threads waits for the other."""
    walk = backend.BACKEND.route(plan((rows, 1000), (rows,)), rows * 1000).walk
    number = len(list(cuts((rows, 1000, 1), walk.size)))
    assert number % 2 == 0
    assert rows * 1000 / number <= backend.BLOCK


def test_any_number_of_threads_gives_the_same_bits(small_blocks, monkeypatch, rng):
    """R21: blocks are computed alone, so who computes them changes nothing."""
    logits, labels, options = sample((3, 21, 12, 12), 1, "all", rng)
    results = []
    for number in ("1", "2", "5"):
        monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", number)
        results.append(cross_entropy_with_grad(logits, labels, **options))
    for loss, slope in results[1:]:
        np.testing.assert_array_equal(loss, results[0][0])
        np.testing.assert_array_equal(slope, results[0][1])


def test_bad_logits_in_a_thread_warn_nobody(small_blocks, monkeypatch):
    """R18: NumPy's error state belongs to a thread, and every thread is quiet."""
    monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", "3")
    logits = np.full((400, 10), -np.inf, np.float32)
    assert np.isnan(cross_entropy(logits, np.zeros(400, int)))


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_in_a_thread_is_raised(number):
    """R26: what fails in one block fails the call, and nothing writes on after it."""

    def work(item):
        if item == 3:
            raise RuntimeError(item)

    with pytest.raises(RuntimeError, match="3"):
        threads.for_each(work, range(50), threads=number, around=lambda share: share())


SCRIPT = """
import atexit, os
import numpy as np
from unified_loss import cross_entropy

logits, labels = np.zeros((2**18, 4), np.float32), np.zeros(2**18, int)
expected = np.float32(np.log(4))
assert np.isclose(cross_entropy(logits, labels), expected)
child = os.fork()
if child == 0:
    os._exit(0 if np.isclose(cross_entropy(logits, labels), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
atexit.register(lambda: print(np.isclose(cross_entropy(logits, labels), expected)))
"""


def test_threads_survive_a_fork_and_the_end_of_the_interpreter():
    """R21: a forked child has a pool of its own, and at exit one thread does all the work."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"UNIFIED_LOSS_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,  # to end a hang
    )
    assert done.stdout.strip() == "True", done.stderr


def test_calls_from_many_threads_do_not_meet(small_blocks, rng):
    """R21: eight threads that call at once get what each would get alone."""
    from concurrent.futures import ThreadPoolExecutor

    calls = [sample((3, 21, 12, 12), 1, "all", rng) for _ in range(8)]
    alone = [cross_entropy(x, y, **options) for x, y, options in calls]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda call: cross_entropy(call[0], call[1], **call[2]), calls * 5)
        )
    for found, expected in zip(together, alone * 5, strict=True):
        np.testing.assert_array_equal(found, expected)
