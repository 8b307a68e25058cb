"""PyTorch on an accelerator, by each kernel that serves there: what the processor cannot show."""

from contextlib import contextmanager

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import sample
from tests.helpers.torch_cases import EVERYTHING, TORCH
from unified_loss import (
    OptionError,
    RunningCrossEntropy,
    cross_entropy,
    cross_entropy_totals,
    cross_entropy_with_grad,
)

torch = pytest.importorskip("torch")

from unified_loss._backends import torch as backend  # noqa: E402 (needs torch)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("torch_is_under_test")]

OPTIONS = {"plain": {}, "ignored": {"ignored": 2}, "everything": EVERYTHING}
LAYOUTS = {
    "channels first": ((3, 5, 3, 3), 1, lambda x: x),
    "channels last": ((3, 5, 3, 3), 1, lambda x: x.to(memory_format=torch.channels_last)),
    "sliced": ((5, 9), 1, lambda x: torch.cat([x, x], 1)[:, :9]),
    "transposed": ((5, 9), 1, lambda x: x.t().contiguous().t()),
    "expanded": ((5, 9), 1, lambda x: x[:1].expand(5, 9)),
}


@pytest.fixture(params=["auto", "fused", "softmax", "rows"])
def kernel(request, monkeypatch, nothing_is_familiar):
    """Each kernel that can serve there; familiar calls would remember another."""
    monkeypatch.setattr(backend, "_FORCED", request.param)
    try:
        cross_entropy(TORCH.asarray(np.zeros((2, 3)), "float32"), TORCH.asarray(np.zeros(2, int)))
    except OptionError as error:
        pytest.skip(str(error))
    return request.param


@contextmanager
def without_waiting():
    """What waits for the device is an error."""
    if TORCH.device == "elsewhere":
        from tests.helpers import torch_elsewhere

        with torch_elsewhere.without_waiting():
            yield
        return
    if TORCH.device != "cuda":
        pytest.skip(f"nothing tells what waits for {TORCH.device}")
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step(arrays, options):
    """Whatever a training step may call."""
    loss = cross_entropy(**arrays, **options)
    loss.sum().backward()
    arrays = arrays | {"logits": arrays["logits"].detach()}
    cross_entropy_with_grad(**arrays, **options)
    options = {name: options[name] for name in options if name not in {"reduction", "normalizer"}}
    cross_entropy_totals(**arrays, **options)
    weight = arrays.pop("class_weight", None)
    RunningCrossEntropy(class_weight=weight, **options).update(**arrays)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_no_call_waits(kernel, kind, option, rng):
    """R26: not the first call of its kind, nor the second, whatever its labels hold."""
    settings = OPTIONS[option] if kind == "index" else OPTIONS[option] | {"ignored": 0}
    problem = sample(rng, kind, **settings)
    if kind == "index":
        problem.labels[-1] = 99
    options = problem.options
    arrays = TORCH.place(problem, "float32")
    arrays["logits"].requires_grad_()
    if TORCH.device != "elsewhere":
        step(arrays, options)  # kernels are compiled and loaded
    with without_waiting():
        step(arrays, options)
        step(arrays, options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("rows", "classes"), [(1, 30_000), (3, 4097), (2000, 3)])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_rows_of_any_length_are_right(kernel, kind, rows, classes, dtype, rng):
    """R20: one tile, several, and rows that several programs share."""
    problem = sample(rng, kind, batch=(rows,), classes=classes, label_smoothing=0.25, z_loss=0.5)
    loss, slope = TORCH.closed_form(problem, dtype)
    assert_accurate(loss, problem, dtype)
    assert_accurate(slope, problem, dtype, "gradient")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_are_those_of_the_processor(kernel, layout, rng):
    """R3: a layout changes no number."""
    shape, axis, view = LAYOUTS[layout]
    values = rng.standard_normal(shape).astype(np.float32)
    labels = rng.integers(shape[axis], size=shape[:axis] + shape[axis + 1 :])
    there = view(TORCH.asarray(values))
    found = cross_entropy_with_grad(there, TORCH.asarray(labels), axis=axis)
    truth = cross_entropy_with_grad(view(torch.tensor(values)).numpy(), labels, axis=axis)
    for ours, theirs in zip(found, truth, strict=True):
        np.testing.assert_allclose(TORCH.to_numpy(ours), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('--device').startswith('cuda')", reason="needs CUDA")
def test_more_logits_than_32_bits_count(kernel):
    """R9: 2^31 logits and some, whose last row is right as well."""
    if torch.cuda.mem_get_info()[0] < 64 * 2**30:
        pytest.skip("it takes up to 64 GB")
    rows, classes = 2**21 + 1, 1024
    logits = torch.zeros(rows, classes, device="cuda", dtype=torch.bfloat16)
    labels = torch.full((rows,), classes - 1, device="cuda")
    loss, slope = cross_entropy_with_grad(logits, labels, reduction="sum")
    assert loss.item() == pytest.approx(rows * np.log(classes), rel=1e-6)
    last = slope[-1].float().cpu()
    assert last[-1].item() == pytest.approx(1 / classes - 1, rel=1e-2)
    assert last[0].item() == pytest.approx(1 / classes, rel=1e-2)


def test_the_host_sees_no_value_by_itself():
    """R26: what the other tests rely on, on the device and on what stands for one."""
    array = TORCH.asarray(np.ones(2), "float32")
    with pytest.raises((TypeError, RuntimeError), match="host memory"):
        np.asarray(array)
    for wait in (lambda: array.sum().item(), array.cpu, lambda: bool(array.any())):
        with without_waiting(), pytest.raises(RuntimeError):
            wait()
