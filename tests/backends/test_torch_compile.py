"""R23 to R25 under `torch.compile` and `torch.export`: one graph, no guards, no fat, same words."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import Backend
from tests.helpers.problems import LabelKind, Problem, sample
from tests.helpers.torch_cases import EVERYTHING, TORCH, loss_in, problem_of
from tests.helpers.variants import KINDS
from unified_loss import (
    AmbiguousAxisError,
    SingleClassWarning,
    cross_entropy,
    cross_entropy_with_grad,
)

torch = pytest.importorskip("torch")
Dim = torch.export.Dim


@pytest.fixture(autouse=True)
def _fresh(installed: list[Backend]) -> None:
    if TORCH not in installed:
        pytest.skip("torch is not under test")
    torch._dynamo.reset()


class Graphs:
    """A compiler that keeps the graphs it is given, and runs them as `backend` does."""

    def __init__(self, backend: str = "aot_eager") -> None:
        self.backend = backend
        self.all: list[Any] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        """Compile one graph."""
        self.all.append(graph)
        return torch._dynamo.lookup_backend(self.backend)(graph, inputs)


def compiled(function: Callable[..., Any], backend: Any = "aot_eager", **options: Any) -> Any:
    """`function` as one graph."""
    return torch.compile(function, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [None, False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_serves_all_batches(
    kind: LabelKind, *, dynamic: bool | None, compiler: str, rng: Generator
) -> None:
    """R23: one graph without a warning; a new batch size costs no more than torch's own second."""
    graphs = Graphs(compiler)
    # Written out: a float from a closure is an input, which costs torch a second graph.
    step = compiled(
        lambda given: cross_entropy(**given, label_smoothing=0.25, z_loss=0.125, normalizer=3.5),
        graphs,
        dynamic=dynamic,
    )
    for rows in (6, 6) if dynamic is False else (6, 7, 9, 12):
        problem = sample(rng, kind, batch=(rows,), **EVERYTHING)
        arrays = TORCH.place(problem, "float32")
        arrays["logits"].requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = step(arrays)
        loss.backward()
        assert_accurate(loss.detach().numpy(), problem, "float32")
        assert_accurate(arrays["logits"].grad.numpy(), problem, "float32", "gradient")
    assert len(graphs.all) == (2 if dynamic is None else 1)


