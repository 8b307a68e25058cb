"""Totals over many batches: exact, in any order, and without waiting."""

import copy
import math
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import sample
from tests.helpers.totals import expected, options_of
from unified_loss import (
    ArgumentError,
    BackendError,
    Evaluation,
    LabelError,
    OptionError,
    RunningCrossEntropy,
    ShapeError,
    Totals,
    cross_entropy,
    cross_entropy_totals,
)
from unified_loss import _running as running_module
from unified_loss._exact import ExactSum


def batches(
    rng: Generator, backend: Backend, count: int = 12, **options: Any
) -> list[tuple[Any, Any, Any]]:
    """Logits, labels and weights of different scales and sizes, as arrays of the library."""
    sizes = (1, 3, 7)
    found = []
    for number in range(count):
        problem = sample(rng, batch=(sizes[number % 3],), sample_weight="full", **options)
        logits = (problem.logits * 10.0 ** (number % 5 - 3)).astype(np.float32)
        arrays = logits, problem.labels, problem.sample_weight
        found.append(tuple(backend.asarray(array) for array in arrays))
    return found


def seen(parts: Any, **options: Any) -> RunningCrossEntropy:
    """One that has seen these batches."""
    running = RunningCrossEntropy(**options)
    for logits, labels, weight in parts:
        running.update(logits, labels, sample_weight=weight)
    return running


def test_the_value_is_that_of_one_call(backend: Backend, rng: Generator) -> None:
    """R20, R36: with every option, as if all data came at once."""
    problem = sample(
        rng, batch=(12,), sample_weight="full", class_weight=True, ignored=2,
        label_smoothing=0.125, z_loss=0.25,
    )  # fmt: skip
    options = {**options_of(problem), "class_weight": problem.class_weight}
    running = RunningCrossEntropy(**options)
    for part in (slice(1), slice(1, 8), slice(8, 12)):
        names = ("logits", "labels", "sample_weight")
        logits, labels, weight = (backend.asarray(getattr(problem, name)[part]) for name in names)
        running.update(logits, labels, sample_weight=weight)
    found, truth = running.compute(), expected(problem)
    assert found.loss == pytest.approx(float(backend.loss(problem, "float32")), 1e-6)
    assert found.perplexity == pytest.approx(math.exp(truth.nll / truth.weight), 1e-6)
    assert found.accuracy == pytest.approx(truth.correct / truth.weight, 1e-12)
    assert found.confidence == pytest.approx(truth.confidence / truth.weight, 1e-6)
    assert (found.count, found.mass) == (10, pytest.approx(truth.mass, 1e-6))


def test_no_order_changes_a_bit(backend: Backend, rng: Generator) -> None:
    """R36: any order of updates, shared out to any number, merged in any tree."""
    parts = batches(rng, backend, ignored=1)
    draw = random.Random(0)  # noqa: S311 (no secret)
    found = {seen(parts).compute()}
    for _ in range(5):
        draw.shuffle(parts)
        owners = [RunningCrossEntropy() for _ in range(draw.randrange(1, 5))]
        for logits, labels, weight in parts:
            draw.choice(owners).update(logits, labels, sample_weight=weight)
        while len(owners) > 1:
            last = owners.pop(draw.randrange(len(owners)))
            draw.choice(owners).merge(last)
        found.add(owners[0].compute())
    assert len(found) == 1


def test_sums_are_exact() -> None:
    """R36: equal to the sum of fractions, also at the ends of the range."""
    from fractions import Fraction

    draw = random.Random(1)  # noqa: S311 (no secret)
    values = [draw.lognormvariate(0, 100) * draw.choice([1, -1]) for _ in range(500)]
    values += [5e-324, -5e-324, 2.0**1023, -(2.0**1023), 1e308, 1e308]
    one, other = ExactSum(), ExactSum()
    for value in values:
        draw.choice([one, other]).add(value)
    one.merge(other)
    truth = sum(map(Fraction, values))
    assert one.value() == math.inf
    one.add(-1e308)
    one.add(-1e308)
    assert one.value() == float(truth - 2 * Fraction(1e308))


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1e308], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, math.inf], math.nan),
        ([1e308] * 3, math.inf),
        ([-1e308] * 3, -math.inf),
    ],
)
def test_sums_know_what_is_not_finite(values: list[float], total: float) -> None:
    """R36: in any order."""
    for order in (values, values[::-1]):
        found = ExactSum()
        for value in order:
            found.add(value)
        assert found.value() == total or math.isnan(found.value()) == math.isnan(total)


