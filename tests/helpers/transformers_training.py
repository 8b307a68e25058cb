"""Tiny models trained by `transformers.Trainer`, in one process or, as a program, in several.

``python -m tests.helpers.transformers_training RANK WORLD FOLDER`` is one of them; the first
leaves the trained parameters in ``FOLDER``.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import distributed

from tests.helpers import gloo
from unified_loss.integrations.transformers import CausalLMLoss, ClassificationLoss

ROWS, LENGTH, TOKENS, CLASSES = 16, 7, 11, 3
BATCH = 8
LAYER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
Parameters = dict[str, torch.Tensor]


class Task(NamedTuple):
    """A model, the rows that it learns, and the loss that `Trainer` is given."""

    model: Any
    rows: list[dict[str, torch.Tensor]]
    loss: Any


def generator() -> torch.Generator:
    """The same numbers in every process."""
    return torch.Generator().manual_seed(7)


def language() -> Task:
    """GPT-2 on rows of different lengths, one of them all padding."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=TOKENS, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    tokens = torch.randint(TOKENS, (ROWS, LENGTH), generator=generator())
    lengths = torch.arange(ROWS) * 3 % (LENGTH + 1)
    labels = tokens.where(torch.arange(LENGTH) < lengths[:, None], -100)
    rows = [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]
    return Task(transformers.GPT2LMHeadModel(config), rows, CausalLMLoss())


def classes(kind: str) -> Task:
    """BERT that classifies each sequence; some rows have no class."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=TOKENS, max_position_embeddings=LENGTH, intermediate_size=8, **LAYER,
        num_labels=CLASSES, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    tokens = torch.randint(TOKENS, (ROWS, LENGTH), generator=generator())
    if kind == "soft":
        labels = tokens[:, :CLASSES].double().softmax(1)
    else:
        labels = tokens.sum(1) % CLASSES
        labels[[0, 2, 3, 7]] = -100
    model = transformers.BertForSequenceClassification(config)
    rows = [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]
    return Task(model, rows, ClassificationLoss())


TASKS = {
    "language": language,
    "classes": lambda: classes("ids"),
    "soft_classes": lambda: classes("soft"),
}


def trainer_of(task: Task, folder: Any, micro_batches: int = 1, **options: Any) -> Any:
    """A `Trainer` whose optimizer steps are of `BATCH` rows, however they are split."""
    arguments = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH // micro_batches,
        "per_device_eval_batch_size": ROWS,
        "max_steps": 3,
        "optim": "sgd",
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    task.model.double()
    return transformers.Trainer(
        model=task.model,
        args=transformers.TrainingArguments(**arguments | options),
        train_dataset=task.rows,
        eval_dataset=task.rows,
        compute_loss_func=task.loss,
    )


def trained(trainer: Any) -> tuple[Parameters, list[float]]:
    """The parameters after training, and the loss of each step."""
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {name: value.detach() for name, value in trainer.model.named_parameters()}, losses


def evaluated(trainer: Any) -> float:
    """The mean loss of all labels, by batches that have not all the same size."""
    loss = trainer.compute_loss_func
    trainer.preprocess_logits_for_metrics, trainer.compute_metrics = loss.row_sums, loss.mean
    trainer.args.per_device_eval_batch_size = 3
    return float(trainer.evaluate()["eval_loss"])


def main(rank: str, world: str, folder: str) -> None:
    """Train all models, with two micro-batches in each process, and evaluate them."""
    gloo.join(rank, world, folder)
    options = {"gradient_accumulation_steps": 2, "ddp_backend": "gloo"}
    for name, task in TASKS.items():
        trainer = trainer_of(task(), folder, 2 * int(world), **options)
        parameters, _ = trained(trainer)
        if rank == "0":
            torch.save(parameters, Path(folder, f"{name}.pt"))
        loss = evaluated(trainer)
        Path(folder, f"{name}.{rank}.loss").write_text(repr(loss), encoding="utf-8")
    distributed.barrier()
    os._exit(0)  # torch's destructor of a group that DDP used now and then waits for itself


if __name__ == "__main__":
    main(*sys.argv[1:])
