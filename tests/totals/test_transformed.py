"""Totals under each library's own transforms, and the running form beside them."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import Array, sample
from tests.helpers.totals import expected
from unified_loss import RunningCrossEntropy, Totals, cross_entropy, cross_entropy_totals


@pytest.fixture
def jax(installed: list[Backend]) -> Any:
    """JAX, if it is under test."""
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")
    return pytest.importorskip("jax")


@pytest.fixture
def torch(torch_is_under_test: None) -> Any:
    """PyTorch, if it is under test."""
    return pytest.importorskip("torch")


@pytest.fixture
def tf(installed: list[Backend]) -> Any:
    """TensorFlow, if it is under test."""
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")
    return pytest.importorskip("tensorflow")


@pytest.fixture
def data(rng: Generator) -> tuple[Array, Array, Any]:
    """Four batches of three examples, and what they add up to."""
    problem = sample(rng, batch=(12,), ignored=2)
    shapes = (4, 3, 5), (4, 3)
    return problem.logits.reshape(shapes[0]), problem.labels.reshape(shapes[1]), expected(problem)


def assert_same(totals: Totals, truth: Any) -> None:
    """The whole, to rounding."""
    np.testing.assert_allclose([float(each) for each in totals], truth, rtol=1e-5)


def test_scan_carries_totals(jax: Any, data: tuple[Array, Array, Any]) -> None:
    """R35: from zero, of numbers, in a compiled loop."""
    logits, labels, truth = data

    def step(carry: Totals, batch: Any) -> Any:
        return carry + cross_entropy_totals(*batch), None

    @jax.jit
    def whole(*batches: Any) -> Totals:
        found: Totals = jax.lax.scan(step, Totals.zero(), batches)[0]
        return found

    found = whole(logits, labels)
    assert_same(found, truth)
    assert found.count.dtype == "int32"
    with jax.enable_x64(new_val=True):
        assert_same(jax.lax.scan(step, Totals.zero(), (logits.astype("float64"), labels))[0], truth)


def test_jax_maps_and_sums_over_devices(jax: Any, data: tuple[Array, Array, Any]) -> None:
    """R23, R35: `vmap`, `psum` over an axis, and a tree of arrays."""
    logits, labels, truth = data
    logits, labels = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    each = jax.vmap(cross_entropy_totals)(logits, labels)
    assert each.loss.shape == (4,)
    assert_same(jax.tree.map(lambda part: part.sum(), each), truth)

    def summed(*batch: Any) -> Totals:
        found: Totals = jax.lax.psum(cross_entropy_totals(*batch), "batches")
        return found

    found = jax.vmap(summed, axis_name="batches", out_axes=None)(logits, labels)
    assert_same(found, truth)


def test_jax_reads_the_logits_once(jax: Any) -> None:
    """R24, R35: one exponential of the logits' size, and no other array of it in memory."""
    rows = jax.ShapeDtypeStruct((256, 1000), "float32"), jax.ShapeDtypeStruct((256,), "int32")
    program = jax.jit(cross_entropy_totals).lower(*rows).compile()
    assert program.memory_analysis().temp_size_in_bytes < 256 * 1000 * 4 / 4


def test_torch_compiles_to_one_graph(torch: Any, data: tuple[Array, Array, Any]) -> None:
    """R23, R35: static and dynamic sizes, `torch.func.vmap`."""
    logits, labels = (torch.tensor(array) for array in data[:2])

    def step(logits: Any, labels: Any) -> Totals:
        return cross_entropy_totals(logits, labels)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="eager")
    whole = compiled(logits.reshape(12, 5), labels.reshape(12))
    assert isinstance(whole, Totals)
    assert_same(whole, data[2])
    assert_same(sum(compiled(*batch) for batch in zip(logits, labels, strict=True)), data[2])
    each = torch.func.vmap(step)(logits, labels)
    assert_same(Totals(*(part.sum() for part in each)), data[2])


def test_torch_accumulates_gradients(torch: Any, data: tuple[Array, Array, Any]) -> None:
    """R34: the parameter's gradient after all parts is that of the whole, both ways."""
    logits, labels = (torch.tensor(array) for array in data[:2])
    options: tuple[dict[str, Any], ...] = (
        {"reduction": "sum"},
        {"reduction": "mean", "normalizer": (labels >= 0).sum()},
    )
    for option in options:
        slopes = []
        for parts in (
            [(logits.reshape(12, 5), labels.reshape(12))],
            zip(logits, labels, strict=True),
        ):
            scale = torch.ones(5, requires_grad=True)
            for part, ids in parts:
                cross_entropy(part * scale, ids, **option).backward()
            slopes.append(scale.grad)
        torch.testing.assert_close(*slopes)


