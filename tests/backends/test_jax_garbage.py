"""R16 on JAX: what dropped rows hold reaches no number, in any order or mode of derivatives."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from unified_loss import cross_entropy

jax = pytest.importorskip("jax")
jnp = jax.numpy

HUGE = float(np.finfo(np.float32).max)
INF = np.inf
KEPT = [[0, 1, 2], [2, 1, 0.5]]
GARBAGE = [
    [INF, 0, 1],
    [INF, -INF, 0],
    [INF] * 3,
    [np.nan, 0, 1],
    [-INF] * 3,
    [HUGE, 0, 0],
    [HUGE, -HUGE, 1],
    [-HUGE, 0, -HUGE],
]
GONE = np.arange(len(KEPT + GARBAGE)) >= len(KEPT)
WAYS = ["mask", "weight", "row", "ignored", "class"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.25},
    "class_weight": {"class_weight": [0.5, 2, 3]},
    "everything": {"class_weight": [0.5, 2, 3], "label_smoothing": 0.25, "z_loss": 0.5},
}


@pytest.fixture(autouse=True)
def _selected(installed: list[Any]) -> None:
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")


def arrays_of(way: str, options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Floating operands, the logits first, and the others: rows that are dropped in one `way`."""
    labels = np.where(GONE[:, None], [0.5, 0.25, 0.25], [0.25, 0, 0.75]).astype(np.float32)
    ids = np.where(GONE, 1, 2)
    floating: dict[str, Any] = {"logits": np.array(KEPT + GARBAGE, np.float32)}
    others: dict[str, Any] = dict(OPTIONS[options])
    if "class_weight" in others:
        floating["class_weight"] = np.array(others.pop("class_weight"), np.float32)
    if way == "mask":
        others["sample_weight"] = ~GONE
    if way == "weight":
        floating["sample_weight"] = np.where(GONE, 0, 1.5).astype(np.float32)
    if way == "row":
        labels = np.where(GONE[:, None], 0, labels)
    if way == "class":
        floating["class_weight"] = np.array([0.5, 0, 3], np.float32)
        others["label_smoothing"] = 0
    if way in {"ignored", "class"}:
        others["labels"] = np.where(GONE & (way == "ignored"), -100, ids)
    else:
        floating["labels"] = labels
    return floating, others


def clean(floating: dict[str, Any]) -> dict[str, Any]:
    """The same with ordinary numbers in the rows that are dropped."""
    return floating | {"logits": np.where(GONE[:, None], 1, floating["logits"])}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_garbage_of_dropped_rows_reaches_nothing(way: str, options: str) -> None:
    """R16, R22: loss, four gradients, forward mode and second derivatives, eager and compiled."""
    floating, others = arrays_of(way, options)

    def loss(floating: dict[str, Any]) -> Any:
        return cross_entropy(**floating, **others)

    def curved(logits: Any) -> Any:
        return jax.grad(loss)(floating | {"logits": logits})["logits"]

    def forward(floating: dict[str, Any]) -> Any:
        return jax.jvp(loss, (floating,), (jax.tree.map(jnp.ones_like, floating),))

    wanted, slopes = jax.value_and_grad(loss)(clean(floating))
    wraps: Any = (lambda f: f, jax.jit)
    for wrap in wraps:
        value, found = wrap(jax.value_and_grad(loss))(floating)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        for name, slope in found.items():
            kept = slope if name == "class_weight" else slope[~GONE]
            true = slopes[name] if name == "class_weight" else slopes[name][~GONE]
            assert not np.isnan(slope).any()
            if (way, name) != ("class", "class_weight"):  # its rows of finite garbage still learn
                np.testing.assert_allclose(kept, true, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(found["logits"][GONE], 0)
    direction = (floating["logits"],), (np.ones_like(floating["logits"]),)
    for second in (jax.jvp(curved, *direction)[1], jax.jit(jax.jacrev(curved))(*direction[0])):
        assert np.isfinite(second).all()
        np.testing.assert_array_equal(second[GONE], 0)
    # A direction in labels or class weights meets all logits, of which too large ones overflow.
    tame = floating | {"logits": floating["logits"] * np.float32(1e-8)}
    assert not np.isnan(jax.jit(forward)(tame)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("way", WAYS)
def test_garbage_of_dropped_rows_costs_nothing(way: str, dtype: str) -> None:
    """R16: exactly 0 in every row of it, whatever the sum of its terms would be."""
    floating, others = arrays_of(way, "everything")
    logits = jnp.asarray(floating.pop("logits"), dtype)
    others |= {"reduction": "none"}
    losses = jax.jit(lambda x: cross_entropy(x, **floating, **others))(logits)
    np.testing.assert_array_equal(losses[GONE], 0)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("weight", [1e-37, -1e-37, 1.0])
def test_any_weight_meets_a_masked_class(weight: float) -> None:
    """R18: a probability on a masked class costs infinity however small it is, and none nothing."""
    logits = np.array([[1, -INF, 0], [1, 0, -INF]], np.float32)
    labels = np.array([[1, weight, 0]] * 2, np.float32)
    loss = jax.jit(lambda *pair: cross_entropy(*pair, reduction="none"))(logits, labels)
    assert loss[0] == np.copysign(INF, weight)
    assert np.isfinite(loss[1])
