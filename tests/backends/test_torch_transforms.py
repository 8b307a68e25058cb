"""R22 and R23 on PyTorch, one test a transformation, against the float64 reference."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close
from tests.helpers.backends import Backend
from tests.helpers.differentiation import hessian, weighted
from tests.helpers.problems import LabelKind, sample
from tests.helpers.reference import evaluate
from tests.helpers.torch_cases import CASES, EVERYTHING, TORCH, loss_in, problem_of
from tests.helpers.variants import KINDS, REDUCTIONS
from unified_loss import LabelError, LossInputError, cross_entropy, cross_entropy_with_grad

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.any_device
host = TORCH.to_numpy


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if TORCH not in installed:
        pytest.skip("torch is not under test")


def checkpoint(*, use_reentrant: bool) -> Callable[..., Any]:
    """`torch.utils.checkpoint` as a transformation."""
    from torch.utils.checkpoint import checkpoint

    return lambda f: lambda x: checkpoint(f, x, use_reentrant=use_reentrant)


def on_host(f: Callable[..., Any]) -> Callable[..., Any]:
    """What the backward pass needs waits in host memory."""

    def transformed(x: Any) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return f(x)

    return transformed


def deterministic(f: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.use_deterministic_algorithms`, forward."""

    def transformed(x: Any) -> Any:
        torch.use_deterministic_algorithms(mode=True)
        try:
            return f(x)
        finally:
            torch.use_deterministic_algorithms(mode=False)

    return transformed


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "eager": lambda f: f,
    "vmap": lambda f: lambda x: torch.func.vmap(f)(x[None])[0],
    "nested_vmap": lambda f: lambda x: torch.func.vmap(torch.func.vmap(f))(x[None, None])[0, 0],
    "functionalize": torch.func.functionalize,
    "checkpoint": checkpoint(use_reentrant=False),
    "reentrant_checkpoint": checkpoint(use_reentrant=True),
    "save_on_cpu": on_host,
    "deterministic": deterministic,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_loss_and_gradient_survive(transform: str, case: str, rng: Generator) -> None:
    """R22, R23: `backward` through vmap, functionalize, checkpoints, hooks and determinism."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    logits.requires_grad_()
    loss = TRANSFORMS[transform](function)(logits)
    assert_accurate(host(loss.detach()), problem, "float32")
    loss.sum().backward()
    assert_accurate(host(logits.grad), problem, "float32", "gradient")


@pytest.mark.parametrize("case", CASES)
def test_function_transforms_agree(case: str, rng: Generator) -> None:
    """R22, R23: `autograd.grad`, `func.grad_and_value`, `vjp` and `jvp` say the same."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits")
    slope, value = torch.func.grad_and_value(function)(logits)
    assert_accurate(host(value), problem, "float32")
    assert_accurate(host(slope), problem, "float32", "gradient")
    value, pull = torch.func.vjp(function, logits)
    (slope,) = pull(torch.ones_like(value))
    assert_accurate(host(slope), problem, "float32", "gradient")
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf), leaf)
    assert_accurate(host(slope), problem, "float32", "gradient")
    direction = TORCH.asarray(rng.standard_normal(logits.shape), "float32")
    value, tangent = torch.func.jvp(function, (logits,), (direction,))
    assert_accurate(host(value), problem, "float32")
    expected = (evaluate(problem).gradient * host(direction)).sum()
    np.testing.assert_allclose(host(tangent), float(expected), rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_both_orders_pass_gradcheck(
    kind: LabelKind, reduction: str, rng: Generator
) -> None:
    """R22: `gradcheck`, `gradgradcheck`, forward over reverse and batched, in every argument."""
    problem = weighted(rng, kind, reduction=reduction)
    names = ["logits", "class_weight", "sample_weight"] + ["labels"] * (kind == "dense")
    function, values = loss_in(problem, *names, dtype="float64")
    inputs = tuple(value.requires_grad_() for value in values)
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, **batched)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True)