def test_update_reads_nothing_of_a_tensor(torch: Any, data: tuple[Array, Array, Any]) -> None:
    """R26, R36: no operation that an accelerator would have to be waited for."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    logits, labels = (torch.tensor(array) for array in data[:2])
    running = RunningCrossEntropy()
    with Watch():
        for part, ids in zip(logits, labels, strict=True):
            running.update(part, ids)
    assert seen
    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "item")
    assert not [name for name in seen if any(wait in name for wait in waits)]
    assert len(running._pending) == 4
    assert running.compute().count == 10


def test_update_keeps_no_graph(torch: Any) -> None:
    """R36: no logits live on because of an autograd graph, watched or not."""
    running = RunningCrossEntropy()
    for size in (2, 20_000):  # by NumPy, and by torch
        logits = torch.zeros((size, 3), requires_grad=True)
        running.update(logits, torch.zeros(size, dtype=torch.int64))
        held = weakref.ref(logits)
        del logits
        gc.collect()
        assert held() is None
    assert running.compute().count == 20_002


def test_totals_of_half_precision(torch: Any) -> None:
    """R20, R36: bfloat16, which NumPy has not."""
    running = RunningCrossEntropy()
    running.update(torch.zeros((3, 4), dtype=torch.bfloat16), torch.tensor([0, 1, 2]))
    assert running.compute().loss == np.log(np.float32(4))


def test_update_leaves_uncommon_tensors_to_torch(torch: Any) -> None:
    """R2, R36: subclasses, and weights with gradients."""
    running = RunningCrossEntropy()
    logits = torch.nn.Parameter(torch.zeros((2, 3)))
    weight = torch.ones(2, requires_grad=True)
    running.update(logits, [0, 1], sample_weight=weight)
    assert running.compute().count == 2


def test_tensorflow_traces_unknown_shapes(tf: Any, data: tuple[Array, Array, Any]) -> None:
    """R23, R35: unknown batch and rank, XLA, and a loop that carries the sums."""
    logits, labels, truth = data
    flat = tf.constant(logits.reshape(12, 5)), tf.constant(labels.reshape(12))
    signature = [tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.int32)]
    assert_same(tf.function(cross_entropy_totals, input_signature=signature)(*flat), truth)
    assert_same(tf.function(cross_entropy_totals, jit_compile=True)(*flat), truth)

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None, tf.int32)])
    def unknown(logits: Any, labels: Any) -> Totals:
        return cross_entropy_totals(logits, labels, axis=-1)

    assert_same(unknown(*flat), truth)

    @tf.function
    def looped(logits: Any, labels: Any) -> Totals:
        start = cross_entropy_totals(logits[0], labels[0])
        found: Totals = tf.while_loop(
            lambda i, _: i < 4,
            lambda i, total: (i + 1, total + cross_entropy_totals(logits[i], labels[i])),
            (1, start),
        )[1]
        return found

    assert_same(looped(tf.constant(logits), tf.constant(labels)), truth)


def test_dask_adds_up_in_a_tree(installed: list[Backend], data: tuple[Array, Array, Any]) -> None:
    """R23, R36: `update` computes nothing, and `compute` everything at once."""
    if BACKENDS["dask"] not in installed:
        pytest.skip("dask is not under test")
    dask = pytest.importorskip("dask")
    import dask.array as da

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    calls = []

    def counted(graph: Any, keys: Any, **options: Any) -> Any:
        calls.append(1)
        return dask.get(graph, keys, **options)

    logits, labels, truth = data
    running = RunningCrossEntropy()
    with dask.config.set(scheduler=refuse):
        for part, ids in zip(logits, labels, strict=True):
            running.update(da.from_array(part, chunks=(1, -1)), ids)
        whole = cross_entropy_totals(
            da.from_array(logits.reshape(12, 5), chunks=(5, 2)), labels.reshape(12)
        )
    with dask.config.set(scheduler=counted):
        assert running.compute().count == truth.count
    assert len(calls) == 1
    (found,) = dask.compute(whole, scheduler="synchronous")
    assert isinstance(found, Totals)
    assert_same(found, truth)


def test_mlx_holds_no_logits(installed: list[Backend]) -> None:
    """R36: what is lazy is started, so that nothing keeps the logits alive."""
    if BACKENDS["mlx"] not in installed:
        pytest.skip("mlx is not under test")
    mx = pytest.importorskip("mlx.core")
    running = RunningCrossEntropy()
    size = 4_000_000
    labels = mx.zeros(size // 10, mx.int32)
    mx.eval(labels)
    before = mx.get_active_memory()
    for _ in range(6):
        running.update(mx.zeros((size // 10, 10)), labels)
    running._pending[-1][1][0].item()
    assert mx.get_active_memory() - before < 4 * size
    assert running.compute().count == 6 * size // 10
