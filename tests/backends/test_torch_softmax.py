"""What serves a device without Triton, on the processor, where it is forced to."""

import itertools
from functools import partial

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import sample
from tests.helpers.torch_cases import (
    CASES,
    EVERYTHING,
    TORCH,
    assert_differentiable_twice,
    loss_in,
    problem_of,
)
from unified_loss import cross_entropy, cross_entropy_with_grad, explain
from unified_loss._call import prepare
from unified_loss._types import Operands, Options

torch = pytest.importorskip("torch")

from tests.helpers.torch_traffic import Traffic  # noqa: E402 (needs torch)
from unified_loss._backends import _torch_pair as pair  # noqa: E402 (needs torch)
from unified_loss._backends import _torch_softmax as softmax  # noqa: E402 (needs torch)
from unified_loss._backends import torch as backend  # noqa: E402 (needs torch)

pytestmark = pytest.mark.usefixtures("torch_is_under_test")

OPTIONS = {
    "plain": {"ignored": 1},
    "smoothing": {"label_smoothing": 0.25},
    "smoothing alone": {"label_smoothing": 1.0, "class_weight": True},
    "everything": EVERYTHING,
    "weights": {"class_weight": True, "sample_weight": "mask", "reduction": "none"},
}
native = torch.nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    """Every ordinary call goes this way."""
    monkeypatch.setattr(backend, "_FORCED", "softmax")


@pytest.fixture(params=[40, 2**23], ids=["blocks", "whole"])
def block(request, monkeypatch):
    """A few rows are several blocks, or one."""
    monkeypatch.setattr(softmax, "BLOCK", request.param)


@pytest.fixture
def unwatched(monkeypatch):
    """A mode that counts is none that asks for other operations."""
    monkeypatch.setattr(backend, "is_recorded", lambda: False)
    monkeypatch.setattr(pair, "is_watched", lambda: False)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "kept", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_loss_and_gradient_are_accurate(block, dtype, kind, option, rng):
    """R10 to R20: by the closed form and by autograd."""
    for batch, axis in (((17,), -1), ((3, 5, 2), 1)):
        options = OPTIONS[option] | ({"ignored": 0} if kind == "dense" else {})
        problem = sample(rng, kind, batch=batch, class_axis=axis, **options)
        loss, slope = TORCH.closed_form(problem, dtype)
        assert_accurate(loss, problem, dtype)
        assert_accurate(slope, problem, dtype, "gradient")
        assert_accurate(TORCH.loss(problem, dtype), problem, dtype)
        assert_accurate(*TORCH.gradients(problem, dtype), problem, dtype, "gradient")