SECOND: dict[str, Callable[..., Any]] = {
    "hessian": torch.func.hessian,
    "reverse_over_reverse": lambda f: torch.func.jacrev(torch.func.jacrev(f)),
    "reverse_over_forward": lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
    "forward_over_forward": lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
    "functional": lambda f: lambda x: torch.autograd.functional.hessian(f, x),
    "vectorized": lambda f: lambda x: torch.autograd.functional.hessian(f, x, vectorize=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", SECOND)
def test_second_derivatives_are_true(way: str, kind: LabelKind, rng: Generator) -> None:
    """R22: every way to a Hessian."""
    problem = weighted(rng, kind)
    function, (logits,) = loss_in(problem, "logits", dtype="float64")
    np.testing.assert_allclose(host(SECOND[way](function)(logits)), hessian(problem), 1e-8, 1e-9)


@pytest.mark.parametrize("jacobian", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobian_of_unreduced_losses_is_block_diagonal(
    jacobian: Callable[..., Any], rng: Generator
) -> None:
    """R14, R22: an example's loss has no slope in another's logits."""
    problem = weighted(rng, reduction="none")
    function, (logits,) = loss_in(problem, "logits")
    slopes = host(jacobian(function)(logits))
    rows = range(len(slopes))
    assert_accurate(slopes[rows, rows], problem, "float32", "gradient")
    assert not slopes[~np.eye(len(slopes), dtype=bool)].any()


LANES: dict[str, tuple[str, ...]] = {
    "logits": ("logits",),
    "labels": ("labels",),
    "both": ("logits", "labels"),
    "weights": ("class_weight", "sample_weight"),
    "all": ("logits", "labels", "class_weight", "sample_weight"),
}


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", LANES)
def test_vmap_is_a_loop(mapped: str, kind: LabelKind, chunk: int | None, rng: Generator) -> None:
    """R22, R23: `vmap` of loss and gradient over any arguments, one lane all ignored."""
    lanes = [problem_of("everything", rng).but(normalizer=None) for _ in range(3)]
    if kind == "dense":
        lanes = [sample(rng, "dense", batch=(4,), **EVERYTHING) for _ in range(3)]
    elif kind == "kept":
        lanes = [lane.but(labels=lane.labels[:, None]) for lane in lanes]
    if kind != "dense":
        lanes[1].labels[...] = -100
    names = LANES[mapped]
    lanes = [lanes[1].but(**{name: lane.arrays[name] for name in names}) for lane in lanes]
    fixed = TORCH.place(lanes[0], "float32")
    options = lanes[0].options

    def one(*values: Any) -> Any:
        return cross_entropy(**fixed | dict(zip(names, values, strict=True)), **options)

    stacked = [
        torch.stack([TORCH.place(lane, "float32")[name] for lane in lanes]) for name in names
    ]
    losses = torch.func.vmap(one, chunk_size=chunk)(*stacked)
    for loss, lane in zip(losses, lanes, strict=True):
        assert_accurate(host(loss), lane, "float32")
    if "logits" in names:
        slopes = torch.func.vmap(torch.func.grad(one), chunk_size=chunk)(*stacked)
        for slope, lane in zip(slopes, lanes, strict=True):
            assert_accurate(host(slope), lane, "float32", "gradient")


def test_vmap_poisons_one_row(rng: Generator) -> None:
    """R17, R23: where values cannot be read, a bad label gives NaN in its row and gradient only."""
    logits = TORCH.asarray(rng.standard_normal((3, 4, 5)))
    labels = TORCH.asarray(rng.integers(0, 5, (3, 4)))
    labels[1, 2], labels[2, 0] = 5, -1

    def losses(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits, labels, reduction="none")

    bad = (labels < 0) | (labels > 4)
    assert torch.equal(torch.func.vmap(losses)(logits, labels).isnan(), bad)
    slopes = torch.func.vmap(torch.func.grad(lambda *pair: losses(*pair).sum()))(logits, labels)
    assert torch.equal(slopes.isnan(), bad[..., None].expand(3, 4, 5))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("case", CASES)
def test_make_fx_records_no_values(case: str, mode: str, rng: Generator) -> None:
    """R17, R23: a graph of loss and gradient serves other values, and poisons their bad labels."""
    from torch.fx.experimental.proxy_tensor import make_fx

    problem = problem_of(case, rng)
    arrays = TORCH.place(problem, "float32")
    logits, labels = arrays["logits"], arrays["labels"]

    def total(logits: Any, given: dict[str, Any]) -> Any:
        return cross_entropy(**given | {"logits": logits}, **problem.options).sum()

    step = torch.func.grad_and_value(total)
    graph = make_fx(step, tracing_mode=mode)(logits + 1, arrays)
    slope, loss = graph(logits, arrays)
    assert_accurate(host(loss), problem, "float32")
    assert_accurate(host(slope), problem, "float32", "gradient")
    if problem.has_index_labels:
        labels.reshape(-1)[-1] = problem.num_classes
        counts = problem.example_weights().reshape(-1)[-1] != 0
        assert graph(logits, arrays)[1].isnan() == counts


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_fake_and_meta_tensors_have_the_shape(
    kind: LabelKind, reduction: str, rng: Generator
) -> None:
    """R21, R23: fake and meta tensors, host data beside them, give a loss and a gradient."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    problem = sample(rng, kind, batch=(3, 2), **EVERYTHING).but(
        reduction=reduction, normalizer=None
    )
    arrays = TORCH.place(problem, "bfloat16")
    shape = (3, 2) if reduction == "none" else ()
    fake = FakeTensorMode()
    for move in (fake.from_tensor, lambda tensor: tensor.to("meta")):
        moved = {name: move(tensor) for name, tensor in arrays.items()}
        given_there = problem.arrays | {"logits": moved["logits"]}
        for given in (moved, given_there):
            loss = cross_entropy(**given, **problem.options)
            assert (loss.device, tuple(loss.shape)) == (moved["logits"].device, shape)
            assert loss.dtype == torch.float32
            _, slope = cross_entropy_with_grad(**given, **problem.options)
            assert (slope.shape, slope.dtype) == (problem.logits.shape, torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert tuple(cross_entropy(**arrays, **problem.options).shape) == shape


def test_symbolic_fake_tensors_get_no_guard() -> None:
    """R3, R23: an unknown size is compared with nothing; sizes that differ are a `ShapeError`."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=False)
    logits = mode.from_tensor(torch.zeros(6, 4))
    labels = mode.from_tensor(torch.zeros(6, dtype=torch.int8))
    cross_entropy(logits, labels, label_smoothing=0.1, z_loss=0.1, ignore_index=None)
    assert not mode.shape_env.guards
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), static_shapes=False)
    logits, labels = mode.from_tensor(torch.zeros(6, 4)), mode.from_tensor(torch.zeros(7).long())
    with pytest.raises(LossInputError, match="labels must have shape"):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("case", CASES)
def test_autocast_computes_in_float32(case: str, rng: Generator) -> None:
    """R20, R23: under autocast, bfloat16 logits give the float32 loss of their values."""
    problem = problem_of(case, rng)
    function, (logits,) = loss_in(problem, "logits", dtype="bfloat16")
    logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = function(logits)
        assert loss.dtype == torch.float32
        assert_accurate(host(loss.detach()), problem, "bfloat16")
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16
    assert_accurate(host(logits.grad.float()), problem, "bfloat16", "gradient")


class Named(torch.Tensor):
    """A subclass that adds nothing."""


class Counting(torch.Tensor):
    """A subclass that sees every function."""

    calls = 0

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        Counting.calls += 1
        return super().__torch_function__(function, types, arguments, keywords or {})


@pytest.mark.parametrize("subclass", [Named, Counting])
def test_subclasses_keep_their_semantics(subclass: type, rng: Generator) -> None:
    """R2, R17: the loss is of the subclass, its functions are called, and labels are checked."""
    problem = sample(rng, **EVERYTHING)
    arrays = TORCH.place(problem, "float32")
    arrays["logits"] = arrays["logits"].as_subclass(subclass).requires_grad_()
    before = Counting.calls
    loss = cross_entropy(**arrays, **problem.options)
    assert type(loss) is subclass
    assert subclass is Named or Counting.calls > before
    loss.backward()
    gradient = host(arrays["logits"].grad.as_subclass(torch.Tensor))
    assert_accurate(gradient, problem, "float32", "gradient")
    labels = (arrays["labels"] + 5).as_subclass(subclass)
    with pytest.raises(LabelError):
        cross_entropy(arrays["logits"], labels)


def test_wrapper_subclasses_and_modes_see_each_operation(rng: Generator) -> None:
    """R2, R23: a subclass that wraps two tensors, a dispatch mode and a default device."""
    from torch.testing._internal.two_tensor import TwoTensor
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
        ) -> Any:
            return function(*arguments, **keywords or {})

    problem = problem_of("everything", rng)
    function, (logits,) = loss_in(problem, "logits")
    pair = function(TwoTensor(logits, logits + 1))
    assert_accurate(host(pair.a), problem, "float32")
    assert_accurate(host(pair.b), problem.but(logits=problem.logits + 1), "float32")
    on_host_too = problem.arrays | {"logits": logits}
    with Watching(), torch.device("meta"):
        losses = [function(logits), cross_entropy(**on_host_too, **problem.options)]
    for loss in losses:
        assert_accurate(host(loss), problem, "float32")