def test_counts_are_exact() -> None:
    """R36: beyond what floats of any width hold."""
    running = RunningCrossEntropy()
    running.merge(Totals(0.0, 2.0**24, 0.0, 2.0**24, 0.0, 0.0, 2**60))
    for _ in range(3):
        running.update(np.zeros((1, 2), np.float32), [0])
    assert running.compute().count == 2**60 + 3
    assert running.compute().mass == 2**24 + 3


def test_nothing_seen() -> None:
    """R36: loss 0, perplexity 1, and no accuracy; all dropped is nothing."""
    for running in (RunningCrossEntropy(), seen([(np.full((2, 3), np.nan), [-100, -100], None)])):
        loss, perplexity, accuracy, confidence, count, mass = running.compute()
        assert (loss, perplexity, count, mass) == (0, 1, 0, 0)
        assert math.isnan(accuracy)
        assert math.isnan(confidence)


def test_perplexity_overflows_to_infinity() -> None:
    """R36: where a loss is thousands of nats, or infinite."""
    running = seen([(np.array([[0.0, 5000.0]]), [0], None)])
    assert running.compute()[:3] == (5000, math.inf, 0)
    running.update(np.array([[0.0, -np.inf]]), [1])
    assert running.compute()[:3] == (math.inf, math.inf, 0)
    running.update(np.array([[np.nan, 0.0]]), [1])
    assert math.isnan(running.compute().loss)
    assert running.compute().count == 3


def test_masses_that_cancel() -> None:
    """R15, R36: over a mass of exactly 0 the mean is 0, as of one call."""
    logits = np.array([[0.0, 1.0]])
    running = seen([(logits, [0], [1.0]), (logits, [1], [-1.0])])
    assert running.compute().loss == 0
    assert running.compute().count == 2


def test_equals_scikit_learn() -> None:
    """R36: `log_loss` and `accuracy_score` on real data, whatever the batches are."""
    metrics = pytest.importorskip("sklearn.metrics")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    rng = np.random.default_rng(0)
    logits = digits.data @ rng.normal(size=(64, 10)) / 16
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])
    truth = metrics.log_loss(digits.target, probabilities)
    accuracy = metrics.accuracy_score(digits.target, logits.argmax(1))
    found = set()
    for size in (1797, 500, 64, 7):
        running = RunningCrossEntropy()
        for start in range(0, len(logits), size):
            running.update(logits[start : start + size], digits.target[start : start + size])
        value = running.compute()
        assert value.loss == pytest.approx(truth, 1e-13)
        assert value.perplexity == pytest.approx(math.exp(truth), 1e-13)
        assert value.confidence == pytest.approx(probabilities.max(1).mean(), 1e-13)
        found.add((value.accuracy, value.count, value.mass))
    assert found == {(accuracy, 1797, 1797)}


def test_pickles_and_copies(backend: Backend, rng: Generator) -> None:
    """R36: with what is on its way, its options, and class weights of any library."""
    parts = batches(rng, backend)
    weight = backend.asarray(np.array([1, 2, 1, 0.5, 1], np.float32))
    running = seen(parts, class_weight=weight, label_smoothing=0.25)
    again = pickle.loads(pickle.dumps(running))  # noqa: S301 (our own)
    assert again.compute() == running.compute() == copy.deepcopy(running).compute()
    running.merge(again)
    for logits, labels, weights in parts:
        again.update(logits, labels, sample_weight=weights)
    assert again.compute() == running.compute()


def test_reset_forgets_all_but_the_options(backend: Backend, rng: Generator) -> None:
    """R36: also what is on its way."""
    running = seen(batches(rng, backend), label_smoothing=0.25)
    running.reset()
    assert running.compute()[4:] == (0, 0)
    assert repr(running) == "RunningCrossEntropy(label_smoothing=0.25)"


def _worker(seed: int) -> RunningCrossEntropy:
    return seen(batches(np.random.default_rng(seed), BACKENDS["numpy"]))


