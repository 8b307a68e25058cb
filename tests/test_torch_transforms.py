"""PyTorch's transformations: compile, func, vmap, export, meta tensors."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.accuracy import assert_accurate, assert_close
from tests.backends import BACKENDS, Backend
from tests.differentiation import hessian, loss_of_logits, weighted
from tests.problems import LabelKind, sample
from tests.reference import evaluate
from tests.variants import KINDS
from unified_loss import cross_entropy


@pytest.fixture(autouse=True)
def _library(installed: list[Backend]) -> None:
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_is_one_graph(kind: LabelKind, *, dynamic: bool, rng: Generator) -> None:
    """R23: `torch.compile(fullgraph=True)`, static and dynamic, is one graph without a warning."""
    import torch

    graphs = []

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda logits, labels: cross_entropy(logits, labels, axis=-1),
        backend=count,
        fullgraph=True,
        dynamic=dynamic,
    )
    for rows in (6, 7, 9) if dynamic else (6, 6):
        problem = sample(rng, kind, batch=(rows,))
        logits = torch.tensor(problem.logits, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = compiled(logits, torch.tensor(problem.labels))
        loss.backward()
        assert_accurate(loss.detach().numpy(), problem, "float32")
        assert_accurate(logits.grad.numpy(), problem, "float32", "gradient")
    assert len(graphs) == 1


FIXED = {
    "index": {"kind": "index"},
    "kept": {"kind": "kept"},
    "dense": {"kind": "dense"},
    "channels first": {"kind": "index", "batch": (2, 4, 4), "class_axis": 1},
    "ignored": {"kind": "index", "ignored": 2},
    "smoothing": {"kind": "index", "label_smoothing": 0.25},
    "weights": {"kind": "index", "class_weight": True, "sample_weight": "full"},
    "z-loss, summed": {"kind": "dense", "z_loss": 0.5, "reduction": "sum"},
    "mask, none": {"kind": "index", "sample_weight": "mask", "reduction": "none"},
    "everything": {
        "kind": "dense",
        "batch": (3, 2),
        "class_axis": 1,
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.25,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED)
def test_torch_inductor_gives_the_same_numbers(case: str, rng: Generator) -> None:
    """R20, R23: code that inductor generates keeps value and gradient."""
    import torch

    options = dict(FIXED[case])
    problem = sample(rng, options.pop("kind"), **options)
    arrays = BACKENDS["torch"].place(problem, "float32")
    arrays["logits"].requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda given: cross_entropy(**given, **problem.options), fullgraph=True
    )
    loss = compiled(arrays)
    loss.sum().backward()
    assert_accurate(loss.detach().numpy(), problem, "float32")
    assert_accurate(arrays["logits"].grad.numpy(), problem, "float32", "gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_torch_func_is_true(kind: LabelKind, rng: Generator) -> None:
    """R22, R23: `torch.func` `grad`, `hessian` and `jvp`, and double backward."""
    import torch

    problem = weighted(rng, kind)
    function, logits = loss_of_logits(problem, "torch"), torch.tensor(problem.logits)
    gradient = torch.func.grad(function)(logits).numpy()
    assert_accurate(gradient, problem, "float32", "gradient")
    truth = hessian(problem)
    np.testing.assert_allclose(torch.func.hessian(function)(logits), truth, 1e-5, 1e-6)
    twice = torch.autograd.functional.hessian(function, logits)
    np.testing.assert_allclose(twice, truth, 1e-5, 1e-6)
    direction = torch.tensor(rng.standard_normal(logits.shape).astype(np.float32))
    value, slope = torch.func.jvp(function, (logits,), (direction,))
    assert_accurate(value.numpy(), problem, "float32")
    expected = (evaluate(problem).gradient.astype(float) * direction.numpy()).sum()
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_vmap_is_a_loop(kind: LabelKind, rng: Generator) -> None:
    """R22, R23: `torch.func.vmap` of loss and gradient, with an ignored label in one lane."""
    import torch

    problem = sample(rng, kind, batch=(5, 3), classes=4)
    if kind != "dense":
        problem.labels.reshape(-1)[0] = -100
    pair = torch.tensor(problem.logits), torch.tensor(problem.labels)

    def one(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits, labels, axis=-1, label_smoothing=0.25)

    loop = torch.stack([one(*each) for each in zip(*pair, strict=True)])
    assert_close(torch.func.vmap(one)(*pair).numpy(), loop.numpy(), "float32")
    slopes = torch.func.vmap(torch.func.grad(one))(*pair)
    loop = torch.stack([torch.func.grad(one)(*each) for each in zip(*pair, strict=True)])
    assert_close(slopes.numpy(), loop.numpy(), "float32", scale=1)


def test_torch_meta_tensors_have_the_shape(rng: Generator) -> None:
    """R23: fake and meta tensors give a meta loss of the right shape and dtype."""
    import torch

    problem = sample(rng, batch=(3, 2))
    for reduction, shape in (("none", (3, 2)), ("mean", ())):
        loss = cross_entropy(
            torch.tensor(problem.logits, device="meta", dtype=torch.bfloat16),
            torch.tensor(problem.labels, device="meta"),
            axis=-1,
            reduction=reduction,
        )
        assert (loss.device.type, tuple(loss.shape), loss.dtype) == ("meta", shape, torch.float32)


def test_torch_export_keeps_a_dynamic_batch(rng: Generator) -> None:
    """R3, R23: `torch.export` with an unknown batch size adds no guard on it."""
    import torch

    class Loss(torch.nn.Module):
        def forward(self, logits: Any, labels: Any) -> Any:
            return cross_entropy(logits, labels)

    first, second = sample(rng, batch=(6,)), sample(rng, batch=(9,))
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Loss(),
        (torch.tensor(first.logits), torch.tensor(first.labels)),
        dynamic_shapes={"logits": {0: batch}, "labels": {0: batch}},
    )
    loss = program.module()(torch.tensor(second.logits), torch.tensor(second.labels))
    assert_accurate(loss.numpy(), second, "float32")


def test_torch_compiled_mistakes_keep_their_text() -> None:
    """R25: under `torch.compile(fullgraph=True)` the error's first line survives."""
    import torch

    torch._dynamo.reset()
    compiled = torch.compile(cross_entropy, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"labels must have shape \(2,\)"):
        compiled(torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64))
