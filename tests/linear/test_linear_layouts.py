"""PyTorch's products by oneDNN: any layout of the arguments, and no more memory than MKL takes."""

from typing import Any

import pytest

from unified_loss import linear_cross_entropy, linear_cross_entropy_with_grad
from unified_loss._linear import _walks as walks

torch = pytest.importorskip("torch")

from unified_loss._backends import _torch_products as products  # noqa: E402 (needs torch)

pytestmark = pytest.mark.usefixtures("torch_is_under_test")

N, D, C = 24, 6, 40
HIDDEN = {
    "dense": lambda x: x,
    "padded": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "transposed": lambda x: x.t().contiguous().t(),
    "stepped": lambda x: x.repeat_interleave(2, 0)[::2],
    "one row": lambda x: x[:1].expand(x.shape),
}
WEIGHTS = {name: HIDDEN[name] for name in ("dense", "padded", "transposed", "stepped")}
BIASES = {
    "none": lambda _: None,
    "dense": lambda x: x,
    "column": lambda x: torch.stack([x, x], 1)[:, 1],
    "one number": lambda x: x[:1].expand(x.shape),
}
WALKS = {"rows": (0, 2**20), "classes": (2**20, 2**20), "tiles": (2**20, 100)}


@pytest.fixture(params=WALKS)
def _small(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walk for a few logits, and oneDNN for a few products."""
    few_features, tile = WALKS[request.param]
    sizes = {"TWO_STEPS": 0, "FEW_FEATURES": few_features, "TILE": tile, "TILE_ROWS": 7}
    for name, size in (sizes | {"ROWS_AT_LEAST": 5, "ROW_BLOCK": 0}).items():
        monkeypatch.setattr(walks, name, size)
    monkeypatch.setattr(products, "FEW", 0)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_any_layout_is_the_same(hidden: str, weight: str, bias: str) -> None:
    """R28: strides are followed, and memory beside the arguments is not read."""
    torch.manual_seed(0)
    head = (
        HIDDEN[hidden](torch.randn(N, D)),
        WEIGHTS[weight](torch.randn(C, D)),
        BIASES[bias](torch.randn(C)),
    )
    labels = torch.arange(N) * 7 % C
    labels[3] = -100
    wanted = [None if part is None else part.double().requires_grad_() for part in head]
    x = torch.nn.functional.linear(*wanted)  # type: ignore[arg-type]
    truth = torch.nn.functional.cross_entropy(x, labels)
    truth.backward()
    loss = linear_cross_entropy(*head[:2], labels, bias=head[2])
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=1e-6)
    loss, gradients = linear_cross_entropy_with_grad(*head[:2], labels, bias=head[2])
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=1e-6)
    for found, part in zip(gradients, wanted, strict=True):
        if part is None:
            assert found is None
        else:
            torch.testing.assert_close(found.double(), part.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_only_dense_operands_go_to_onednn(
    hidden: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take it up to a thousand times as long, or are copied."""
    if products._onednn() is None:
        pytest.skip("a build without oneDNN")
    seen = []

    def multiply(a: Any, b: Any, *_: Any) -> Any:
        seen.append((a, b))
        return a @ b.t()

    monkeypatch.setattr(products, "_onednn", lambda: multiply)
    monkeypatch.setattr(products, "FEW", 0)
    a, b = HIDDEN[hidden](torch.randn(N, D)), WEIGHTS[weight](torch.randn(C, D))
    found = products.product(a, b)
    torch.testing.assert_close(found, a @ b.t())
    assert bool(seen) == (hidden == "dense" and weight in {"dense", "transposed"})
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    seen.clear()
    products.product(a, b)
    assert not seen


def test_the_gradient_of_a_weight_is_made_where_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """R29: oneDNN would make it twice, and the block of logits too."""
    monkeypatch.setattr(walks, "TWO_STEPS", 0)
    monkeypatch.setattr(walks, "FEW_FEATURES", 0)
    monkeypatch.setattr(products, "FEW", 0)
    sizes = []
    product = products._onednn()

    def multiply(a: Any, b: Any, *others: Any) -> Any:
        sizes.append((len(a), len(b)))
        return product(a, b, *others)

    if product is None:
        pytest.skip("a build without oneDNN")
    monkeypatch.setattr(products, "_onednn", lambda: multiply)
    arrays = torch.randn(300, 8), torch.randn(20, 8)
    linear_cross_entropy_with_grad(*arrays, torch.arange(300) % 20)
    assert set(sizes) == {(300, 20), (300, 8)}