def test_inference_mode_makes_inference_tensors(rng: Generator) -> None:
    """R21, R23: in `inference_mode` nothing is recorded, and the loss is the same."""
    problem = problem_of("everything", rng)
    function, (logits,) = loss_in(problem, "logits")
    with torch.inference_mode():
        loss = function(logits.requires_grad_())
        assert loss.is_inference()
        assert_accurate(host(loss), problem, "float32")
        _, slope = cross_entropy_with_grad(**TORCH.place(problem, "float32"), **problem.options)
    assert_accurate(host(slope), problem, "float32", "gradient")


def test_deterministic_algorithms_change_no_bit(rng: Generator) -> None:
    """R21: `use_deterministic_algorithms` accepts every operation, also of the backward pass."""
    problem = sample(rng, batch=(64,), classes=9, **EVERYTHING)
    names = ("logits", "class_weight", "sample_weight")
    slopes = []
    for mode in (False, True, True):
        function, values = loss_in(problem, *names)
        torch.use_deterministic_algorithms(mode=mode)
        try:
            function(*(value.requires_grad_() for value in values)).backward()
        finally:
            torch.use_deterministic_algorithms(mode=False)
        slopes.append([value.grad for value in values])
    for ours, again in zip(*slopes[1:], strict=True):
        assert torch.equal(ours, again)
    for ours, before in zip(*slopes[:2], strict=True):
        assert_close(host(ours), host(before), "float32", scale=1)


def test_anomaly_detection_finds_no_nan(rng: Generator) -> None:
    """R16, R18: dropped rows of NaN and masked classes put no NaN into the backward pass."""
    problem = problem_of("masked_class", rng)
    logits = TORCH.asarray(problem.logits)
    logits[0] = np.nan
    labels = TORCH.asarray(problem.labels)
    labels[0] = -100
    logits = torch.nn.Parameter(logits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Anomaly Detection", UserWarning)
        with torch.autograd.detect_anomaly(check_nan=True):
            cross_entropy(logits, labels).backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0].any()