def test_merges_over_processes_and_threads() -> None:
    """R36: the same bits from processes, threads and this one."""
    alone = RunningCrossEntropy()
    for seed in range(4):
        alone.merge(_worker(seed))
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        found = list(processes.map(_worker, range(4)))
    with ThreadPoolExecutor(4) as threads:
        found += threads.map(_worker, range(4))
    for four in (found[:4], found[:3:-1]):
        merged = RunningCrossEntropy()
        for each in four:
            merged.merge(each)
        assert merged.compute() == alone.compute()


def test_merging_leaves_the_other_as_it_is(backend: Backend, rng: Generator) -> None:
    """R36: one can even be merged with itself."""
    running, other = seen(batches(rng, backend)), seen(batches(rng, backend, 2))
    before = other.compute().count
    running.merge(other)
    running.merge(other)
    assert other.compute().count == before
    count, loss = running.compute().count, running.compute().loss
    running.merge(running)
    assert running.compute().count == 2 * count
    assert running.compute().loss == loss


def test_totals_of_a_program_join(backend: Backend, mode: str, rng: Generator) -> None:
    """R35, R36: 0-d arrays of any library, eager or traced, and numbers."""
    problem = sample(rng)
    arrays = backend.place(problem, "float32")
    totals = backend.on_arrays(cross_entropy_totals, arrays, mode)
    running = RunningCrossEntropy()
    running.merge(totals)
    running.merge(Totals.zero())
    direct = RunningCrossEntropy()
    direct.update(arrays["logits"], arrays["labels"])
    assert running.compute().count == 6
    np.testing.assert_allclose(running.compute(), direct.compute(), rtol=1e-6)


def test_libraries_mix(installed: list[Backend], rng: Generator) -> None:
    """R2, R36: each update goes by its own logits."""
    problem, running = sample(rng), RunningCrossEntropy()
    for backend in installed:
        running.update(backend.asarray(problem.logits), problem.labels)
    loss = float(cross_entropy(problem.logits, problem.labels))
    assert running.compute().loss == pytest.approx(loss, 1e-6)
    assert running.compute().count == 6 * len(installed)


def test_mistakes_are_refused() -> None:
    """R25, R26, R36: in our words, and the sums are those of before."""
    running = seen([(np.zeros((2, 3)), [0, 1], None)])
    before = running.compute()
    with pytest.raises(LabelError):
        running.update(np.zeros((2, 3)), [0, 3])
    with pytest.raises(ShapeError):
        running.update(np.zeros((2, 3)), [0])
    with pytest.raises(ArgumentError, match="update has no argument 'mask'"):
        running.update(np.zeros((2, 3)), [0, 1], mask=[True, False])
    with pytest.raises(ArgumentError, match="labels"):
        running.update(np.zeros((2, 3)))
    with pytest.raises(
        ArgumentError, match="merge takes a RunningCrossEntropy or Totals, not dict"
    ):
        running.merge({})
    with pytest.raises(ShapeError, match=r"totals must be 0-d arrays, but have shape \(2,\)"):
        running.merge(Totals(*np.zeros((6, 2)), np.zeros(2, int)))
    assert running.compute() == before


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"label_smoothing": 2}, OptionError),
        ({"z_loss": -1}, OptionError),
        ({"ignore_index": 0.5}, OptionError),
        ({"check": "always"}, OptionError),
        ({"axis": 1.5}, OptionError),
        ({"class_weight": [[1, 2]]}, ShapeError),
        ({"class_weight": {0: 1}}, BackendError),
        ({"reduction": "sum"}, ArgumentError),
        ({"normalizer": 3}, ArgumentError),
        ({"weight": [1, 2]}, ArgumentError),
    ],
)
def test_options_are_checked_first(options: dict[str, Any], error: type[Exception]) -> None:
    """R8, R26, R36: when the object is made."""
    with pytest.raises(error):
        RunningCrossEntropy(**options)


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.5}, {"z_loss": 1}, {"ignore_index": None}, {"class_weight": [1, 2]}],
)
def test_sums_of_other_options_are_not_merged(options: dict[str, Any]) -> None:
    """R36: they mean something else."""
    (name,) = options
    for one, other in ((options, {}), ({}, options)):
        with pytest.raises(OptionError, match=f"sums of another {name} cannot be merged"):
            RunningCrossEntropy(**one).merge(RunningCrossEntropy(**other))
    RunningCrossEntropy(**options).merge(RunningCrossEntropy(**options, axis=1, check=False))