COMPILED: dict[str, Callable[..., Any]] = {
    "without_gradient": lambda f: lambda x: f(x.detach()),
    "func_grad": lambda f: torch.func.grad(lambda x: f(x).sum()),
    "vmap": lambda f: lambda x: torch.func.vmap(f)(x[None])[0],
    "vmap_of_grad": lambda f: lambda x: torch.func.vmap(torch.func.grad(f))(x[None])[0],
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[0],
    "checkpoint": lambda f: lambda x: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", ["everything", "channels_first", "mask", "dense_masked_class"])
@pytest.mark.parametrize("transform", COMPILED)
def test_transforms_compile(transform: str, case: str, *, dynamic: bool, rng: Generator) -> None:
    """R23: what is transformed compiles into one graph, and stays true."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    result = compiled(COMPILED[transform](function), dynamic=dynamic)(logits)
    what = "gradient" if "grad" in transform.removeprefix("without_gradient") else "loss"
    assert_accurate(result.detach().numpy(), problem, "float32", what)


@pytest.mark.parametrize("dynamic", [False, True])
def test_hessians_and_closed_forms_compile(*, dynamic: bool, rng: Generator) -> None:
    """R22, R23: forward over reverse, a gradient of a gradient, and `cross_entropy_with_grad`."""
    problem = problem_of("everything", rng)
    function, (logits,) = loss_in(problem, "logits", dtype="float64")
    truth = torch.func.hessian(function)(logits)
    twice = torch.func.jacrev(torch.func.jacrev(function))
    for hessian in (torch.func.hessian(function), twice):
        torch.testing.assert_close(compiled(hessian, dynamic=dynamic)(logits), truth)
    arrays = TORCH.place(problem, "float32")
    pair = compiled(lambda: cross_entropy_with_grad(**arrays, **problem.options), dynamic=dynamic)()
    assert_accurate(pair[0].numpy(), problem, "float32")
    assert_accurate(pair[1].numpy(), problem, "float32", "gradient")


def test_unknown_sizes_get_no_guard() -> None:
    """R3, R23: one graph for all batches and all class counts, more than int8 labels can name."""
    graphs = Graphs()
    step = compiled(lambda *pair: cross_entropy(*pair, label_smoothing=0.1), graphs)
    for rows, classes in ((6, 4), (7, 5), (300, 200)):
        logits, labels = torch.randn(rows, classes), torch.randint(0, 4, (rows,), dtype=torch.int8)
        for tensor, axes in ((logits, (0, 1)), (labels, 0)):
            torch._dynamo.mark_dynamic(tensor, axes)
        native = torch.nn.functional.cross_entropy(logits, labels.long(), label_smoothing=0.1)
        torch.testing.assert_close(step(logits, labels), native)
    assert len(graphs.all) == 1


def test_options_and_host_data_are_compiled_in(rng: Generator) -> None:
    """R2, R8: options that are inputs, and lists, NumPy arrays and numbers beside the logits."""
    problem = sample(rng, class_weight=True, ignored=1)
    logits = TORCH.asarray(problem.logits)
    step = compiled(cross_entropy)
    for smoothing, axis, normalizer in ((0.1, -1, 3.0), (0.2, 1, 4), (0.3, -1, 5.5)):
        given = {"label_smoothing": smoothing, "axis": axis, "normalizer": normalizer}
        changed = problem.but(**given)
        for labels in (problem.labels, problem.labels.tolist()):
            weights = problem.class_weight if labels is problem.labels else [*changed.class_weight]
            loss = step(logits, labels=labels, class_weight=[float(w) for w in weights], **given)
            assert_accurate(loss.numpy(), changed, "float32")


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_bad_labels_are_nan(compiler: str, rng: Generator) -> None:
    """R17: a compiled call reads no values, whatever its compiler does with the graph."""
    logits = torch.tensor(rng.standard_normal((4, 3)), requires_grad=True)
    labels = torch.tensor([0, 3, -1, -100])
    losses = compiled(lambda *pair: cross_entropy(*pair, reduction="none"), compiler)(
        logits, labels
    )
    losses.sum().backward()
    assert losses.isnan().tolist() == [False, True, True, False]
    assert torch.equal(logits.grad.isnan(), losses.isnan()[:, None].expand(4, 3))


MISTAKES = {
    "labels must have shape": lambda x: cross_entropy(x, torch.zeros(5).long()),
    "logits must be floating": lambda x: cross_entropy(x.long(), torch.zeros(2).long()),
    "label_smoothing must be": lambda x: cross_entropy(x, torch.zeros(2).long(), label_smoothing=2),
    "normalizer must be": lambda x: cross_entropy(x, torch.zeros(2).long(), normalizer=-1.0),
    "class_weight must have shape": lambda x: cross_entropy(
        x, torch.zeros(2).long(), class_weight=torch.ones(2)
    ),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_keep_their_text(text: str, *, dynamic: bool) -> None:
    """R25: the first line of an error survives."""
    with pytest.raises(Exception, match=text):
        compiled(MISTAKES[text], dynamic=dynamic)(torch.zeros(2, 3))


def test_a_single_class_warns() -> None:
    """R9, R23: the warning comes when the call is compiled."""
    with pytest.warns(SingleClassWarning):
        compiled(cross_entropy)(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


EXPORTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch": ({"kind": "index"}, {"logits": {0: Dim("n")}, "labels": {0: Dim("n")}}),
    "batch_and_classes": (
        {"kind": "index", "label_smoothing": 0.25, "z_loss": 0.5, "ignore_index": None},
        {"logits": {0: Dim("n"), 1: Dim("c")}, "labels": {0: Dim("n")}},
    ),
    "kept": ({"kind": "kept"}, {"logits": {0: Dim("n"), 1: Dim("c")}, "labels": {0: Dim("n")}}),
    "dense": (
        {"kind": "dense"},
        {"logits": {0: Dim("n"), 1: Dim("c")}, "labels": {0: Dim("n"), 1: Dim("c")}},
    ),
    "channels_first": (
        {"kind": "index", "batch": (6, 3), "class_axis": 1},
        {
            "logits": {0: Dim("n"), 1: Dim("c"), 2: Dim("t")},
            "labels": {0: Dim("n"), 1: Dim("t")},
        },
    ),
    "automatic": (
        {"kind": "index", "reduction": "none"},
        {"logits": {0: Dim.AUTO, 1: Dim.AUTO}, "labels": {0: Dim.AUTO}},
    ),
}


class Loss(torch.nn.Module):
    """The loss of a problem's options as a module."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.options = problem.options

    def forward(self, logits: Any, labels: Any) -> Any:
        """The loss."""
        return cross_entropy(logits, labels, **self.options)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", EXPORTS)
def test_export_keeps_sizes_unknown(case: str, *, strict: bool, rng: Generator) -> None:
    """R3, R23: sizes stay unknown in an exported program, and unequal ones do not broadcast."""
    options, sizes = EXPORTS[case]
    first = sample(rng, **{"batch": (6,)} | options)
    second = sample(rng, **{"batch": (9, 4)[: len(first.batch_shape)], "classes": 7} | options)
    if case == "batch":
        second = sample(rng, batch=(9,), **options)
    if case == "channels_first":
        second = sample(rng, **options | {"batch": (9, 4), "classes": 7})
    pair = TORCH.place(first, "float32")
    program = torch.export.export(
        Loss(first), tuple(pair.values()), dynamic_shapes=sizes, strict=strict
    ).module()
    logits, labels = TORCH.place(second, "float32").values()
    assert_accurate(program(logits, labels).numpy(), second, "float32")
    with pytest.raises((AssertionError, RuntimeError)):
        program(logits, labels[:1])


def test_export_takes_sizes_that_depend_on_data(rng: Generator) -> None:
    """R3, R15, R23: a batch of as many examples as a mask has, none among them."""

    class Selected(torch.nn.Module):
        def forward(self, logits: Any, labels: Any, rows: Any, others: Any) -> Any:
            return cross_entropy(logits[rows.nonzero()[:, 0]], labels[others.nonzero()[:, 0]])

    problem = sample(rng)
    logits, labels = TORCH.place(problem, "float32").values()
    rows = torch.tensor([True, False, True, True, False, True])
    program = torch.export.export(Selected(), (logits, labels, rows, rows.clone())).module()
    for mask in (rows, ~rows, rows & False):
        kept = problem.but(logits=problem.logits[mask], labels=problem.labels[mask])
        assert_accurate(program(logits, labels, mask, mask.clone()).numpy(), kept, "float32")
    with pytest.raises(RuntimeError):
        program(logits, labels, rows, torch.arange(6) == 0)


def test_sizes_that_allow_two_readings_are_refused() -> None:
    """R3: two unknown sizes that happen to be equal today do not decide the class axis."""
    logits, labels = torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.int64)
    sizes = ({1: Dim.AUTO, 2: Dim.AUTO}, {1: Dim.AUTO})
    with pytest.raises(AmbiguousAxisError):
        torch.export.export(
            Loss(sample(np.random.default_rng(0)).but(axis=None)),
            (logits, labels),
            dynamic_shapes=sizes,
        )


