"""MLX: a program that was traced without shapes is right for other sizes."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import cross_entropy, cross_entropy_with_grad

mx = pytest.importorskip("mlx.core")
# The first is traced. Then other batches, other classes, and both.
SHAPES = ((2, 5, 3), (4, 5, 3), (2, 5, 6), (4, 8, 3), (3, 7, 2))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"ignore_index": None},
    "options": {"label_smoothing": 0.25, "z_loss": 0.5},
}
WEIGHTS = ((), ("class_weight", "sample_weight"))


@pytest.fixture
def mlx(installed: list[Backend]) -> Backend:
    """MLX, if it is under test."""
    if BACKENDS["mlx"] not in installed:
        pytest.skip("MLX is not under test")
    return BACKENDS["mlx"]


def drawn(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> dict[str, np.ndarray]:
    """The arrays of a call with the classes on axis 1: also labels out of range, and weights."""
    batch = (shape[0], *shape[2:])
    labels: np.ndarray = rng.integers(-1, shape[1] + 1, batch).astype(np.int32)
    labels[0] = -100
    if kind == "dense":
        labels = rng.dirichlet(np.ones(shape[1]), batch).astype(np.float32)
        labels = np.moveaxis(labels, -1, 1)
    elif kind == "kept":
        labels = np.expand_dims(labels, 1)
    return {
        "logits": rng.normal(size=shape).astype(np.float32),
        "labels": labels,
        "class_weight": rng.uniform(0.5, 2, shape[1]).astype(np.float32),
        "sample_weight": rng.uniform(0.5, 2, shape[0]).astype(np.float32),
    }


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "kept", "dense"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_shapeless_programs_serve_all_sizes(
    mlx: Backend, rng: np.random.Generator, options: dict[str, Any], kind: str, reduction: str
) -> None:
    """R23: loss and gradient are those of the eager call, for labels out of range as well."""
    given = {"axis": 1, "reduction": reduction, "check": False}
    given |= options if kind != "dense" else {"label_smoothing": options.get("label_smoothing", 0)}
    for weights in WEIGHTS:
        names = ("logits", "labels", *weights)

        def call(*arrays: Any) -> Any:
            named = dict(zip(names, arrays, strict=True))  # noqa: B023 - called before the next
            loss = cross_entropy(**named, **given)
            return loss, *cross_entropy_with_grad(**named, **given)

        compiled = mx.compile(call, shapeless=True)
        for shape in SHAPES:
            values = drawn(rng, shape, kind)
            arrays = [mx.array(values[name]) for name in names]
            for found, wanted in zip(compiled(*arrays), call(*arrays), strict=True):
                np.testing.assert_allclose(
                    mlx.to_numpy(found), mlx.to_numpy(wanted), rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_shapeless_gradients_serve_all_sizes(
    mlx: Backend, rng: np.random.Generator, options: dict[str, Any]
) -> None:
    """R22, R23: and so are the gradients of MLX's autodiff, in weights too."""

    def total(logits: Any, labels: Any, class_weight: Any, sample_weight: Any) -> Any:
        return cross_entropy(
            logits,
            labels,
            axis=1,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **options,
        )

    slopes = mx.grad(total, argnums=(0, 2, 3))
    compiled = mx.compile(slopes, shapeless=True)
    for shape in SHAPES:
        values = drawn(rng, shape, "index")
        values["labels"] = np.clip(values["labels"], 0, shape[1] - 1)
        arrays = [mx.array(value) for value in values.values()]
        for found, wanted in zip(compiled(*arrays), slopes(*arrays), strict=True):
            np.testing.assert_allclose(
                mlx.to_numpy(found), mlx.to_numpy(wanted), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("options", OPTIONS)
def test_maps_over_logits_alone_are_loops(
    mlx: Backend, options: str, reduction: str, rng: np.random.Generator
) -> None:
    """R22: labels and weights that a function closes over are those of each call."""
    logits = mx.array(rng.normal(size=(3, 4, 5)).astype(np.float32))
    labels, weight = mx.array([0, 4, -100, 2]), mx.array([1.0, 2, 0, 3])

    def loss(x: Any) -> Any:
        given = {"sample_weight": weight, "reduction": reduction, **OPTIONS[options]}
        return cross_entropy(x, labels, **given)

    for function in (loss, mx.grad(lambda x: loss(x).sum())):
        mapped = mx.vmap(function)(logits)
        np.testing.assert_allclose(mapped, mx.stack([function(x) for x in logits]), rtol=1e-5)


@pytest.mark.parametrize("number", [1000, 1024, 4096, 100_003])
def test_many_equal_losses_are_added_up_without_loss(mlx: Backend, number: int) -> None:
    """R20: on a processor MLX adds one by one, and loses the same of each."""
    logits, labels = np.zeros((number, 3)), np.zeros(number, int)
    loss = cross_entropy(mlx.asarray(logits, "float32"), mlx.asarray(labels))
    assert mlx.to_numpy(loss) == pytest.approx(np.log(3), rel=2e-6)