def test_class_weights_are_copied() -> None:
    """R36: a change of the list or the array afterwards changes nothing."""
    weight = np.array([1.0, 3.0])
    running = RunningCrossEntropy(class_weight=weight)
    weight[:] = 0
    running.update(np.zeros((1, 2)), [1])
    assert running.compute().mass == 3


def test_repr_shows_the_options() -> None:
    """R36: those that are not the defaults."""
    running = RunningCrossEntropy(axis=1, class_weight=[1, 2, 3], z_loss=0.5, ignore_index=None)
    told = "class_weight=(3 classes), axis=1, ignore_index=None, z_loss=0.5"
    assert repr(running) == f"RunningCrossEntropy({told})"


@pytest.mark.parametrize("answer", [True, False, None])
def test_what_is_on_its_way_is_bounded(
    answer: Any, monkeypatch: pytest.MonkeyPatch, installed: list[Backend]
) -> None:
    """R36: what has arrived is added up; what has not is not waited for."""
    backend = next((one for one in installed if one.name == "array_api_strict"), None)
    if backend is None:
        pytest.skip("array_api_strict is not under test")
    from unified_loss._backends.array_api import ArrayApiBackend

    monkeypatch.setattr(ArrayApiBackend, "has_arrived", lambda *_: answer)
    monkeypatch.setattr(running_module, "MANY", 100)
    running = RunningCrossEntropy()
    logits, labels = backend.asarray(np.zeros((1, 2), np.float32)), [0]
    for number in range(150):
        running.update(logits, labels)
        assert len(running._pending) <= {True: 63, None: 100, False: number + 1}[answer]
    assert answer is not False or len(running._pending) == 150
    assert running.compute().count == 150
    assert not running._pending


def test_a_failed_fetch_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, installed: list[Backend]
) -> None:
    """R36: a result that could not be had is asked for again."""
    dask = BACKENDS["dask"]
    if dask not in installed:
        pytest.skip("dask is not under test")
    array = pytest.importorskip("dask.array")
    fails = [True]

    def chunk(block: Any) -> Any:
        if fails:
            raise OSError("a worker died")
        return block

    logits = array.zeros((4, 3), chunks=2).map_blocks(chunk, meta=np.zeros((0, 3)))
    running = RunningCrossEntropy()
    for _ in range(3):
        running.update(logits, [0, 1, 2, 0])
    with pytest.raises(OSError, match="a worker died"):
        running.compute()
    fails.clear()
    assert running.compute().count == 12


def test_update_is_refused_while_tracing(backend: Backend) -> None:
    """R36: there are no numbers to hold; the sums of a program are merged afterwards."""
    if backend.modes == ("eager",) or backend.name == "dask":
        pytest.skip("nothing is traced")
    running = RunningCrossEntropy()

    def step(logits: Any, labels: Any) -> Any:
        running.update(logits, labels)
        return logits

    problem = sample(np.random.default_rng(0))
    arrays = backend.place(problem, "float32")
    refused = pytest.raises(Exception if backend.name == "torch" else BackendError)
    with refused as told:
        backend.on_arrays(step, {"logits": arrays["logits"], "labels": arrays["labels"]}, "traced")
    assert "there are none while a program is traced" in str(told.value)
    assert running.compute().count == 0


def test_evaluation_has_names() -> None:
    """R36: a tuple of numbers."""
    found = RunningCrossEntropy().compute()
    assert isinstance(found, Evaluation)
    assert found._fields == ("loss", "perplexity", "accuracy", "confidence", "count", "mass")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("result", r"compute\(\)$"),
        ("perplexity", r"what compute\(\) returns$"),
        ("update_state", r"update\(logits, labels\)$"),
        ("reset_states", r"reset\(\)$"),
        ("other", "'other'$"),
    ],
)
def test_words_of_other_libraries_are_answered(word: str, told: str) -> None:
    """R8: those of metrics of Keras and PyTorch."""
    with pytest.raises(AttributeError, match=told):
        getattr(RunningCrossEntropy(), word)
