"""What a type checker says of calls, results and errors."""

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from unified_loss import (
    AmbiguousAxisError,
    BackendError,
    DTypeError,
    Evaluation,
    LabelError,
    LinearGradients,
    LossInputError,
    LossInputWarning,
    OptionError,
    RunningCrossEntropy,
    ShapeError,
    SingleClassWarning,
    Totals,
    cross_entropy,
    cross_entropy_totals,
    cross_entropy_with_grad,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Tensor:
    """An array of some library."""

    shape: tuple[int, ...]
    dtype: str


def array_in_array_out(logits: Scores, labels: Ids, tensor: Tensor) -> None:
    """The result is of the type of the logits; NumPy's are scalars where they are one number."""
    assert_type(cross_entropy(logits, labels), np.floating[Any])
    assert_type(cross_entropy(logits, labels, reduction="sum"), np.floating[Any])
    assert_type(cross_entropy(logits, labels, reduction="none"), Scores)
    pair = cross_entropy_with_grad(logits, labels)
    assert_type(pair, tuple[np.floating[Any], npt.NDArray[Any]])
    assert_type(cross_entropy(tensor, [0, 1]), Tensor)
    assert_type(cross_entropy_with_grad(tensor, labels), tuple[Tensor, Tensor])


def linear_form(hidden: Scores, labels: Ids, tensor: Tensor) -> None:
    """The result is of the type of the hidden states."""
    assert_type(linear_cross_entropy(hidden, hidden, labels), np.floating[Any])
    assert_type(linear_cross_entropy(hidden, hidden, labels, reduction="none"), Scores)
    assert_type(linear_cross_entropy(tensor, tensor, labels, bias=[1], softcap=30), Tensor)
    loss, gradients = linear_cross_entropy_with_grad(tensor, tensor, labels)
    assert_type(loss, Tensor)
    assert_type(gradients, LinearGradients)
    linear_cross_entropy(hidden, hidden, labels, axis=-1)  # type: ignore[call-overload]
    linear_cross_entropy(hidden, labels)  # type: ignore[call-overload]


def every_option(logits: Scores, labels: Ids) -> None:
    """What the contract lists is accepted."""
    cross_entropy(
        logits,
        labels=labels,
        axis=-1,
        class_weight=[1, 2],
        sample_weight=labels > 0,
        ignore_index=None,
        label_smoothing=1,
        z_loss=0.1,
        reduction="none",
        normalizer=3,
        check=True,
    )
    cross_entropy_with_grad(logits, labels, reduction="sum", check="auto", axis=None)


def sums_over_parts(logits: Scores, labels: Ids, tensor: Tensor) -> None:
    """Totals add to totals; numbers of Python come out."""
    totals = cross_entropy_totals(logits, labels, sample_weight=[1, 2], label_smoothing=0.1)
    assert_type(totals, Totals)
    assert_type(totals + cross_entropy_totals(tensor, [0]), Totals)
    assert_type(sum([totals, totals], Totals.zero()), Totals)
    assert_type(totals.compute(), Evaluation)
    running = RunningCrossEntropy(class_weight=[1, 2], ignore_index=None, check=False)
    running.update(logits, labels=labels, sample_weight=None)
    running.merge(totals)
    running.merge(running)
    assert_type(running.compute().loss, float)
    assert_type(running.compute().count, int)
    totals + 1  # type: ignore[operator]
    running.merge(1)  # type: ignore[arg-type]
    running.update(logits, labels, mask=None)  # type: ignore[arg-type]
    cross_entropy_totals(logits, labels, reduction="sum")  # type: ignore[arg-type]
    assert_type(linear_cross_entropy_totals(tensor, tensor, labels, softcap=30), Totals)
    running.update_linear(tensor, tensor, labels, bias=tensor, sample_weight=None)
    running.update_linear(tensor, tensor, labels, axis=1)  # type: ignore[arg-type]


def mistakes(logits: Scores, labels: Ids) -> None:
    """What is refused at run time is refused before; a comment that hides nothing is an error."""
    cross_entropy(logits, labels, reduction="avg")  # type: ignore[call-overload]
    cross_entropy(logits, labels, axis=1.5)  # type: ignore[call-overload]
    cross_entropy(logits, labels, axis=(0, 1))  # type: ignore[call-overload]
    cross_entropy(logits, labels, label_smoothing="0.1")  # type: ignore[call-overload]
    cross_entropy(logits, labels, z_loss=None)  # type: ignore[call-overload]
    cross_entropy(logits, labels, ignore_index=0.5)  # type: ignore[call-overload]
    cross_entropy(logits, labels, check="always")  # type: ignore[call-overload]
    cross_entropy(logits, labels, -1)  # type: ignore[call-overload]
    cross_entropy(logits, labels, weight=None)  # type: ignore[call-overload]
    cross_entropy("hello", 3)  # type: ignore[call-overload]
    cross_entropy(logits)  # type: ignore[call-overload]


def errors(error: LossInputError) -> None:
    """One family, whose details have types."""
    assert_type(family()[0]("text"), LossInputError)
    if isinstance(error, ShapeError):
        assert_type(error.logits_shape, tuple[Any, ...] | None)
        assert_type(error.axis, int | None)
        assert_type(error.with_details(axis=1), ShapeError)
    if isinstance(error, LabelError):
        assert_type(error.count, int | None)
        assert_type(error.first, tuple[int, ...] | None)
    assert_type(SingleClassWarning("text"), SingleClassWarning)


def family() -> tuple[type[LossInputError], ...]:
    """Every error is one of them."""
    return AmbiguousAxisError, BackendError, DTypeError, LabelError, OptionError, ShapeError


def families() -> tuple[
    type[UserWarning], type[LossInputWarning], type[ValueError], tuple[type[TypeError], ...]
]:
    """What an `except` of each of these catches."""
    return LossInputWarning, SingleClassWarning, LossInputError, (DTypeError, BackendError)
