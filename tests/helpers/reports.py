"""`make reports`: how many public reports of mismatched inputs work, or are explained.

Each report of ``data/reports.jsonl`` is a call that somebody made, and its true cause. The score of
a report is the first of these that holds:

works       the call gives the loss that was meant
first       the true cause is the best reading
among       the true cause is another of the readings that are shown
misleading  the best reading is wrong, and begins with code that makes the call valid
missed      nothing that is shown is the true cause
"""

import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import Array, Problem
from tests.helpers.reference import evaluate
from unified_loss import LossInputError, cross_entropy
from unified_loss._call import diagnose

LINES = (
    (Path(__file__).parents[1] / "data" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
)
REPORTS = {report["id"]: report for report in map(json.loads, LINES)}
LIBRARIES = {"keras": "tensorflow", "mxnet": "numpy", "other": "numpy"}
SCORES = "works", "first", "among", "missed", "misleading"

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
    "n010": "-100 is ignored",
    "n016": "a mask may keep the class axis at size 1",
    "n042": "the class axis is found, be it the last",
    "n046": "any integer dtype",
}


class Outcome(NamedTuple):
    """What a call says: all readings that are shown, the best first, and the text."""

    verdict: str
    readings: tuple[Any, ...] = ()
    text: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """The causes of the readings."""
        return tuple(reading.tag for reading in self.readings)


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
    is_several = cause == "multi_hot_given_to_single_label_loss" and shape[0] > 1
    if kind == "class names" or is_several:
        ids = rng.integers(0, 2, shape)
        return ids if is_several else np.array(["cat", "dog"])[ids]
    if kind == "regression target" or cause == "arguments_swapped":
        return rng.standard_normal(shape)
    if kind == "one-hot":
        twice = cause == "one_hot_applied_twice"
        rows = one_hot(rng, shape[:-1] if twice else shape, classes)
        return np.eye(shape[-1])[rows.astype(int)] if twice else rows
    if kind == "probabilities":
        raw = rng.random(shape)
        return raw / raw.sum(-1, keepdims=True) if shape[-1] > 1 else raw
    width = classes or min(report["logits_shape"][1:2] or [2])
    low, high = report["label_range"] or (0, width - 1)
    ids = rng.integers(low if low == high or low >= -1 else 0, high + 1, shape)
    if cause == "label_out_of_range_raw_pixels" and high == 255:
        ids = rng.integers(0, 2, shape) * 255
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


def arrays_of(report: dict[str, Any], backend: Backend) -> dict[str, Any]:
    """The call of a report, in a library."""
    given = arguments_of(report)
    arrays: dict[str, Any] = {
        name: value if value.dtype.kind == "U" else backend.asarray(value)
        for name, value in given.items()
    }
    if report["cause"] == "class_axis_argument_invalid":
        arrays["axis"] = (-2, -1)
    if report.get("call") == "hf_output":
        arrays["logits"] = SimpleNamespace(loss=None, logits=arrays["logits"])
    if report.get("call") == "class_weight_dict":
        arrays["class_weight"] = dict(enumerate(given["class_weight"].tolist()))
    return arrays


def outcome_of(report: dict[str, Any], backend: Backend, *, check: str | bool) -> Outcome:
    """What the call of a report says in its framework; if nothing, then with ``check=True``."""
    arrays = arrays_of(report, backend)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss = cross_entropy(**arrays, check=check)
        except LossInputError as error:
            return Outcome("explained", error.readings, str(error))
    if caught:
        found = [warning.message for warning in caught]
        readings = tuple(SimpleNamespace(tag=getattr(one, "cause", ""), fixes=()) for one in found)
        return Outcome("explained", readings, " ".join(map(str, found)))
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


def score_of(report: dict[str, Any], found: Outcome, arguments: dict[str, Any]) -> str:
    """How good an outcome is."""
    if found.verdict == "worked":
        return "works" if report["id"] in WORKS else "missed"
    true = report["cause"]
    if found.tags[:1] == (true,):
        return "first"
    meant = [fix for one in found.readings if one.tag == true for fix in one.fixes if fix.code]
    first = next((fix for one in found.readings[:1] for fix in one.fixes[:1] if fix.code), None)
    if first and loss_of(first, arguments) not in {loss_of(fix, arguments) for fix in meant}:
        return "misleading"
    return "among" if true in found.tags else "missed"


def loss_of(fix: Any, arguments: dict[str, Any]) -> str:
    """What the mended call returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f"{float(cross_entropy(**fix.apply(**arguments))):.5g}"


def scores() -> dict[str, tuple[str, Outcome]]:
    """The score of each report, each in its framework."""
    found = {}
    for name, report in REPORTS.items():
        backend = BACKENDS[LIBRARIES.get(report["framework"], report["framework"])]
        outcome = outcome_of(report, backend, check="auto")
        found[name] = score_of(report, outcome, arrays_of(report, backend)), outcome
    return found


def times_of_diagnosis() -> list[float]:
    """How long the calls on NumPy that are refused take to say why, in ms, the best of three."""
    spent: list[float] = []

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        diagnose(*arguments)
        spent.append(1e3 * (time.perf_counter() - start))

    best = []
    with mock.patch("unified_loss._call.diagnose", timed):
        for report in REPORTS.values():
            spent.clear()
            for _ in range(3):
                outcome_of(report, BACKENDS["numpy"], check="auto")
            best += [min(spent)] if spent else []
    return sorted(best)


def table(found: dict[str, tuple[str, Outcome]], key: str) -> str:
    """The scores by one field of the reports."""
    counted: dict[str, Counter[str]] = {}
    for name, (score, _) in found.items():
        counted.setdefault(str(REPORTS[name][key]), Counter())[score] += 1
    width = max(map(len, counted))
    rows = [" ".join([key.ljust(width), *(score.rjust(10) for score in SCORES)])]
    for value in sorted(counted):
        numbers = (str(counted[value][score] or ".").rjust(10) for score in SCORES)
        rows.append(" ".join([value.ljust(width), *numbers]))
    return "\n".join(rows)


def main() -> None:
    """Print the scores."""
    found = scores()
    total = Counter(score for score, _ in found.values())
    good = total["works"] + total["first"]
    shown = good + total["among"]
    times = times_of_diagnosis()
    lines = [
        table(found, "framework"),
        table(found, "cause"),
        (
            f"{len(found)} reports: {good / len(found):.0%} work or have their cause first, "
            f"{shown / len(found):.0%} work or show it, {total['misleading']} mislead; a diagnosis "
            f"takes {times[len(times) // 2]:.1f} ms (median), {times[-1]:.1f} ms at most"
        ),
        *(f"{name}: {score}; the cause is {REPORTS[name]['cause']}\n{outcome.text}"
          for name, (score, outcome) in found.items() if score not in {"works", "first"}),
    ]  # fmt: skip
    sys.stdout.write("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
