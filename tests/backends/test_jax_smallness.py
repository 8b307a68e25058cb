"""R24 on JAX: the compiled program is as small as log-softmax, gather and mean, and as soon traced.

XLA's CPU compiler writes arrays between its fusions, so its programs show what an accelerator
fuses, and more.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from tests.helpers.support import calls_of
from unified_loss import cross_entropy, cross_entropy_with_grad

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

DERIVATIVES: dict[str, Callable[..., Any]] = {
    "loss": lambda f: f,
    "grad": jax.grad,
    "value_and_grad": jax.value_and_grad,
}
SIZES = [(512, 1000), (16, 4096), (64, 50), (4096, 128)]
ROW = 16  # bytes an example that masks and mass may take


@pytest.fixture(autouse=True)
def _selected(installed: list[Any]) -> None:
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")


def native(logits: Any, labels: Any) -> Any:
    """The loss as one writes it in JAX."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    return -jnp.take_along_axis(log_p, labels[:, None], -1).mean()


def native_dense(logits: Any, labels: Any) -> Any:
    """Its form for dense labels that may meet masked classes."""
    return optax.safe_softmax_cross_entropy(logits, labels).mean()


class Size(NamedTuple):
    """What an optimized program consists of."""

    reductions: int
    arrays: int  # of the logits' size that fusions write, temporary or not
    temporary: int  # bytes


def size_of(function: Any, logits: Any, labels: Any) -> Size:
    """Compile a function of logits and labels, and measure it."""
    compiled = jax.jit(function).lower(logits, labels).compile()
    text = compiled.as_text()
    assert "custom-call" not in text
    entry = text[text.index("\nENTRY") :]
    shape = ",".join(map(str, logits.shape))
    return Size(
        len(re.findall(r" reduce\(", text)),
        len(re.findall(rf"= \w+\[{shape}\]\S* fusion\(", entry)),
        compiled.memory_analysis().temp_size_in_bytes,
    )


def arrays_of(rows: int, classes: int, dtype: str = "float32") -> tuple[Any, Any]:
    """Logits and index labels."""
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.standard_normal((rows, classes)), dtype)
    return logits, jnp.asarray(rng.integers(0, classes, rows), "int32")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_program_is_as_small_as_the_native_one(derivative: str, size: tuple[int, int]) -> None:
    """R24: no more reductions, arrays or bytes than native; O(N) for the dropped examples."""
    arrays, wrap = arrays_of(*size), DERIVATIVES[derivative]
    bound = size_of(wrap(native), *arrays)
    plain = size_of(wrap(lambda x, y: cross_entropy(x, y, ignore_index=None)), *arrays)
    usual = size_of(wrap(cross_entropy), *arrays)
    for ours, masks in ((plain, 0), (usual, 1)):
        assert ours.reductions <= bound.reductions + masks
        assert ours.arrays <= bound.arrays + masks
        assert ours.temporary <= bound.temporary + ROW * size[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_step_holds_no_array_of_the_logits_size(dtype: str) -> None:
    """R24: loss and gradient need no further array in float32, and in bfloat16 no more."""
    logits, labels = arrays_of(256, 2000, dtype)
    bound = size_of(jax.value_and_grad(native), logits, labels).temporary
    if dtype == "float32":
        bound = ROW * 256 + 4096
    for step in (jax.value_and_grad(cross_entropy), cross_entropy_with_grad):
        assert size_of(step, logits, labels).temporary <= bound


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.1}, {"z_loss": 0.1}, {"sample_weight": 1}, {"class_weight": 1}],
)
def test_options_add_no_array_to_the_gradient(options: dict[str, Any]) -> None:
    """R24: smoothing, z-loss and weights cost O(N) in the program of the gradient."""
    logits, labels = arrays_of(512, 1000)
    sizes = {"sample_weight": 512, "class_weight": 1000}
    options = {
        name: jnp.ones(sizes[name]) if name in sizes else value for name, value in options.items()
    }
    ours = size_of(jax.grad(lambda x, y: cross_entropy(x, y, **options)), logits, labels)
    bound = size_of(jax.grad(native), logits, labels)
    assert ours.arrays <= bound.arrays
    assert ours.temporary <= bound.temporary + ROW * 512


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_dense_labels_take_no_more_memory(derivative: str) -> None:
    """R24: the same for dense labels, beside the native loss that knows masked classes as well."""
    logits, _ = arrays_of(512, 1000)
    labels = jax.nn.softmax(logits)
    wrap = DERIVATIVES[derivative]
    ours = size_of(wrap(cross_entropy), logits, labels)
    bound = size_of(wrap(native_dense), logits, labels)
    assert ours.temporary <= bound.temporary + 3 * ROW * 512


def test_gradient_computes_no_loss() -> None:
    """R24: the careful gradient of dense labels makes no sum that the loss alone needs.

    The other one is known to do by the loss.
    """
    logits, _ = arrays_of(64, 50)
    options = {"class_weight": np.ones(50, np.float32), "label_smoothing": 0.25}
    for given, sums in (({"z_loss": 0.1}, 5), (options, 7)):
        slope = jax.grad(functools.partial(cross_entropy, **given))
        assert size_of(slope, logits, logits).reductions <= sums
    mapped = jax.vmap(jax.grad(cross_entropy))
    assert size_of(mapped, logits[None], logits[None]).reductions <= 5


def test_program_calls_nothing_back_and_scatters_nothing() -> None:
    """R24: no host callback, and no scatter or one-hot product in the gradient."""
    arrays = arrays_of(64, 50)
    text = str(jax.make_jaxpr(jax.value_and_grad(cross_entropy))(*arrays))
    assert not re.search("callback|scatter|dot_general", text)


def test_tracing_is_less_work_than_two_native_losses() -> None:
    """R24: in calls of Python functions, to trace and lower the gradient."""
    arrays = arrays_of(64, 50)

    def calls(function: Any) -> int:
        def trace() -> Any:
            return jax.jit(jax.value_and_grad(functools.partial(function))).lower(*arrays)

        trace()
        return calls_of(trace)

    assert calls(cross_entropy) < 2 * calls(native)
