"""R29: no array of the logits' size, forward or backward, where there are many."""

import tracemalloc
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unified_loss import (
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._linear import _walks as walks
from unified_loss._types import Form

N, D, C = 1024, 128, 16384
LOGITS = 4 * N * C
ALLOWED = max(LOGITS // 4, 2**26)  # 64 MB, as it happens


def arrays() -> tuple[Any, Any, Any]:
    """Hidden, weight and labels."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((N, D), np.float32)
    weight = rng.standard_normal((C, D), np.float32) / np.float32(D**0.5)
    return hidden, weight, rng.integers(0, C, N)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_numpy(reduction: Any) -> None:
    """R29: what NumPy allocates beyond the results."""
    hidden, weight, labels = arrays()
    for function, results in (
        (partial(linear_cross_entropy, reduction=reduction), 0),
        (linear_cross_entropy_totals, 0),
        (
            partial(linear_cross_entropy_with_grad, reduction=reduction),
            hidden.nbytes + weight.nbytes,
        ),
    ):
        tracemalloc.start()
        function(hidden, weight, labels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - results < ALLOWED
        assert peak - results < LOGITS


def largest(torch: Any, run: Any) -> int:
    """The largest array, in numbers, that any operation of torch returns."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    found = [0]

    class Look(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, _: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            sizes = [one.untyped_storage().nbytes() for one in tree_leaves(result)
                     if isinstance(one, torch.Tensor)]  # fmt: skip
            found[0] = max(found[0], *sizes, 0)
            return result

    with Look():
        run()
    return found[0]


def test_torch_under_graphs_of_the_backward(torch_is_under_test: None) -> None:
    """R29: nor where weights have gradients and where the backward is differentiated."""
    torch = pytest.importorskip("torch")
    hidden, weight, labels = map(torch.tensor, arrays())
    weights = torch.ones(N, requires_grad=True)
    hidden.requires_grad_()

    def run() -> None:
        value = linear_cross_entropy(hidden, weight, labels, sample_weight=weights)
        (slope,) = torch.autograd.grad(value, hidden, create_graph=True)
        slope.square().sum().backward()

    assert largest(torch, run) < LOGITS


@pytest.mark.parametrize("has_gradient", [False, True])
def test_totals_on_torch(torch_is_under_test: None, *, has_gradient: bool) -> None:
    """R29, R35: nor for totals, watched by autograd or not."""
    torch = pytest.importorskip("torch")
    hidden, weight, labels = map(torch.tensor, arrays())
    hidden.requires_grad_(has_gradient)

    def run() -> None:
        totals = linear_cross_entropy_totals(hidden, weight, labels)
        if has_gradient:
            (totals.loss / totals.mass).backward()

    assert largest(torch, run) < LOGITS


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch(torch_is_under_test: None, reduction: Any) -> None:
    """R29, R31: the resident set grows by less than the logits; a frozen weight has no array."""
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    hidden, weight, labels = map(torch.tensor, arrays())
    hidden.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        linear_cross_entropy(hidden, weight, labels, reduction=reduction).sum().backward()
    events = [one.nbytes() for one in _allocations(found)]
    now = peak = 0
    for size in events:
        now += size
        peak = max(peak, now)
    assert 0 < peak < ALLOWED
    assert weight.grad is None


def _allocations(found: Any) -> list[Any]:
    """Allocations and releases in their order."""
    events: list[Any] = []
    waiting = list(found.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            events.append(event)
    events.sort(key=lambda event: event.start_time_ns)
    return [_Size(event.extra_fields.alloc_size) for event in events]


class _Size:
    def __init__(self, size: int) -> None:
        self.size = size

    def nbytes(self) -> int:
        """What was allocated, or released."""
        return self.size


def test_jax(installed: Any) -> None:
    """R29, R31: XLA's own figure of its temporaries; a frozen weight costs no product."""
    if "jax" not in {backend.name for backend in installed}:
        pytest.skip("JAX is not under test")
    import jax

    places = [jax.ShapeDtypeStruct(one.shape, np.dtype(str(one.dtype).replace("64", "32")))
              for one in arrays()]  # fmt: skip
    flops = []
    for wrt in ((0,), (0, 1)):
        step = jax.jit(jax.value_and_grad(linear_cross_entropy, wrt)).lower(*places).compile()
        assert step.memory_analysis().temp_size_in_bytes < ALLOWED
        assert step.memory_analysis().temp_size_in_bytes < 0.6 * LOGITS  # two tiles
        flops.append(step.cost_analysis()["flops"])
    assert flops[0] < 0.85 * flops[1]
    whole = jax.jit(linear_cross_entropy_totals).lower(*places).compile()
    assert whole.memory_analysis().temp_size_in_bytes < 0.6 * LOGITS


@pytest.mark.parametrize("classes", [16384, 163840])
def test_scratch_does_not_grow_with_classes(classes: int) -> None:
    """R29: a tile is as large as ever."""
    tour = walks.tour_of(form(), 2048, classes, 64, in_one_pass=False)
    assert tour is not None
    assert tour.by == "classes"
    assert tour.rows * tour.classes <= walks.TILE


@pytest.mark.parametrize("size", [(2048, 32000), (4096, 128256), (512, 50257), (16384, 262144)])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_blocks_of_rows_are_within_the_bounds(size: tuple[int, int], softcap: Any) -> None:
    """R29: a quarter of the logits, 64 MB if that is more, and 512 MB at most."""
    rows, classes = size
    tour = walks.tour_of(form(softcap), rows, classes, 768, in_one_pass=True)
    assert tour is not None
    scratch = 4 * tour.rows * tour.classes * (2 if softcap and tour.by == "rows" else 1)
    assert scratch <= max(2**26, min(rows * classes, 2**29))


def form(softcap: float | None = None) -> Form:
    """A form of which the dtype and the cap alone are asked for."""
    plan: Any = SimpleNamespace(compute_dtype="float32")
    return Form(plan, softcap)
