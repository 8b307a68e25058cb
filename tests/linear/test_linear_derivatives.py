"""Derivatives of the linear form beyond one backward: second ones, forward mode, frozen inputs."""

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.linear.cases import Linear, assert_all_near, assert_near, linear, truth
from unified_loss import linear_cross_entropy

pytestmark = pytest.mark.usefixtures("way")
EVERYTHING = {
    "bias": True,
    "softcap": 2.0,
    "sample_weight": "full",
    "label_smoothing": 0.25,
    "z_loss": 0.125,
}


@pytest.fixture
def case(rng: Generator) -> Linear:
    """A call with every option and a row that is dropped."""
    found = linear(rng, **EVERYTHING)
    found.problem.labels[2] = -100
    return found


def slopes_along(case: Linear, direction: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The slope of the loss, and the change of its gradients, along a direction."""
    step = np.longdouble(1e-5)
    ends = []
    for sign in (1, -1):
        moved = {
            name: getattr(case, name).astype(np.longdouble) + sign * step * change
            for name, change in direction.items()
        }
        ends.append(truth(case.but(**moved)))
    changes = [(one - other) / (2 * step) for one, other in zip(*ends, strict=True)]
    return changes[0], changes[1:]


def direction_of(case: Linear, rng: Generator) -> dict[str, Any]:
    """A direction in hidden, weight and bias."""
    parts = {"hidden": case.hidden, "weight": case.weight, "bias": case.bias}
    return {name: rng.integers(-4, 5, part.shape) / 4 for name, part in parts.items()}


def options_of(case: Linear) -> dict[str, Any]:
    """What does not change, as host data."""
    problem = case.problem
    return case.options | {"labels": problem.labels, "sample_weight": problem.sample_weight}


class TestTorch:
    """PyTorch."""

    @pytest.fixture(autouse=True)
    def torch(self, torch_is_under_test: None) -> Any:
        """The library."""
        return pytest.importorskip("torch")

    def parts(self, torch: Any, case: Linear) -> list[Any]:
        """Hidden, weight and bias, with gradients."""
        return [torch.tensor(part, dtype=torch.float32, requires_grad=True)
                for part in (case.hidden, case.weight, case.bias)]  # fmt: skip

    def test_second_derivatives(self, torch: Any, case: Linear, rng: Generator) -> None:
        """R22, R31: by a graph of the backward."""
        parts, direction = self.parts(torch, case), direction_of(case, rng)
        value = linear_cross_entropy(parts[0], parts[1], bias=parts[2], **options_of(case))
        first = torch.autograd.grad(value, parts, create_graph=True)
        along = sum(
            (one * torch.tensor(direction[name], dtype=torch.float32)).sum()
            for one, name in zip(first, direction, strict=True)
        )
        _, wanted = slopes_along(case, direction)
        for ours, true in zip(torch.autograd.grad(along, parts), wanted, strict=True):
            np.testing.assert_allclose(ours, true.astype(float), rtol=1e-4, atol=1e-5)

    def test_forward_mode_and_transforms(self, torch: Any, case: Linear, rng: Generator) -> None:
        """R22, R31: `torch.func`."""
        parts, direction = self.parts(torch, case), direction_of(case, rng)
        parts = [part.detach() for part in parts]
        labels = torch.tensor(case.problem.labels)
        options = options_of(case) | {"labels": labels}

        def loss(hidden: Any, weight: Any, bias: Any) -> Any:
            return linear_cross_entropy(hidden, weight, bias=bias, **options)

        tangents = tuple(torch.tensor(one, dtype=torch.float32) for one in direction.values())
        wanted, _ = slopes_along(case, direction)
        _, slope = torch.func.jvp(loss, tuple(parts), tangents)
        np.testing.assert_allclose(slope, float(wanted), rtol=1e-4, atol=1e-5)
        gradients = torch.func.grad(loss, (0, 1, 2))(*parts)
        assert_all_near([one.numpy() for one in gradients], case, "float32")

    def test_second_backward(self, torch: Any, case: Linear) -> None:
        """R31: once more through a graph that is kept, and added up."""
        parts = self.parts(torch, case)
        value = linear_cross_entropy(parts[0], parts[1], bias=parts[2], **options_of(case))
        (3 * value).backward(retain_graph=True)
        value.backward()
        assert_all_near([part.grad.numpy() for part in parts], case, "float32", 4.0)

    def test_tied(self, torch: Any, rng: Generator) -> None:
        """R31: hidden and weight depend on one parameter."""
        case = linear(rng, batch=(5,), classes=5)
        table = torch.tensor(case.weight, requires_grad=True)
        linear_cross_entropy(2 * table, table, torch.tensor(case.problem.labels)).backward()
        true = truth(case.but(hidden=2 * case.weight))
        assert_near(table.grad.numpy(), 2 * true.hidden + true.weight, "float32")

    @pytest.mark.parametrize("name", ["hidden", "weight", "bias"])
    def test_each_alone(self, torch: Any, case: Linear, name: str) -> None:
        """R31: the others are frozen."""
        parts = {"hidden": case.hidden, "weight": case.weight, "bias": case.bias}
        placed = {key: torch.tensor(part, dtype=torch.float32) for key, part in parts.items()}
        placed[name].requires_grad_()
        linear_cross_entropy(**placed, **options_of(case)).backward()
        assert_near(placed[name].grad.numpy(), getattr(truth(case), name), "float32")

    @pytest.mark.parametrize("kind", ["index", "dense"])
    def test_gradients_of_the_weights(self, torch: Any, kind: Any, rng: Generator) -> None:
        """R31: those of floating weights and labels of the loss are those of the logits' loss."""
        from unified_loss import cross_entropy

        case = linear(rng, kind, class_weight=True, sample_weight="full", label_smoothing=0.25)
        weights = [torch.tensor(one, requires_grad=True)
                   for one in (case.problem.class_weight, case.problem.sample_weight)]  # fmt: skip
        labels = torch.tensor(case.problem.labels, requires_grad=kind == "dense")
        hidden, weight = torch.tensor(case.hidden), torch.tensor(case.weight)
        wrt = [*weights, labels] if kind == "dense" else weights
        options = {"class_weight": weights[0], "sample_weight": weights[1], "label_smoothing": 0.25}
        one = linear_cross_entropy(hidden, weight, labels, **options)
        other = cross_entropy(hidden @ weight.T, labels, axis=-1, **options)
        for ours, wanted in zip(
            torch.autograd.grad(one, wrt), torch.autograd.grad(other, wrt), strict=True
        ):
            torch.testing.assert_close(ours, wanted)


def test_jax(installed: Any, case: Linear, rng: Generator) -> None:
    """R22, R31: second derivatives, forward mode and vmap."""
    if "jax" not in {backend.name for backend in installed}:
        pytest.skip("JAX is not under test")
    import jax
    import jax.numpy as jnp

    direction = direction_of(case, rng)
    parts = [jnp.asarray(part, jnp.float32) for part in (case.hidden, case.weight, case.bias)]
    tangents = tuple(jnp.asarray(one, jnp.float32) for one in direction.values())

    def loss(hidden: Any, weight: Any, bias: Any) -> Any:
        return linear_cross_entropy(hidden, weight, bias=bias, **options_of(case))

    slope, changes = slopes_along(case, direction)
    np.testing.assert_allclose(
        jax.jvp(loss, tuple(parts), tangents)[1], float(slope), rtol=1e-4, atol=1e-5
    )
    pushed = jax.jvp(jax.grad(loss, (0, 1, 2)), tuple(parts), tangents)[1]
    for ours, true in zip(pushed, changes, strict=True):
        np.testing.assert_allclose(ours, true.astype(float), rtol=1e-4, atol=1e-5)
    several = jnp.stack([parts[0], 2 * parts[0]])
    both = jax.vmap(loss, (0, None, None))(several, *parts[1:])
    np.testing.assert_allclose(both, [loss(one, *parts[1:]) for one in several], rtol=1e-5)


def test_tensorflow(installed: Any, case: Linear, rng: Generator) -> None:
    """R22, R31: nested tapes and forward mode, eager and in a graph."""
    if "tensorflow" not in {backend.name for backend in installed}:
        pytest.skip("TensorFlow is not under test")
    import tensorflow as tf

    direction = direction_of(case, rng)
    parts = [tf.constant(part, tf.float32) for part in (case.hidden, case.weight, case.bias)]
    tangents = [tf.constant(one, tf.float32) for one in direction.values()]

    def second() -> Any:
        with tf.GradientTape() as outer:
            outer.watch(parts)
            with tf.GradientTape() as inner:
                inner.watch(parts)
                hidden, weight, bias = parts
                value = linear_cross_entropy(hidden, weight, bias=bias, **options_of(case))
            first = inner.gradient(value, parts)
            along = sum(
                tf.reduce_sum(one * change) for one, change in zip(first, tangents, strict=True)
            )
        return along, *outer.gradient(along, parts)

    slope, changes = slopes_along(case, direction)
    for run in (second, tf.function(second)):
        along, *found = run()
        np.testing.assert_allclose(along, float(slope), rtol=1e-4, atol=1e-5)
        for ours, true in zip(found, changes, strict=True):
            np.testing.assert_allclose(ours, true.astype(float), rtol=1e-4, atol=1e-5)
    with tf.autodiff.ForwardAccumulator(parts, tangents) as accumulator:
        hidden, weight, bias = parts
        value = linear_cross_entropy(hidden, weight, bias=bias, **options_of(case))
    np.testing.assert_allclose(accumulator.jvp(value), float(slope), rtol=1e-4, atol=1e-5)
