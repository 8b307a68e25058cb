"""What Python does in a call that is like an earlier one, and how often values are read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unified_loss
from tests.helpers.backends import BACKENDS
from unified_loss import LabelError, LossInputError, cross_entropy
from unified_loss._dispatch import backend_of

PACKAGE = str(Path(unified_loss.__file__).parent)
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((128, 10)).astype(np.float32)
LABELS = RNG.integers(0, 10, 128)
PADDED = np.where(np.arange(128) % 9, LABELS, -100)
WEIGHTS = RNG.uniform(size=10).astype(np.float32)
MOST = {
    ("numpy", "plain"): 16,
    ("numpy", "padded"): 22,
    ("numpy", "class weights"): 22,
    ("torch", "plain"): 16,
    ("torch", "padded"): 16,
    ("torch", "class weights"): 17,
}


def package_calls(function: Callable[[], Any]) -> int:
    """How many functions of the package a repeated call enters."""
    for _ in range(2):
        function()
    found = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal found
        found += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize(("name", "case"), MOST)
def test_a_repeated_call_enters_few_functions(name, case, installed, monkeypatch):
    """R26: padded and weighted calls are remembered as plain ones are."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)  # which is asked whether it calls
    backend = BACKENDS[name]
    if backend not in installed:
        pytest.skip(f"{name} is not under test")
    logits = backend.asarray(LOGITS)
    labels = backend.asarray(PADDED if case == "padded" else LABELS)
    options = {"class_weight": backend.asarray(WEIGHTS)} if case == "class weights" else {}
    assert package_calls(lambda: cross_entropy(logits, labels, **options)) <= MOST[name, case]


READ = {
    "ids": (LABELS, {}),
    "padded": (PADDED, {"label_smoothing": 0.1}),
    "rows": (np.eye(10, dtype=np.float32)[LABELS], {}),
    "wrong": (LABELS + 5, {}),
    "other rows": (np.full((128, 10), 0.5, np.float32), {}),
}


@pytest.mark.filterwarnings("ignore::unified_loss.LossInputWarning")
@pytest.mark.parametrize("check", ["auto", True, False])
@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_read_once(backend, monkeypatch, case, check, weighted):
    """R17, R26: on an accelerator, each reading is a copy and a wait."""
    labels, options = READ[case]
    arrays = {"logits": backend.asarray(LOGITS), "labels": backend.asarray(labels)}
    if weighted:
        arrays["sample_weight"] = backend.asarray(np.ones(128, np.float32))
    module, read = backend_of(arrays["logits"]), []
    original = module.read

    def watched(array, *, wait):
        read.append(id(array))
        return original(array, wait=wait)

    monkeypatch.setattr(module, "read", watched)
    try:
        cross_entropy(**arrays, **options, check=check)
    except LabelError:
        assert case == "wrong"
    except LossInputError as error:  # pragma: no cover (says which)
        pytest.fail(str(error))
    assert len(read) == len(set(read))
    assert check is not False or not read
