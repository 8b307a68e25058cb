"""The loss of `Trainer.evaluate` as the mean of all labels, however they are batched."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import LossInputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.helpers.transformers_models import MODELS, batch_of, model_of  # noqa: E402 (as after the above)
from tests.helpers.transformers_training import TASKS, trainer_of  # noqa: E402
from unified_loss.integrations.transformers import CausalLMLoss, ClassificationLoss  # noqa: E402


@pytest.fixture(autouse=True)
def _selected(installed: list[Backend]) -> None:
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


def evaluated(task: Any, folder: Any, batch: int, **hooks: Any) -> float:
    """The loss of a real evaluation, which is also the one that is logged."""
    trainer = trainer_of(task, folder, per_device_eval_batch_size=batch)
    for name, hook in hooks.items():
        setattr(trainer, name, hook)
    loss = trainer.evaluate()["eval_loss"]
    assert trainer.state.log_history[-1]["eval_loss"] == loss
    return float(loss)


def hooks_of(loss: Any) -> dict[str, Any]:
    """What the documentation says to pass to `Trainer`."""
    return {"preprocess_logits_for_metrics": loss.row_sums, "compute_metrics": loss.mean}


@pytest.mark.parametrize("name", [*MODELS, *TASKS])
def test_evaluates_to_the_mean_of_all_labels(name: str, tmp_path: Any) -> None:
    """Issue 11: for batches of any size, with rows that have no label, and with soft labels."""
    task = model_of(name) if name in MODELS else TASKS[name]()
    task.model.double().eval()
    inputs, labels = batch_of(task)
    with torch.no_grad():
        outputs = task.model(**inputs)
        expected = task.loss(outputs, labels)  # of all rows, by the number of their labels
    if name == "mixtral":  # what the router adds depends on the batches
        expected = expected - 0.5 * outputs.aux_loss
    for batch in (1, 3, 5, 16):
        found = evaluated(task, tmp_path, batch, **hooks_of(task.loss))
        assert found == pytest.approx(expected.item(), rel=1e-12)


def test_evaluates_to_means_of_batches_without_it(tmp_path: Any) -> None:
    """Issue 11: what the test above would find."""
    task = model_of("llama")
    assert evaluated(task, tmp_path, 1) != pytest.approx(evaluated(task, tmp_path, 16), rel=0.01)


def test_evaluates_with_options(tmp_path: Any) -> None:
    """Issue 11: divided by the number of labels, as in training."""
    task = model_of("bert")
    weight = np.linspace(1, 2, 11)
    loss = ClassificationLoss(class_weight=weight, label_smoothing=0.1, z_loss=0.01)
    task = task._replace(loss=loss)
    task.model.double().eval()
    inputs, labels = batch_of(task)
    with torch.no_grad():
        expected = loss(task.model(**inputs), labels).item()
    for batch in (1, 5, 16):
        found = evaluated(task, tmp_path, batch, **hooks_of(loss))
        assert found == pytest.approx(expected, rel=1e-12)


def test_evaluates_during_training(tmp_path: Any) -> None:
    """Issue 11: training is the same with it as without."""
    runs = []
    for strategy in ("steps", "no"):
        task = model_of("t5")
        trainer = trainer_of(task, tmp_path, eval_strategy=strategy, eval_steps=1)
        for name, hook in hooks_of(task.loss).items():
            setattr(trainer, name, hook)
        trainer.train()
        log = trainer.state.log_history
        assert sum("eval_loss" in entry for entry in log) == (3 if strategy == "steps" else 0)
        runs.append([entry["loss"] for entry in log if "loss" in entry])
    assert runs[0] == runs[1]


def test_rows_are_summed() -> None:
    """Issue 11: a sum and a number for each row, the logits behind the model's own losses."""
    loss = CausalLMLoss(model_losses={"aux_loss": 0})
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, 4], [1, 2, -100, -100], [-100] * 4])
    loss({"logits": logits, "aux_loss": torch.tensor(1.0)}, labels)
    sums = loss.row_sums((torch.tensor(1.0), logits), labels)
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].mT, labels[:, 1:], reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(sums, torch.stack([each.sum(1), torch.tensor([3.0, 1, 0])], 1))
    prediction = SimpleNamespace(predictions=sums.numpy())
    assert loss.mean(prediction)["loss"] == pytest.approx(each.sum().item() / 4)
    nothing = SimpleNamespace(predictions=np.zeros((2, 2), "float32"))
    assert loss.mean(nothing) == {"loss": 0.0}


def test_half_an_evaluation_is_refused() -> None:
    """Issue 11: another object than the one that saw the outputs, or the logits of a model."""
    with pytest.raises(LossInputError, match="compute_loss_func"):
        CausalLMLoss().row_sums(torch.zeros(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64))
    for predictions in (np.zeros((2, 4, 5)), (np.zeros(2), np.zeros(2))):
        with pytest.raises(LossInputError, match="sums and numbers") as info:
            CausalLMLoss().mean(SimpleNamespace(predictions=predictions))
        assert "preprocess_logits_for_metrics=loss.row_sums" in info.value.fixes[0].text
