"""The family of errors and warnings."""

import copy
import pickle
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unified_loss
from unified_loss import (
    AmbiguousAxisError,
    ArgumentError,
    BackendError,
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    SingleClassWarning,
    cross_entropy,
)

BASES = {
    LossInputError: (ValueError,),
    ShapeError: (LossInputError,),
    AmbiguousAxisError: (ShapeError,),
    DTypeError: (LossInputError, TypeError),
    BackendError: (LossInputError, TypeError),
    OptionError: (LossInputError,),
    ArgumentError: (OptionError, TypeError),
    LabelError: (LossInputError,),
    LossInputWarning: (UserWarning,),
    SingleClassWarning: (LossInputWarning,),
}
ERRORS = [kind for kind in BASES if issubclass(kind, Exception) and not issubclass(kind, Warning)]
LOGITS = np.zeros((2, 3), np.float32)
MISTAKES: dict[type[LossInputError], dict[str, Any]] = {
    ShapeError: {"labels": [0, 1, 2]},
    AmbiguousAxisError: {"logits": np.zeros((2, 3, 3)), "labels": np.zeros((2, 3), int)},
    DTypeError: {"labels": [0.0, 1.0]},
    BackendError: {"labels": None},
    OptionError: {"labels": [0, 1], "z_loss": -1},
    ArgumentError: {"labels": [0, 1], "weight": None},
    LabelError: {"labels": [0, 3]},
}


@pytest.mark.parametrize("kind", BASES)
def test_base_classes(kind: type) -> None:
    """R25: one family below `ValueError`, dtypes and libraries also below `TypeError`."""
    assert kind.__bases__ == BASES[kind]


def test_family_is_public_and_complete() -> None:
    """R25: every member is a public name, and there is no other."""
    public = {getattr(unified_loss, name) for name in unified_loss.__all__}
    kinds = {value for value in public if isinstance(value, type)}
    assert {kind for kind in kinds if issubclass(kind, Exception)} == set(BASES)


def test_few_frames_of_the_package_show() -> None:
    """R25: what people see is their own line, and at most two of ours."""
    folder = str(Path(unified_loss.__file__).parent)
    for arguments in ((LOGITS, [0, 3]), (LOGITS, [0, 1, 2]), ([[1.0]], [0]), (LOGITS, None)):
        for function in (cross_entropy, unified_loss.cross_entropy_with_grad):
            with pytest.raises(LossInputError) as caught:
                function(*arguments)
            frames = traceback.extract_tb(caught.value.__traceback__)
            assert 1 <= sum(frame.filename.startswith(folder) for frame in frames) <= 2


@pytest.mark.parametrize("kind", ERRORS)
def test_init_is_that_of_exception(kind: type) -> None:
    """R25: AutoGraph keeps the type of an error only then."""
    assert kind.__init__ is Exception.__init__


def raised(kind: type[LossInputError]) -> LossInputError:
    """The error of a call with a mistake of this kind."""
    with pytest.raises(LossInputError) as caught:
        cross_entropy(**{"logits": LOGITS, **MISTAKES[kind]})
    return caught.value


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_have_their_type(kind: type[LossInputError]) -> None:
    """R25: the type itself, not a subclass, and with no other error behind it."""
    error = raised(kind)
    assert type(error) is kind
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle_with_their_attributes(kind: type[LossInputError], protocol: int) -> None:
    """R25: across processes nothing is lost."""
    error = raised(kind)
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(again) is kind
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_errors_copy_with_their_attributes() -> None:
    """R25: a copy is as good."""
    error = raised(ShapeError)
    assert vars(copy.copy(error)) == vars(error) != {}


def test_details_are_attributes() -> None:
    """R25: set after the error is made, so that its `__init__` stays that of `Exception`."""
    error = ShapeError("text").with_details(axis=2, cause="tag")
    assert (error.args, error.axis, error.cause) == (("text",), 2, "tag")
    assert (error.logits_shape, error.labels_shape, error.fixes) == (None, None, ())
    assert ShapeError("another").axis is None


def test_shape_errors_tell_shapes_and_axis() -> None:
    """R25: as the caller passed them, the axis counted from the front once it is known."""
    error = raised(ShapeError)
    assert isinstance(error, ShapeError)
    assert (error.logits_shape, error.labels_shape, error.axis) == ((2, 3), (3,), 1)
    error = raised(AmbiguousAxisError)
    assert isinstance(error, AmbiguousAxisError)
    assert (error.logits_shape, error.labels_shape, error.axis) == ((2, 3, 3), (2, 3), None)


def test_warnings_can_be_made_errors() -> None:
    """R25: a filter for the family reaches each of its members."""
    with pytest.warns(LossInputWarning):
        cross_entropy(np.zeros((2, 1)), [0, 0])
    with pytest.warns(SingleClassWarning):
        cross_entropy(np.zeros((2, 1)), [0, 0])