STRIDES = {
    "sliced": lambda x: x[:, :, :5],
    "transposed": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("view", STRIDES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_strides_do_not_matter(block, kind, axis, view):
    """R3: nor does the axis."""
    torch.manual_seed(0)
    x = STRIDES[view](torch.randn(4, 6, 9))
    labels = torch.rand(x.shape)
    if kind == "index":
        labels = labels.argmax(axis)
    given = {"axis": axis, "label_smoothing": 0.25, "z_loss": 0.5}
    found = cross_entropy_with_grad(x, labels, **given)
    wanted = cross_entropy_with_grad(x.contiguous().numpy(), labels.numpy(), **given)
    for ours, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.numpy(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_not_finite_means_what_it_means_elsewhere(
    block, monkeypatch, dtype, kind, options, rng
):
    """R16, R17, R18: beside rows that are dropped, labels that are wrong, and masked classes."""
    options = {name: value for name, value in options.items() if name != "ignored"}
    for seed in range(8):
        problem = sample(rng, kind, batch=(24,), **options)
        arrays = TORCH.place(problem, "float32")
        torch.manual_seed(seed)
        x = arrays["logits"].to(dtype)
        for value, share in ((-torch.inf, 0.2), (torch.nan, 0.03), (torch.inf, 0.03)):
            x[torch.rand(x.shape) < share] = value
        x[0], x[1] = -torch.inf, torch.nan
        labels = arrays["labels"]
        if kind == "index":
            labels[torch.rand(24) < 0.3] = -100
            labels[2:4] = torch.tensor([-1, 5])
        else:
            labels[torch.rand(labels.shape) < 0.5] = 0
            labels[torch.rand(24) < 0.3] = 0
            labels[4] -= labels[4].mean()
        for name in ("class_weight", "sample_weight"):
            if name in arrays:
                arrays[name][:2] = 0
        arrays |= {"logits": x, "labels": labels}
        given = problem.options | {"reduction": "none", "normalizer": None, "check": False}
        found = cross_entropy_with_grad(**arrays, **given)
        with monkeypatch.context() as patch:
            patch.setattr(backend, "_FORCED", "rows")
            wanted = cross_entropy_with_grad(**arrays, **given)
        for ours, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, other, equal_nan=True, rtol=1e-3, atol=1e-5)
            assert torch.equal(ours == 0, other == 0) or ours.ndim > 1


def moved(call, x, labels):
    """Kernels and logits' sizes that are moved for a loss, and with its gradient."""
    found = []
    for has_gradient in (False, True):
        x = x.detach().requires_grad_(has_gradient)
        with Traffic() as traffic:
            loss = call(x, labels)
            if has_gradient:
                loss.backward()
        found.append((len(traffic.operations), round(traffic.bytes / (x.numel() * x.itemsize), 1)))
    return found


# What may be more than torch's own loss moves: for rows of dense labels that are all zeros, one
# reading each of their sums and largest entries, and zeros in their gradient.
DENSE = {"plain": (2, 4), "smoothing": (1, 6)}


@pytest.mark.parametrize("option", ["plain", "smoothing"])
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_is_moved_than_by_the_native_loss(unwatched, dtype, kind, option):
    """Nor is anything waited for, though labels may be wrong and rows dropped."""
    torch.manual_seed(0)
    x = torch.randn(128, 1000).to(dtype)
    labels = torch.randint(0, 1000, (128,)) if kind == "index" else torch.rand(128, 1000)
    given = {"label_smoothing": 0.1 if option == "smoothing" else 0.0}
    wanted = moved(lambda x, labels: native(x.float(), labels, **given), x, labels)
    found = moved(partial(cross_entropy, **given, check=False), x, labels)
    if option == "plain" and kind == "index":
        assert [round(each) for _, each in wanted] == ([2, 6] if x.itemsize == 4 else [7, 18])
    more = DENSE[option] if kind == "dense" else (0, 0)
    for (kernels, ours), (_, other), extra in zip(found, wanted, more, strict=True):
        assert ours <= other + extra * 4 / x.itemsize + 0.2  # a few numbers a row
        assert kernels <= 80


def test_half_precision_is_moved_less(unwatched):
    """It is cast once, and its gradient once."""
    x, labels = torch.randn(128, 1000).bfloat16(), torch.randint(0, 1000, (128,))
    (_, loss), (_, both) = moved(partial(cross_entropy, check=False), x, labels)
    assert loss <= 7.1
    assert both <= 16.2


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_nothing_is_read(unwatched, kind):
    """R26: on the meta device, a value that is asked for is an error."""
    for dtype, axis, option in itertools.product(
        (torch.float32, torch.bfloat16), (0, 1), ({}, {"label_smoothing": 0.5, "z_loss": 0.5})
    ):
        x = torch.empty(6, 6, dtype=dtype, device="meta")
        labels = torch.empty(6, dtype=torch.int64, device="meta")
        labels = torch.empty(6, 6, device="meta") if kind == "dense" else labels
        given = {"label_smoothing": 0.0, "z_loss": 0.0} | option
        ignored = None if kind == "dense" else -100
        for reduction, weight in itertools.product(("mean", "none"), (None, labels.new_empty(6))):
            choice = Options(axis, ignored, **given, reduction=reduction, check=False)
            arrays = Operands(x.requires_grad_(), labels, weight, weight, None)
            call = prepare(backend.BACKEND, arrays, choice)
            loss, slope = pair.loss_and_gradient(softmax.KERNELS, call.plan, call.operands)
            again = pair.loss(softmax.KERNELS, call.plan, call.operands)
            (other,) = torch.autograd.grad(again.sum(), x)
            assert loss.shape == again.shape
            assert slope.shape == other.shape == x.shape
            assert slope.dtype == other.dtype == x.dtype


@pytest.mark.parametrize("case", CASES)
def test_a_second_backward_is_right(block, case, rng):
    """R31: the first one has written over what it found."""
    function, (x,) = loss_in(problem_of(case, rng), "logits", dtype="float32")
    x.requires_grad_()
    loss = function(x).sum()
    first, second, doubled = (
        torch.autograd.grad(loss * factor, x, retain_graph=True)[0] for factor in (1, 1, 2)
    )
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(doubled, 2 * first)


def test_a_second_derivative_has_the_row_statistics():
    """R22: so has any backward that is differentiated or batched."""
    assert_differentiable_twice()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_offloaded", [False, True])
def test_checkpoints_and_offloading_change_no_bit(dtype, is_offloaded, rng):
    """R23: what is saved is asked for once, and may be a copy."""
    function, (x,) = loss_in(sample(rng, batch=(9,), **EVERYTHING), "logits", dtype=dtype)
    x.requires_grad_()
    (wanted,) = torch.autograd.grad(function(x), x)
    if is_offloaded:
        with torch.autograd.graph.save_on_cpu():
            loss = function(x)
    else:
        loss = torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(loss, x)[0], wanted)


def test_one_array_waits_for_the_gradient_and_becomes_it():
    """No other array of the logits' size is made."""
    x = torch.randn(64, 100, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = cross_entropy(x, torch.arange(64))
    large = [part for part in kept if part.numel() == x.numel() and part.data_ptr() != x.data_ptr()]
    (slope,) = torch.autograd.grad(loss, x)
    assert [part.data_ptr() for part in large] == [slope.data_ptr()]


def test_it_is_explained():
    """What serves a call is visible, and what memory it takes."""
    report = explain(torch.zeros(8, 1000), torch.zeros(8, dtype=torch.int64))
    assert report.kernel == "log_softmax in place"


def test_a_device_that_lacks_an_operation_is_found_out():
    """It has the row statistics then."""

    class Lacking(softmax.SoftmaxKernels):
        name = "this"

        def room(self, plan, operands):
            raise NotImplementedError("no such operation\nsee there")

    assert Lacking().refusal(None) == "this fails: NotImplementedError: no such operation"
    assert softmax.KERNELS.refusal(None) is None


def test_sums_of_totals_are_those_of_the_row_statistics(rng):
    """R35: they ask for more of each row."""
    from unified_loss import cross_entropy_totals

    problem = sample(rng, ignored=1)
    arrays = TORCH.place(problem, "float32")
    found = cross_entropy_totals(**arrays, axis=-1)
    torch.testing.assert_close(found.loss, cross_entropy(**arrays, axis=-1, reduction="sum"))
