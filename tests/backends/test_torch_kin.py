"""Tensors of classes that refuse each other, as fastai's images and masks do."""

from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from unified_loss import ShapeError, cross_entropy, cross_entropy_with_grad, explain  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_is_under_test")


class Base(torch.Tensor):  # type: ignore[misc, unused-ignore]
    """Like `fastai.torch_core.TensorBase`: it allows functions of the pairs that it knows."""

    allowed: ClassVar[dict[Any, Any]] = {}

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's own, which refuses classes that are neither above nor below."""
        if any(all(map(isinstance, args, kinds)) for kinds in cls.allowed.get(func, ())):
            types = (torch.Tensor,)
        return super().__torch_function__(func, types, args, kwargs or {})


class Image(Base):
    """Logits of an image."""


class Mask(Base):
    """Labels of an image."""


class Plain(torch.Tensor):  # type: ignore[misc, unused-ignore]
    """A class without a word of its own, which torch takes for a sibling of others as well."""


Base.allowed = {torch.Tensor.__eq__: [(Mask, Image), (Image, Mask)]}
KINDS = (torch.Tensor, Base, Image, Mask, Plain)


def arrays() -> dict[str, Any]:
    """A call of an image of 3 classes."""
    torch.manual_seed(0)
    return {
        "logits": torch.randn(2, 3, 4, 4),
        "labels": torch.randint(0, 3, (2, 4, 4)),
        "class_weight": torch.rand(3),
        "sample_weight": torch.rand(2, 4, 4),
    }


def test_natives_refuse_siblings() -> None:
    """The stand-ins refuse each other, else the tests below say nothing."""
    given = arrays()
    logits, labels = given["logits"].as_subclass(Image), given["labels"]
    for kind in (Mask, Plain):
        with pytest.raises(TypeError, match="no implementation found"):
            torch.nn.functional.cross_entropy(logits, labels.as_subclass(kind))


@pytest.mark.parametrize("kinds", [(a, b, c) for a in KINDS for b in KINDS for c in KINDS])
def test_siblings_are_combined(kinds: tuple[Any, ...]) -> None:
    """R2: logits, labels and weights of any three classes give the loss of plain tensors."""
    given = arrays()
    wanted = cross_entropy_with_grad(**given, label_smoothing=0.1)
    first, second, third = kinds
    given["logits"] = given["logits"].as_subclass(first)
    given["labels"] = given["labels"].as_subclass(second)
    given["sample_weight"] = given["sample_weight"].as_subclass(third)
    for check in ("auto", True):
        found = cross_entropy_with_grad(**given, label_smoothing=0.1, check=check)
        for ours, plain in zip(found, wanted, strict=True):
            assert torch.equal(ours.as_subclass(torch.Tensor), plain)
    if first is not torch.Tensor:
        assert isinstance(found[0], Base if issubclass(first, Base) else first)
    assert explain(**given).valid


def test_siblings_have_gradients() -> None:
    """R22: also those of plain tensors, in logits and weights."""
    slopes = []
    for kinds in ((torch.Tensor, torch.Tensor, torch.Tensor), (Image, Mask, Plain)):
        given = arrays()
        for name in ("logits", "sample_weight"):
            given[name].requires_grad_()
        leaves = given["logits"], given["sample_weight"]
        for name, kind in zip(("logits", "labels", "sample_weight"), kinds, strict=True):
            given[name] = given[name].as_subclass(kind)
        slopes.append(torch.autograd.grad(cross_entropy(**given), leaves))
    for ours, plain in zip(*slopes, strict=True):
        assert torch.equal(ours.as_subclass(torch.Tensor), plain.as_subclass(torch.Tensor))


def test_siblings_compile() -> None:
    """R23: in one graph."""
    given = arrays()
    wanted = cross_entropy(given["logits"], given["labels"])
    call = torch.compile(cross_entropy, backend="eager", fullgraph=True)
    found = call(given["logits"].as_subclass(Image), given["labels"].as_subclass(Mask))
    torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted)


def test_mistakes_with_siblings_are_ours() -> None:
    """R25: a wrong shape is told as ever."""
    given = arrays()
    with pytest.raises(ShapeError):
        cross_entropy(given["logits"].as_subclass(Image), given["labels"][:1].as_subclass(Mask))
