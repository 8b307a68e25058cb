"""The linear form against the reference, on every backend, at once and by its walks."""

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import Backend
from tests.linear.cases import (
    VARIANTS,
    Linear,
    assert_all_near,
    assert_near,
    autodiff,
    cases,
    closed_form,
    linear,
    loss,
    truth,
)
from unified_loss import linear_cross_entropy

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_is_that_of_the_logits(
    backend: Backend, mode: str, variant: str, rng: Generator
) -> None:
    """R28, R32: of every kind, reduction, weight and option."""
    for case in cases(rng, backend, mode, "float32", variant):
        assert_near(loss(backend, case, "float32", mode), truth(case).loss, "float32")


@pytest.mark.parametrize("variant", VARIANTS)
def test_closed_form_is_the_gradient(
    backend: Backend, mode: str, variant: str, rng: Generator
) -> None:
    """R28, R31: loss and gradients without autodiff."""
    for case in cases(rng, backend, mode, "float32", variant):
        assert_all_near(closed_form(backend, case, "float32", mode), case, "float32")


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("variant", VARIANTS)
def test_autodiff_gives_the_gradient(
    backend: Backend, mode: str, variant: str, rng: Generator
) -> None:
    """R31: whatever the loss is multiplied by, a number a row under "none"."""
    for case in cases(rng, backend, mode, "float32", variant):
        assert_slopes(backend, case, "float32", mode, rng)


@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_every_dtype(backend: Backend, mode: str, dtype: str, variant: str, rng: Generator) -> None:
    """R28, R32: losses in the compute dtype, each gradient in its own."""
    compute = "float64" if dtype == "float64" else "float32"
    for case in cases(rng, backend, mode, dtype, variant):
        assert_near(loss(backend, case, dtype, mode), truth(case).loss, compute)
        assert_all_near(closed_form(backend, case, dtype, mode), case, dtype)
        if backend.has_autodiff:
            assert_slopes(backend, case, dtype, mode, rng)


def assert_slopes(backend: Backend, case: Linear, dtype: str, mode: str, rng: Generator) -> None:
    """Autodiff of the loss, multiplied by something, is what the reference says."""
    shape = case.problem.batch_shape if case.problem.reduction == "none" else ()
    factor = np.asarray(rng.integers(1, 8, shape) / 4, np.float32)
    assert_all_near(autodiff(backend, case, dtype, mode, factor=factor), case, dtype, factor)


def test_dropped_rows_add_nothing(backend: Backend, mode: str, rng: Generator) -> None:
    """R30: whatever they hold, NaN and infinities too, in every way that drops them."""
    for options in ({}, {"softcap": 2.0, "bias": True, "sample_weight": "mask"}):
        for reduction in ("mean", "none"):
            case = linear(rng, reduction=reduction, **options)
            labels, hidden = case.problem.labels.copy(), case.hidden.copy()
            labels[[1, 4]] = -100
            hidden[1], hidden[4, 0] = np.nan, np.inf
            case = case.but(labels=labels, hidden=hidden)
            if case.problem.sample_weight is not None:
                weight = case.problem.sample_weight.copy()
                weight[2] = False
                hidden[2] = -np.inf
                case = case.but(sample_weight=weight, hidden=hidden)
            assert_all_near(closed_form(backend, case, "float32", mode), case, "float32")
            if backend.has_autodiff:
                assert_all_near(autodiff(backend, case, "float32", mode), case, "float32")


def test_nothing_to_average(backend: Backend, mode: str, rng: Generator) -> None:
    """R15, R30: the loss is 0, and so are all gradients."""
    case = linear(rng, bias=True)
    labels = np.full_like(case.problem.labels, -100)
    case = case.but(labels=labels, hidden=np.full_like(case.hidden, np.nan))
    for part in closed_form(backend, case, "float32", mode):
        np.testing.assert_array_equal(part, 0)
    if backend.has_autodiff:
        for part in autodiff(backend, case, "float32", mode):
            np.testing.assert_array_equal(part, 0)


def test_no_example(backend: Backend, rng: Generator) -> None:
    """R9, R28: an empty batch."""
    case = linear(rng, batch=(0,), bias=True)
    for part in closed_form(backend, case, "float32"):
        np.testing.assert_array_equal(part, 0)


def test_constant_in_the_bias(backend: Backend, rng: Generator) -> None:
    """R19, R32: it changes nothing, though lse keeps few digits beside it."""
    case = linear(rng, bias=True, label_smoothing=0.25)
    assert case.bias is not None
    moved = case.but(bias=case.bias + np.float32(2**14))
    for ours, true in zip(closed_form(backend, moved, "float32"), truth(case)[:4], strict=True):
        assert_near(ours, true, "float32")


def test_dropped_rows_take_no_part_in_the_products(
    monkeypatch: pytest.MonkeyPatch, way: str, torch_is_under_test: None, rng: Generator
) -> None:
    """R30: where labels can be read: the rows that are multiplied are those that count."""
    torch = pytest.importorskip("torch")
    from unified_loss._backends._torch_blocks import TorchBlockOps

    if way == "two_steps":
        pytest.skip("all logits are made")
    seen = []
    multiply = TorchBlockOps.affine_into
    monkeypatch.setattr(
        TorchBlockOps,
        "affine_into",
        lambda self, scratch, hidden, *rest: (
            seen.append(len(hidden)),
            multiply(self, scratch, hidden, *rest),
        )[1],
    )
    case = linear(rng, batch=(8,))
    case.problem.labels[::2] = -100
    parts = [torch.tensor(part, requires_grad=True) for part in (case.hidden, case.weight)]
    linear_cross_entropy(*parts, torch.tensor(case.problem.labels)).backward()
    passes = 1 if way == "rows" else 2 * len(range(0, 5, 2))
    assert sum(seen) == 4 * passes


def test_autocast_changes_nothing(torch_is_under_test: None, rng: Generator) -> None:
    """R23, R28: products are of the dtypes of what is multiplied."""
    torch = pytest.importorskip("torch")
    case = linear(rng, bias=True)
    parts = [torch.tensor(part, requires_grad=True) for part in (case.hidden, case.weight)]
    labels = torch.tensor(case.problem.labels)
    plain = linear_cross_entropy(*parts, labels)
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_cross_entropy(*parts, labels)
    gradients = torch.autograd.grad(value, parts)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain, rtol=0, atol=0)
    for ours, wanted in zip(gradients, torch.autograd.grad(plain, parts), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


def test_repeated_calls_are_equal(backend: Backend, rng: Generator) -> None:
    """R21, R26: a call that is remembered is what it was; others like it are not mixed up."""
    case = linear(rng, bias=True)
    first = loss(backend, case, "float32")
    np.testing.assert_array_equal(loss(backend, case, "float32"), first)
    for other in (case.but(softcap=0.5), case.but(bias=None), case.but(reduction="none")):
        for _ in range(2):
            assert_near(loss(backend, other, "float32"), truth(other).loss, "float32")
