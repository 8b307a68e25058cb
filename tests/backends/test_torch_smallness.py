"""R24 on PyTorch: how many arrays of the logits' size a program holds, and its tracing time."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import Backend
from tests.helpers.problems import sample
from tests.helpers.support import calls_of
from tests.helpers.torch_cases import EVERYTHING, TORCH
from unified_loss import cross_entropy

torch = pytest.importorskip("torch")
ROWS, CLASSES = 64, 500


@pytest.fixture(autouse=True)
def _fresh(installed: list[Backend]) -> None:
    if TORCH not in installed:
        pytest.skip("torch is not under test")
    torch._dynamo.reset()


FIXED: dict[str, dict[str, Any]] = {
    "index": {"kind": "index"},
    "kept": {"kind": "kept"},
    "dense": {"kind": "dense"},
    "channels first": {"kind": "index", "batch": (2, 4, 4), "class_axis": 1},
    "ignored": {"kind": "index", "ignored": 2},
    "smoothing": {"kind": "index", "label_smoothing": 0.25},
    "weights": {"kind": "index", "class_weight": True, "sample_weight": "full"},
    "z-loss, summed": {"kind": "dense", "z_loss": 0.5, "reduction": "sum"},
    "mask, none": {"kind": "index", "sample_weight": "mask", "reduction": "none"},
    "everything": {"kind": "dense", "batch": (3, 2), "class_axis": 1} | EVERYTHING,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED)
def test_inductor_gives_the_same_numbers(case: str, rng: Generator) -> None:
    """R20, R23: code that inductor generates, under autocast, keeps value and gradient."""
    problem = sample(rng, **FIXED[case])
    arrays = TORCH.place(problem, "float32")
    arrays["logits"].requires_grad_()

    @torch.compile(fullgraph=True)
    def step() -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(**arrays, **problem.options)

    loss = step()
    loss.sum().backward()
    assert_accurate(loss.detach().numpy(), problem, "float32")
    assert_accurate(arrays["logits"].grad.numpy(), problem, "float32", "gradient")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}, {"z_loss": 0.5}])
def test_inductor_keeps_what_does_not_count_out(options: dict[str, Any], rng: Generator) -> None:
    """R11, R23: rows that are ignored, masked, wrong or NaN, each beside good ones."""
    logits = rng.normal(size=(6, 5, 3)).astype("float32")
    labels = rng.integers(0, 4, (6, 3))
    logits[0, :, 0], logits[1, 2, 1], logits[2, :, 2] = float("nan"), float("inf"), -float("inf")
    labels[0, 0] = labels[1, 1] = labels[2, 2] = labels[3, 0] = -100
    labels[4, 1] = 7
    logits[5, 4] = logits[5, 0, 0] = -float("inf")
    labels[5, 0] = 0

    def loss_and_slope(function: Any) -> tuple[Any, Any]:
        x = torch.tensor(logits, requires_grad=True)
        loss = function(x, torch.tensor(labels))
        loss.backward(torch.ones_like(loss))
        return loss.detach(), x.grad

    def loss(x: Any, y: Any) -> Any:
        return cross_entropy(x, y, axis=1, reduction="none", check=False, **options)

    compiled = loss_and_slope(torch.compile(loss, fullgraph=True))
    torch.testing.assert_close(compiled, loss_and_slope(loss), equal_nan=True)


def arrays() -> dict[str, Any]:
    """What the losses below are computed of."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, CLASSES, generator=generator)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    dense = torch.randn(ROWS, CLASSES, generator=generator).softmax(1)
    return {"logits": logits, "labels": labels, "dense": dense, "weight": torch.ones(CLASSES)}


