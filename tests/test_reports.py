"""73 public reports of mismatched logits and labels: each works, or is explained."""

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.backends import BACKENDS, Backend
from tests.problems import Array, Problem
from tests.reference import evaluate
from unified_loss import LossInputError, SingleClassWarning, cross_entropy

LINES = (Path(__file__).parent / "data" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
REPORTS = {report["id"]: report for report in map(json.loads, LINES)}
LIBRARIES = {"keras": "tensorflow", "mxnet": "numpy", "other": "numpy"}

# What the contract makes a valid call, which other losses refuse.
WORKS = {
    "c001": "one-hot rows are dense labels",
    "c003": "one-hot rows are dense labels",
    "c005": "one-hot rows are dense labels",
    "c007": "one-hot rows are dense labels",
    "c009": "one-hot rows are dense labels",
    "c012": "class ids are index labels",
    "c035": "the class axis is found, be it the last",
    "c037": "the class axis is found, be it the second",
    "c094": "any integer dtype",
    "c096": "any integer dtype",
    "c104": "logits and labels of one example",
    "c106": "a mask may keep the class axis at size 1",
    "c108": "a mask may keep the class axis at size 1",
    "c109": "one-hot rows are dense labels",
    "c131": "probabilities are dense labels",
}


class Outcome(NamedTuple):
    """What a call says: the tags of the readings that are shown, the best first, and the text."""

    verdict: str
    tags: tuple[str, ...] = ()
    text: str = ""


def one_hot(rng: np.random.Generator, shape: tuple[int, ...], classes: int | None) -> Array:
    """One-hot rows along the axis of that size; flattened ones, if they have no axis."""
    if len(shape) == 1 and classes:
        return np.eye(classes)[rng.integers(0, classes, shape[0] // classes)].reshape(shape)
    sized = [axis for axis, size in enumerate(shape) if size == classes]
    axis = sized[-1] if sized else len(shape) - 1
    ids = rng.integers(0, shape[axis], (*shape[:axis], *shape[axis + 1 :]))
    return np.moveaxis(np.eye(shape[axis])[ids], -1, axis)


def labels_of(report: dict[str, Any], rng: np.random.Generator) -> Array:
    """Labels as a report describes them."""
    shape, classes = tuple(report["labels_shape"]), report["num_classes"]
    kind, cause = report["labels_kind"], report["cause"]
    if kind == "regression target" or cause == "arguments_swapped":
        return rng.standard_normal(shape)
    if cause == "multi_hot_given_to_single_label_loss" and len(shape) > 2:
        return rng.integers(0, 2, shape)
    if kind == "one-hot":
        return one_hot(rng, shape, classes)
    if kind == "probabilities":
        raw = rng.random(shape)
        return raw / raw.sum(-1, keepdims=True) if shape[-1] > 1 else raw
    width = classes or min(report["logits_shape"][1:2] or [2])
    low, high = report["label_range"] or (0, width - 1)
    ids = rng.integers(low, high + 1, shape)
    if ids.size > 1:
        ids.reshape(-1)[[0, -1]] = low, high
    return ids


def arguments_of(report: dict[str, Any]) -> dict[str, Any]:
    """The call of a report, in NumPy."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal(report["logits_shape"])
    if report["cause"] == "double_softmax":
        logits = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    dtype = report["labels_dtype"].replace("unknown", "float32")
    arguments = {
        "logits": logits.astype(report["logits_dtype"]),
        "labels": labels_of(report, rng).astype(dtype),
    }
    if report["weight_shape"]:
        arguments["class_weight"] = np.ones(report["weight_shape"], np.float32)
    return arguments


def outcome_of(report: dict[str, Any], backend: Backend, *, check: str | bool) -> Outcome:
    """What the call of a report says in its framework; if nothing, then with ``check=True``."""
    options = {"axis": (-2, -1)} if report["cause"] == "class_axis_argument_invalid" else {}
    arrays = {name: backend.asarray(value) for name, value in arguments_of(report).items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss = cross_entropy(**arrays, **options, check=check)
        except LossInputError as error:
            return Outcome("explained", tuple(r.tag for r in error.readings), str(error))
    if caught:
        found = [warning.message for warning in caught]
        tags = tuple(getattr(warning, "cause", "") for warning in found)
        return Outcome("explained", tags, " ".join(map(str, found)))
    if check == "auto":
        return outcome_of(report, backend, check=True)
    assert_is_right(report, backend.to_numpy(loss))
    return Outcome("worked")


def assert_is_right(report: dict[str, Any], loss: Array) -> None:
    """A call that works gives the loss that is meant."""
    logits, labels = arguments_of(report).values()
    dense = logits.shape == labels.shape
    axis = -1 if dense or labels.ndim != logits.ndim else 1
    if not dense and labels.ndim == logits.ndim - 1 and labels.shape != logits.shape[:-1]:
        axis = 1
    few = tuple(slice(0, 2) if size > 64 and i != axis % logits.ndim else slice(None)
                for i, size in enumerate(logits.shape))  # fmt: skip
    if logits.size < 10_000:
        true = evaluate(Problem(logits, labels, axis % logits.ndim, axis)).loss
    else:  # the reference is slow: the mean of few rows is enough to see which axis was taken
        assert np.isfinite(loss)
        picked = tuple(s for i, s in enumerate(few) if i != axis % logits.ndim)
        kept = few if labels.ndim == logits.ndim else picked
        whole = Problem(logits[few], labels[kept], axis % logits.ndim, axis)
        true, loss = evaluate(whole).loss, cross_entropy(logits[few], labels[kept], axis=axis)
    np.testing.assert_allclose(loss, float(true), rtol=1e-5)


@pytest.mark.parametrize("name", REPORTS)
def test_report_works_or_is_explained(name: str) -> None:
    """R17, R25: a mistake has its cause among the readings, and a fix that the report confirms."""
    report = REPORTS[name]
    backend = BACKENDS[LIBRARIES.get(report["framework"], report["framework"])]
    if not backend.is_installed():
        pytest.skip(f"{backend.name} is not installed")
    found = outcome_of(report, backend, check="auto")
    assert (found.verdict == "worked") is (name in WORKS), found.text
    if found.verdict == "explained":
        assert report["cause"] in found.tags
        assert any(word.lower() in found.text.lower() for word in report["fix_keywords"])
        assert len(found.text.splitlines()) <= 12


def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    """R25: the cause is the first reading of most reports, and none is missed; on NumPy alone."""
    score: Counter[tuple[str, str]] = Counter()
    for report in REPORTS.values():
        found = outcome_of(report, BACKENDS["numpy"], check="auto")
        is_right = found.verdict == "worked" or report["cause"] in found.tags
        score[report["framework"], found.verdict if is_right else "missed"] += 1
        score["first", found.verdict] += found.tags[:1] == (report["cause"],)
    lines = []
    for framework in sorted({name for name, _ in score} - {"first"}):
        counts = (f"{score[framework, v]} {v}" for v in ("worked", "explained", "missed"))
        lines.append(f"  {framework:<10} {', '.join(counts)}\n")
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(lines))
    missed = sum(number for (_, verdict), number in score.items() if verdict == "missed")
    explained = len(REPORTS) - len(WORKS)
    assert missed == 0
    assert score["first", "explained"] >= 0.85 * explained


def test_single_output_unit_names_its_cause() -> None:
    """R9: the warning has the tag too."""
    assert SingleClassWarning.cause == "single_output_unit_with_categorical_loss"
