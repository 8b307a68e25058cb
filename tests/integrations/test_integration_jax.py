"""JAX needs no wrapper: the function in the training steps of Flax NNX and Equinox, with optax."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import cross_entropy

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

STEPS = 40
RATE = 0.05
Loss = Callable[[Any, Any], Any]


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")


def optax_loss(logits: Any, labels: Any) -> Any:
    """The mean of optax's own losses."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def padded_loss(logits: Any, labels: Any) -> Any:
    """The same with optax's own mask of what is padding."""
    real = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels * real)
    return (losses * real).sum() / real.sum()


def batch() -> tuple[Any, Any]:
    """Points in three classes."""
    points = np.random.default_rng(0).normal(size=(96, 5)).astype("float32")
    return jax.numpy.asarray(points), jax.numpy.asarray(points[:, :3].argmax(-1))


def flax_curve(loss: Loss, labels: Any) -> list[float]:
    """The loss before each step of a Flax NNX model."""
    nnx = pytest.importorskip("flax.nnx")
    points, _ = batch()
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(5, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu,
        nnx.Linear(16, 3, rngs=rngs),
    )  # fmt: skip
    optimizer = nnx.Optimizer(model, optax.adamw(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        value, slopes = nnx.value_and_grad(lambda model: loss(model(points), labels))(model)
        optimizer.update(model, slopes)
        return value

    return [float(step(model, optimizer)) for _ in range(STEPS)]


def equinox_curve(loss: Loss, labels: Any) -> list[float]:
    """The loss before each step of an Equinox model."""
    equinox = pytest.importorskip("equinox")
    points, _ = batch()
    model = equinox.nn.MLP(5, 3, width_size=16, depth=1, key=jax.random.key(0))
    optimizer = optax.adamw(RATE)
    state = optimizer.init(equinox.filter(model, equinox.is_inexact_array))

    @equinox.filter_jit
    def step(model: Any, state: Any) -> tuple[Any, Any, Any]:
        def value_of(model: Any) -> Any:
            return loss(jax.vmap(model)(points), labels)

        value, slopes = equinox.filter_value_and_grad(value_of)(model)
        trained = equinox.filter(model, equinox.is_inexact_array)
        updates, state = optimizer.update(slopes, state, trained)
        return equinox.apply_updates(model, updates), state, value

    values = []
    for _ in range(STEPS):
        model, state, value = step(model, state)
        values.append(float(value))
    return values


@pytest.mark.parametrize("curve", [flax_curve, equinox_curve])
def test_training_is_that_of_optax(curve: Callable[[Loss, Any], list[float]]) -> None:
    """R22, R23: the loss falls, and every step logs what optax's own loss would."""
    _, labels = batch()
    ours = curve(cross_entropy, labels)
    assert ours[-1] < ours[0] / 4
    np.testing.assert_allclose(ours, curve(optax_loss, labels), rtol=5e-5)


@pytest.mark.parametrize("curve", [flax_curve, equinox_curve])
def test_training_with_padding_is_that_of_optax(
    curve: Callable[[Loss, Any], list[float]],
) -> None:
    """R14, R16: `ignore_index` in place of a mask, in the same steps."""
    _, labels = batch()
    labels = jax.numpy.where(jax.numpy.arange(len(labels)) % 3 == 0, -100, labels)
    ours = curve(cross_entropy, labels)
    assert ours[-1] < ours[0] / 4
    np.testing.assert_allclose(ours, curve(padded_loss, labels), rtol=5e-5)
