"""`LinearCausalLMLoss` in real training: the curve of the loss with logits, and no logits."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import LossInputError, OptionError, ShapeError, cross_entropy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.helpers.transformers_training import (  # noqa: E402
    BATCH,
    LAYER,
    LENGTH,
    TOKENS,
    Task,
    language,
    trained,
    trainer_of,
)
from unified_loss._linear import _walks as walks  # noqa: E402
from unified_loss.integrations.transformers import CausalLMLoss, LinearCausalLMLoss  # noqa: E402

OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01}


@pytest.fixture(autouse=True)
def _selected(installed: list[Backend]) -> None:
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


def model_of(kind: str, **config: Any) -> Any:
    """A tiny model, the same each time."""
    torch.manual_seed(0)
    sizes = LAYER | {"vocab_size": TOKENS, "max_position_embeddings": LENGTH}
    sizes["intermediate_size"] = 8
    if kind == "Gemma2":
        sizes |= {"num_key_value_heads": 2, "head_dim": 4}
    made = getattr(transformers, f"{kind}Config")(**sizes | config)
    return getattr(transformers, f"{kind}ForCausalLM")(made)


MODELS: dict[str, Any] = {
    "Llama, tied": lambda: model_of("Llama", tie_word_embeddings=True),
    "Llama, untied": lambda: model_of("Llama", tie_word_embeddings=False),
    "Gemma2, with a cap": lambda: model_of("Gemma2", final_logit_softcapping=0.5),
}


@pytest.mark.parametrize("way", ["two_steps", "classes"])
@pytest.mark.parametrize("name", MODELS)
def test_trains_as_with_logits(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R31: the same parameters and losses, whatever the micro-batches; heads tied or not."""
    if way == "classes":
        monkeypatch.setattr(walks, "TWO_STEPS", 0)
        monkeypatch.setattr(walks, "TILE", 32)
    rows, runs = language().rows, []
    for loss_of, micro_batches in (
        (lambda _: CausalLMLoss(**OPTIONS), 1),
        (lambda model: LinearCausalLMLoss(model, **OPTIONS), 1),
        (lambda model: LinearCausalLMLoss(model, **OPTIONS), 2),
    ):
        model = MODELS[name]()
        task = Task(model, rows, loss_of(model))
        options = {"gradient_accumulation_steps": micro_batches}
        runs.append(trained(trainer_of(task, tmp_path, micro_batches, **options)))
    for parameters, losses in runs[1:]:
        assert parameters.keys() == runs[0][0].keys()
        for key, value in parameters.items():
            torch.testing.assert_close(value, runs[0][0][key], rtol=0, atol=1e-6)
        assert losses == pytest.approx(runs[0][1], rel=1e-5)


def batch() -> Any:
    """Tokens with some padding, as labels."""
    rows = language().rows[:BATCH]
    return tuple(torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))


def test_makes_no_logits_but_to_evaluate() -> None:
    """R29: while training none, but the first position once; all of them in evaluation mode."""
    model, (tokens, labels) = MODELS["Llama, tied"](), batch()
    compute_loss = LinearCausalLMLoss(model)
    sizes = []
    for _ in range(2):
        outputs = model(tokens)
        sizes.append(outputs.logits.shape[1])
        compute_loss(outputs, labels)
    assert sizes == [1, 0]
    model.eval()
    outputs = model(tokens)
    assert outputs.logits.shape == (BATCH, LENGTH, TOKENS)
    wanted = cross_entropy(outputs.logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(compute_loss(outputs, labels), wanted)
    sums = compute_loss.row_sums(outputs.logits, labels)
    torch.testing.assert_close(sums[:, 0].sum() / sums[:, 1].sum(), wanted)


def test_frozen_heads_have_no_gradient() -> None:
    """R31: and what is before them has the same."""
    tokens, labels = batch()
    slopes = []
    for kind in (lambda _: CausalLMLoss(), LinearCausalLMLoss):
        model = MODELS["Llama, untied"]()
        model.lm_head.weight.requires_grad_(requires_grad=False)
        kind(model)(model(tokens), labels).backward()
        assert model.lm_head.weight.grad is None
        slopes.append(model.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_what_is_not_a_plain_last_layer_is_refused() -> None:
    """R25: a model that scales its logits, one without such a layer, one that was not called."""
    tokens, labels = batch()
    scaled = model_of("Granite", logits_scaling=8.0)
    with pytest.raises(OptionError, match="not those of its last layer") as caught:
        LinearCausalLMLoss(scaled)(scaled(tokens), labels)
    assert "CausalLMLoss()" in caught.value.fixes[0].text
    for model in (torch.nn.Linear(2, 3), object()):
        with pytest.raises(OptionError, match="whose last layer"):
            LinearCausalLMLoss(model)
    with pytest.raises(OptionError, match="takes the model"):
        LinearCausalLMLoss()
    with pytest.raises(OptionError, match="smooth"):
        LinearCausalLMLoss(scaled, smooth=0.1)
    model, other = MODELS["Llama, tied"](), MODELS["Llama, tied"]()
    compute_loss = LinearCausalLMLoss(model)
    with pytest.raises(LossInputError, match="nothing has entered"):
        compute_loss(other(tokens), labels)
    with pytest.raises(ShapeError, match="position for each"):
        compute_loss(model(tokens), labels[:, :-1])
    model.lm_head = model.lm_head._replicate_for_data_parallel()
    with pytest.raises(LossInputError, match="DataParallel"):
        model.lm_head(torch.zeros(1, 2, 8))


def test_is_taken_off_a_model_again() -> None:
    """A model is what it was once `remove` was called, also a copy that has the hook."""
    model, (tokens, labels) = MODELS["Llama, tied"](), batch()
    whole = model(tokens).logits
    compute_loss = LinearCausalLMLoss(model)
    compute_loss(model(tokens), labels)
    copied = copy.deepcopy(model)
    assert model(tokens).logits.shape[1] == copied(tokens).logits.shape[1] == 0
    compute_loss.remove()
    assert torch.equal(model(tokens).logits, whole)
    with pytest.raises(LossInputError, match=r"remove\(\) has taken this loss off"):
        compute_loss(model(tokens), labels)
    LinearCausalLMLoss(copied).remove()
    assert torch.equal(copied(tokens).logits, whole)


def test_a_later_loss_stands_in_place_of_an_earlier_one() -> None:
    """As where a cell of a notebook runs twice; other hooks of the layer stay."""
    model, (tokens, labels) = MODELS["Llama, tied"](), batch()
    entered: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, given: entered.append(given[0].shape[1]))
    first = LinearCausalLMLoss(model)
    expected = first(model(tokens), labels)
    assert torch.equal(LinearCausalLMLoss(model)(model(tokens), labels), expected)
    with pytest.raises(LossInputError, match="later loss"):
        first(model(tokens), labels)
    assert entered == [LENGTH] * 3
