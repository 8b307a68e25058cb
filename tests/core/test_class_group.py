"""R33: what can be said of `class_group` without a group; groups are in processes of their own."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import Backend
from tests.helpers.plans import plan
from unified_loss import (
    AmbiguousAxisError,
    BackendError,
    LossInputError,
    ShapeError,
    cross_entropy,
    explain,
    linear_cross_entropy,
)

SPLITTING = {"torch", "jax"}


def test_other_libraries_have_no_groups(backend: Backend) -> None:
    """R33: a `BackendError` that names those which have; with them, what is no group is told."""
    logits = backend.asarray(np.zeros((2, 3)), "float32")
    with pytest.raises(LossInputError, match="class_group") as raised:
        cross_entropy(logits, [0, 1], class_group=3)
    assert isinstance(raised.value, BackendError) is (backend.name not in SPLITTING)


def test_the_number_of_classes_is_that_of_all() -> None:
    """R33: it is not known before the call; a member of one class, or of none, is a member."""
    with pytest.raises(BackendError, match=r"for logits of torch and jax, .* these are of numpy"):
        plan((2, 3), (2,), class_group="classes")
    for size, library, valid in ((1, "jax", True), (0, "torch", True), (0, "jax", False)):
        report = explain((4, size), (4,), framework=library, class_group="classes")
        assert report.valid is valid
        assert report.warnings == ()
        if valid:
            assert report.num_classes is None
            assert dict(report.facts)["class axis"].startswith(f"1 (size {size})")
            assert dict(report.facts)["class_group"].startswith(f"{size} of the classes are here")
        else:
            assert isinstance(report.error, ShapeError)


@pytest.mark.parametrize("library", sorted(SPLITTING))
def test_ids_that_may_be_one_class_are_refused(library: str) -> None:
    """R4, R33: one class is here, and integer labels of size 1 can be its own."""
    known: dict[str, Any] = {"framework": library, "class_group": ("rows", "classes")}
    error = explain("f32[4, 1]", "int64[4, 1]", **known).error
    assert isinstance(error, AmbiguousAxisError)
    assert "one class of a class_group" in str(error)
    for size, labels in ((1, "int64[4]"), (1, "f32[4, 1]"), (1, "bool[4, 1]"), (2, "int64[4, 1]")):
        assert explain(f"f32[4, {size}]", labels, **known).valid
    assert explain("f32[4, 1]", "int64[4, 1]", framework=library).valid


def test_the_linear_form(backend: Backend) -> None:
    """R33: its rules are the same, and `explain` names the walk, of whatever size."""
    hidden, weight = (backend.asarray(np.zeros((2, 3)), "float32") for _ in "hw")
    with pytest.raises(LossInputError, match="class_group") as raised:
        linear_cross_entropy(hidden, weight, [0, 1], class_group=3)
    assert isinstance(raised.value, BackendError) is (backend.name not in SPLITTING)


def test_the_linear_form_is_explained() -> None:
    """R33: a part walks by classes, and has a number of its own of them."""
    for library, classes in (("torch", 9), ("torch", 0), ("torch", 2**20), ("jax", 9)):
        report = explain(
            "float32[8, 400]", "int64[8]", weight=f"float32[{classes}, 400]",
            framework=library, class_group="classes",
        )  # fmt: skip
        assert report.valid
        assert dict(report.facts)["class_group"].startswith(f"{classes} of the classes")
        assert "class_group=class_group" in dict(report.facts)["code"]
        assert report.kernel in {"by classes", None}  # which is not installed


def test_the_kernel_is_told() -> None:
    """R33: `explain` names the route, whose estimate is that of the part."""
    for library in SPLITTING:
        known: dict[str, Any] = {"framework": library, "class_group": ("rows", "classes")}
        report = explain("float32[8, 100]", "int64[8]", **known)
        assert report.kernel in {
            "row statistics of split classes (torch)",
            "row statistics of split classes (XLA)",
            None,  # not installed
        }