native = torch.nn.functional.cross_entropy
PAIRS: dict[str, tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]]] = {
    "index": (
        lambda a: cross_entropy(a["logits"], a["labels"]),
        lambda a: native(a["logits"], a["labels"]),
    ),
    "weighted": (
        lambda a: cross_entropy(
            a["logits"], a["labels"], class_weight=a["weight"], label_smoothing=0.1
        ),
        lambda a: native(a["logits"], a["labels"], a["weight"], label_smoothing=0.1),
    ),
    "dense": (
        lambda a: cross_entropy(a["logits"], a["dense"]),
        lambda a: native(a["logits"], a["dense"]),
    ),
    "dense_smoothed": (
        lambda a: cross_entropy(a["logits"], a["dense"], label_smoothing=0.1),
        lambda a: native(a["logits"], a["dense"], label_smoothing=0.1),
    ),
}


def graphs_of(loss: Callable[..., Any]) -> tuple[Any, list[Any]]:
    """The graph that Dynamo makes of a training step, and those of AOT Autograd."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    first, expanded = [], []

    def keep(graph: Any, inputs: Any) -> Any:
        expanded.append(graph)
        return make_boxed_func(graph.forward)

    def compiler(graph: Any, inputs: Any) -> Any:
        first.append(graph)
        return aot_autograd(
            fw_compiler=keep, bw_compiler=keep, decompositions=select_decomp_table()
        )(graph, inputs)

    given = arrays()
    given["logits"].requires_grad_()
    torch.compile(loss, backend=compiler, fullgraph=True)(given).backward()
    return first[0], expanded


def large(graph: Any) -> int:
    """How many floating arrays of the logits' size a graph makes, views apart."""
    count = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val", node.meta.get("example_value"))
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            is_view = any(name in str(node.target) for name in ("detach", "expand"))
            is_large = value.is_floating_point() and value.numel() == ROWS * CLASSES
            count += is_large and not is_view
    return count


@pytest.mark.parametrize("case", PAIRS)
def test_graphs_are_as_small_as_the_native_ones(case: str) -> None:
    """R24: at most four arrays of the logits' size more, in Dynamo's graph and in a whole step."""
    (ours, ours_expanded), (theirs, theirs_expanded) = map(graphs_of, PAIRS[case])
    assert large(ours) <= large(theirs) + 4
    for mine, other in zip(ours_expanded, theirs_expanded, strict=True):
        assert large(mine) <= large(other) + 4


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS)
def test_no_array_is_left_after_fusion(case: str) -> None:
    """R24: inductor allocates and keeps no more arrays of the logits' size than natively."""
    from torch._inductor.utils import run_fw_bw_and_get_code

    counts = []
    for loss in PAIRS[case]:
        torch._dynamo.reset()
        given = arrays()
        given["logits"].requires_grad_()
        kept: list[int] = []

        def pack(tensor: Any, kept: list[int] = kept) -> Any:
            kept.append(tensor.numel())
            return tensor

        step = torch.compile(loss, fullgraph=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _, codes = run_fw_bw_and_get_code(lambda: step(given))  # noqa: B023 (called right here)
        allocated = [len(re.findall(rf"empty_strided\w*\(\({ROWS}, {CLASSES}\)", c)) for c in codes]
        counts.append((*allocated, kept.count(ROWS * CLASSES)))
    ours, theirs = counts
    assert all(mine <= other for mine, other in zip(ours, theirs, strict=True)), counts


def calls_to_trace(loss: Callable[..., Any], *, dynamic: bool) -> int:
    """How many Python functions run to trace a training step, once all is imported."""

    def trace() -> int:
        torch._dynamo.reset()
        given = arrays()
        given["logits"].requires_grad_()
        step = torch.compile(loss, backend="eager", fullgraph=True, dynamic=dynamic)
        return calls_of(lambda: step(given))

    trace()
    return trace()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", PAIRS)
def test_tracing_is_about_three_times_the_work_of_the_native_loss(
    case: str, *, dynamic: bool
) -> None:
    """R24: in calls of Python functions; `python -m benchmarks` measures the time."""
    ours, theirs = (calls_to_trace(loss, dynamic=dynamic) for loss in PAIRS[case])
    assert ours < (5 if dynamic else 3.5) * theirs
