"""Tiny models of each kind: what they learn from, and the loss that is equal to their own."""

from typing import Any

import torch
import transformers
from torch import nn

from tests.helpers.transformers_training import LAYER, LENGTH, ROWS, TOKENS, Task, generator
from unified_loss.integrations.transformers import CausalLMLoss, ClassificationLoss

DECODER = LAYER | {"vocab_size": TOKENS, "intermediate_size": 8, "num_key_value_heads": 2}
ENCODER = LAYER | {
    "vocab_size": TOKENS,
    "intermediate_size": 8,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
T5 = {
    "vocab_size": TOKENS,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 8,
    "num_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0,
    "decoder_start_token_id": 0,
}
VIRTUAL = 4


def rows_of(**more: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Rows of tokens, with labels of different lengths that are one row's without any."""
    tokens = torch.randint(1, TOKENS, (ROWS, LENGTH), generator=generator())
    lengths = torch.arange(ROWS) * 3 % (LENGTH + 1)
    labels = tokens.where(torch.arange(LENGTH) < lengths[:, None], -100)
    columns = {"input_ids": tokens, "labels": labels, **more}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def llama() -> Task:
    """A decoder."""
    config = transformers.LlamaConfig(**DECODER)
    return Task(transformers.LlamaForCausalLM(config), rows_of(), CausalLMLoss())


def mixtral(*, router: bool = True) -> Task:
    """A mixture of experts, whose router has a loss of its own."""
    config = transformers.MixtralConfig(
        **DECODER, num_local_experts=4, output_router_logits=router, router_aux_loss_coef=0.5,
        experts_implementation="eager",  # as another has no float64
    )  # fmt: skip
    losses = {"aux_loss": config.router_aux_loss_coef} if router else None
    loss = CausalLMLoss(model_losses=losses)
    return Task(transformers.MixtralForCausalLM(config), rows_of(), loss)


def translated(model: Any) -> Task:
    """An encoder-decoder model, with the decoder's inputs that its data collator makes."""
    rows = rows_of()
    labels = torch.stack([row["labels"] for row in rows])
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    return Task(model, rows_of(decoder_input_ids=inputs), CausalLMLoss())


def t5() -> Task:
    """An encoder-decoder model."""
    return translated(transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)))


def bart() -> Task:
    """Another, that makes inputs of its decoder from those of the encoder if it is given none."""
    sides = ("encoder_layers", "decoder_layers", "encoder_attention_heads")
    config = transformers.BartConfig(
        **dict.fromkeys(sides, 1), decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8,
        vocab_size=TOKENS, d_model=8, max_position_embeddings=LENGTH, dropout=0, pad_token_id=0,
    )  # fmt: skip
    return translated(transformers.BartForConditionalGeneration(config))


def bert() -> Task:
    """A masked language model."""
    model = transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER))
    return Task(model, rows_of(), ClassificationLoss())


class Prompted(nn.Module):
    """A model whose prompt is tuned: virtual tokens come before the others, as in PEFT."""

    accepts_loss_kwargs = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.prompt = nn.Parameter(torch.randn(VIRTUAL, 8, generator=generator()))

    def forward(self, input_ids: Any, labels: Any = None, **options: Any) -> Any:
        """Return what the model does; the virtual tokens have no labels."""
        tokens = self.model.get_input_embeddings()(input_ids)
        prompt = self.prompt.expand(len(tokens), -1, -1)
        if labels is not None:
            labels = nn.functional.pad(labels, (VIRTUAL, 0), value=-100)
        return self.model(inputs_embeds=torch.cat([prompt, tokens], 1), labels=labels, **options)


def prompted() -> Task:
    """A decoder with virtual tokens."""
    task = llama()
    return Task(Prompted(task.model), task.rows, CausalLMLoss(virtual_tokens=VIRTUAL))


MODELS = {
    "llama": llama,
    "mixtral": mixtral,
    "mixtral_without_router": lambda: mixtral(router=False),
    "prompted": prompted,
    "t5": t5,
    "bart": bart,
    "bert": bert,
}


def model_of(name: str) -> Task:
    """The task of one model, with the same parameters each time."""
    torch.manual_seed(0)
    return MODELS[name]()


def batch_of(task: Task) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All inputs, and all labels."""
    inputs = {key: torch.stack([row[key] for row in task.rows]) for key in task.rows[0]}
    return inputs, inputs.pop("labels")