FRESH = """
import torch
from unified_loss import cross_entropy

step = torch.compile(lambda x, y: cross_entropy(x, y), backend="eager", fullgraph=True)
for _ in range(3):
    step(torch.zeros(4, 5), torch.arange(4))
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_the_first_call_of_a_process_is_compiled_once() -> None:
    """R23: what the first call loads is nothing that a guard looks at."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize("recorder", ["make_fx", "export", "strict export"])
def test_recorded_graphs_do_not_take_labels_for_constants(recorder: str) -> None:
    """R18, R22: recorded with labels that need no gradient, a graph is right for others."""
    from torch.fx.experimental.proxy_tensor import make_fx

    class Loss(torch.nn.Module):
        def forward(self, logits: Any, labels: Any) -> Any:
            return cross_entropy(logits, labels)

    arrays = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[0.5, 0.5, 0.0]])
    if recorder == "make_fx":
        graph = make_fx(Loss())(*arrays)
    else:
        graph = torch.export.export(Loss(), arrays, strict="strict" in recorder).module()
    logits, labels = arrays[0], arrays[1].requires_grad_()
    (slope,) = torch.autograd.grad(graph(logits, labels), labels)
    (truth,) = torch.autograd.grad(cross_entropy(logits, labels), labels)
    assert truth[0, 2] == 0
    torch.testing.assert_close(slope, truth)
