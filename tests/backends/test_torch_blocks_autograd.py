"""PyTorch on the processor in blocks: derivatives, and what is saved for them."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate
from tests.helpers.differentiation import hessian
from tests.helpers.problems import sample
from tests.helpers.torch_cases import EVERYTHING, TORCH, loss_in
from tests.helpers.variants import KINDS, REDUCTIONS
from unified_loss import cross_entropy, cross_entropy_with_grad

torch = pytest.importorskip("torch")

from tests.helpers.torch_block_cases import cut_small, keep_whole  # noqa: E402 (needs torch)
from unified_loss._backends import _torch_blocks as blocks  # noqa: E402 (the same)

pytestmark = pytest.mark.usefixtures("torch_is_under_test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TORCH.floats)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_any_cotangent_goes_backward(small_blocks, monkeypatch, reduction, dtype, kind, rng):
    """R22: whatever autograd multiplies the gradient by, it is that of all rows at once."""
    problem = sample(rng, kind, batch=(6, 4), classes=5, class_axis=1, **EVERYTHING)
    function, (logits,) = loss_in(
        problem, "logits", dtype=dtype, reduction=reduction, normalizer=None
    )
    logits.requires_grad_()
    shape = problem.batch_shape if reduction == "none" else ()
    dense = torch.tensor(rng.standard_normal(shape) * (rng.random(shape) > 0.2))
    for factor in (dense, torch.tensor(-2.0).expand(shape)):

        def slope(factor=factor):
            loss = function(logits)
            return torch.autograd.grad(loss, logits, factor.to(loss.dtype))[0]

        found = slope()
        with monkeypatch.context() as patch:
            keep_whole(patch)
            whole = slope()
        assert found.dtype == logits.dtype
        torch.testing.assert_close(found, whole)


def weighted(rng, kind="index", **options):
    """Enough for a few blocks, in float64: the options, the loss of the logits, and the logits."""
    settings = {"batch": (8,), "classes": 6} | EVERYTHING | {"normalizer": None} | options
    problem = sample(rng, kind, **settings)
    function, (logits,) = loss_in(problem, "logits", dtype="float64")
    return problem, function, logits.requires_grad_()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_differences(small_blocks, kind, reduction, rng):
    """R22: the first derivatives and the second, in the logits and in the cotangent."""
    _, function, logits = weighted(rng, kind, reduction=reduction)
    assert torch.autograd.gradcheck(function, logits)
    assert torch.autograd.gradgradcheck(function, logits)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batched_cotangents_go_backward(small_blocks, reduction, rng):
    """R22, R23: `is_grads_batched` and vectorized Jacobians map over the backward pass."""
    _, function, logits = weighted(rng, reduction=reduction)
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(
        jacobian(function, logits, vectorize=True), jacobian(function, logits)
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_of_a_backward_is_a_loop(small_blocks, reduction, rng):
    """R22, R23: `torch.func.vmap` over the cotangents of a loss that was computed before."""
    _, function, logits = weighted(rng, reduction=reduction)
    loss = function(logits)
    factors = torch.tensor(rng.standard_normal((3, *loss.shape)))

    def slope(factor):
        return torch.autograd.grad(loss, logits, factor, retain_graph=True)[0]

    expected = torch.stack([slope(factor) for factor in factors])
    torch.testing.assert_close(torch.func.vmap(slope)(factors), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_may_be_changed_in_place(small_blocks, reduction, rng):
    """R22: what comes back belongs to the caller."""
    _, function, logits = weighted(rng, reduction=reduction)
    (expected,) = torch.autograd.grad(function(logits).sum() * 3, logits)
    loss = function(logits)
    loss *= 3
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_host_data_may_change_before_the_backward(small_blocks, kind, rng):
    """R2, R22: NumPy's labels and weights are copied, since nobody would notice."""
    problem = sample(rng, kind, batch=(8,), classes=6, **EVERYTHING)
    host = {name: array.copy() for name, array in problem.arrays.items()}
    logits = torch.tensor(host.pop("logits")).requires_grad_()
    loss = cross_entropy(logits, **host, **problem.options)
    for array in host.values():
        array[...] = 0
    loss.backward()
    assert_accurate(logits.grad.numpy(), problem, "float32", "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_can_be_trained_on(small_blocks, kind, rng):
    """R22: `create_graph` gives the Hessian, and the same gradient."""
    problem, function, logits = weighted(rng, kind)
    found = torch.autograd.functional.hessian(function, logits)
    np.testing.assert_allclose(found, hessian(problem), 1e-8, 1e-9)
    slopes = [
        torch.autograd.grad(function(logits), logits, create_graph=graph)[0]
        for graph in (False, True)
    ]
    assert [slope.requires_grad for slope in slopes] == [False, True]
    torch.testing.assert_close(*slopes)


def test_a_retained_graph_goes_backward_again(small_blocks, rng):
    """R22: with `retain_graph` gradients add up, and without it torch says what is missing."""
    _, function, logits = weighted(rng)
    loss = function(logits)
    (once,) = torch.autograd.grad(loss, logits, retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(logits.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("name", ["logits", "labels", "class_weight", "sample_weight"])
def test_a_change_before_the_backward_is_noticed(small_blocks, name, rng):
    """R22: what the gradient needs must not change in place between forward and backward."""
    problem = sample(rng, batch=(8,), classes=6, **EVERYTHING)
    arrays = TORCH.place(problem, "float32")
    arrays["logits"] = arrays["logits"].requires_grad_() * 1
    loss = cross_entropy(**arrays, **problem.options)
    arrays[name].detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", ["logits", "labels", "class_weight", "sample_weight"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_tensors_are_the_hooks_own(small_blocks, kind, name, rng):
    """R22: what the hooks of saved tensors put elsewhere is what the gradient is made of."""
    options = EVERYTHING | {"reduction": "sum", "normalizer": None}
    problem = sample(rng, kind, batch=(8,), classes=6, **options)
    arrays = TORCH.place(problem, "float32")
    if kind != "dense":
        arrays["labels"] = arrays["labels"].long()  # of this dtype they are used as they are
    logits = arrays["logits"].requires_grad_()
    seen = []

    def pack(tensor):
        seen.append(tensor.data_ptr())
        return tensor.detach().numpy().copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        loss = cross_entropy(**arrays, **problem.options)
    assert sorted(seen) == sorted(array.data_ptr() for array in arrays.values())
    arrays[name].detach().zero_()
    loss.backward()
    assert_accurate(logits.grad.numpy(), problem, "float32", "gradient")


def test_what_is_packed_away_is_let_go(small_blocks, rng):
    """R21: logits that hooks have packed elsewhere are not kept for the backward as well."""
    function, (logits,) = loss_in(sample(rng, batch=(8,), classes=6), "logits")
    logits = logits.requires_grad_() * 1
    alive = weakref.ref(logits)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy().copy(), torch.from_numpy):
        loss = function(logits)
    del logits
    assert alive() is None
    loss.backward()


def checkpointed(*, use_reentrant):
    """The function, run again for its backward pass."""
    from torch.utils.checkpoint import checkpoint

    return lambda function, x: checkpoint(function, x, use_reentrant=use_reentrant)


def saved_on_cpu(function, x):
    """The function, what it saves packed by torch's own hooks."""
    with torch.autograd.graph.save_on_cpu():
        return function(x)


def autocast(function, x):
    """The function where torch may choose bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(x)


WAYS = {
    "checkpoint": checkpointed(use_reentrant=False),
    "reentrant checkpoint": checkpointed(use_reentrant=True),
    "save_on_cpu": saved_on_cpu,
    "autocast": autocast,
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("way", WAYS)
def test_training_memory_tricks_change_no_bit(small_blocks, way, dtype, rng):
    """R20, R23: checkpoints, offloading and autocast."""
    problem = sample(rng, batch=(40,), classes=9, **EVERYTHING)
    function, (logits,) = loss_in(problem, "logits", dtype=dtype)
    logits.requires_grad_()
    plain, loss = function(logits), WAYS[way](function, logits)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, plain)
    slopes = [torch.autograd.grad(plain, logits)[0]]
    loss.backward()
    assert torch.equal(logits.grad, *slopes)


MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_is_recorded_where_none_is_asked_for(small_blocks, mode, rng):
    """R21: `no_grad`, `inference_mode`, and logits that need no gradient."""
    problem = sample(rng, batch=(40,), classes=9, **EVERYTHING)
    function, (logits,) = loss_in(problem, "logits")
    arrays = TORCH.place(problem, "float32")
    expected = function(logits), *cross_entropy_with_grad(**arrays, **problem.options)
    arrays["logits"].requires_grad_()
    with MODES[mode]():
        found = (
            function(logits.requires_grad_()),
            *cross_entropy_with_grad(**arrays, **problem.options),
        )
    assert all(map(torch.equal, found, expected))
    for result in (*found, *expected):
        assert result.grad_fn is None
    assert {result.is_inference() for result in found} == {mode == "inference_mode"}


def test_size_does_not_decide_what_is_recorded(monkeypatch, rng):
    """R21: the closed form records as much of its loss above a threshold as below."""
    cut_small(monkeypatch)
    problem = sample(rng, batch=(40,), classes=9)
    arrays = TORCH.place(problem, "float32")
    arrays["logits"].requires_grad_()
    records = []
    for size in (40, 10**9):
        monkeypatch.setattr(blocks, "SMALL", size)
        pair = cross_entropy_with_grad(**arrays, axis=-1)
        records.append([result.requires_grad for result in pair])
    assert records[0] == records[1]


def test_a_graph_may_be_shared_by_threads(small_blocks, rng):
    """R22: threads that go backward through one retained graph get the same gradient."""
    problem = sample(rng, batch=(400,), classes=9, **EVERYTHING)
    function, (logits,) = loss_in(problem, "logits")
    loss = function(logits.requires_grad_())

    def slope(_):
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    with ThreadPoolExecutor(8) as pool:
        slopes = list(pool.map(slope, range(24)))
    assert all(torch.equal(each, slopes[0]) for each in slopes)


def under_mode(function, x):
    """The function in a mode that sees every operation."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            return function(*arguments, **keywords or {})

    with Watching():
        return function(x)


WATCHED = {
    "vmap": lambda function, x: torch.func.vmap(function)(x[None])[0],
    "grad": lambda function, x: torch.func.grad_and_value(function)(x)[1],
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (x,))[0],
    "functionalize": lambda function, x: torch.func.functionalize(function)(x),
    "mode": under_mode,
    "subclass": lambda function, x: function(x.as_subclass(Named)).as_subclass(torch.Tensor),
}


class Named(torch.Tensor):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("way", WATCHED)
def test_whoever_watches_sees_torch_operations_alone(monkeypatch, way, rng):
    """R2, R23: transforms, modes and subclasses get the whole computation."""
    numbers = cut_small(monkeypatch)
    problem = sample(rng, batch=(40,), classes=9, **EVERYTHING)
    function, (logits,) = loss_in(problem, "logits")
    assert_accurate(WATCHED[way](function, logits).numpy(), problem, "float32")
    assert not numbers


@pytest.mark.parametrize("name", ["labels", "class_weight", "sample_weight"])
def test_other_gradients_take_the_whole_computation(monkeypatch, name, rng):
    """R22: labels and weights get gradients at any size, and so do logits beside them."""
    numbers = cut_small(monkeypatch)
    problem = sample(rng, "dense", batch=(40,), classes=9, **EVERYTHING)
    found = TORCH.gradients(problem, "float32", wrt=("logits", name))
    assert not numbers
    assert_accurate(found[0], problem, "float32", "gradient")
    with monkeypatch.context() as patch:
        keep_whole(patch)
        whole = TORCH.gradients(problem, "float32", wrt=(name,))
    np.testing.assert_array_equal(found[1], whole[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_normalizer_that_hooks_saved_is_theirs(small_blocks, kind, rng):
    """R22: blocks keep no view of it, which could be another number by then."""
    problem = sample(rng, kind, batch=(8,), classes=6)
    arrays = TORCH.place(problem, "float32")
    logits, normalizer = arrays.pop("logits").requires_grad_(), torch.tensor(4.0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = cross_entropy(logits, **arrays, axis=problem.axis, normalizer=normalizer)
    normalizer.fill_(1.0)
    loss.backward()
    assert_accurate(
        logits.grad.double().numpy(), problem.but(normalizer=4.0), "float32", "gradient"
    )
