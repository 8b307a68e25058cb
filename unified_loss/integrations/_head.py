"""The last layer of a language model: what enters it is taken, and its logits are not made."""

from typing import Any

import torch
from torch import Tensor, nn

from unified_loss.exceptions import LossInputError, OptionError
from unified_loss.integrations._outputs import refused

CLOSE = 0.02  # of their norm: how far logits may be from ours, in half precision
INSTEAD = "CausalLMLoss(), which takes the logits"


class Head:
    """The last layer of a model of ``transformers``, and the hidden states that entered it last."""

    def __init__(self, model: Any) -> None:
        get = getattr(model, "get_output_embeddings", None)
        layer = get() if callable(get) else None
        if not isinstance(layer, nn.Linear):
            message = "model must be one of transformers, whose last layer is a torch.nn.Linear."
            raise refused(OptionError, message, INSTEAD)
        config: Any = getattr(model, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.layer = layer
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self.hidden: Tensor | None = None
        self.is_known = False  # whether the logits have been seen to be those of the layer
        self.is_removed = False  # whether the owner of the model wanted it off the layer
        self._unhook()  # an earlier one would let nothing through to this one
        layer.register_forward_pre_hook(self._enter)

    def remove(self) -> None:
        """Take what a `Head` has hooked off the layer, which gets all that the model gives it."""
        self.is_removed = True
        self._unhook(is_removed=True)

    def _unhook(self, *, is_removed: bool = False) -> None:
        hooks = self.layer._forward_pre_hooks  # noqa: SLF001 (torch tells of them nowhere else)
        for key, head in [(key, getattr(hook, "__self__", None)) for key, hook in hooks.items()]:
            if isinstance(head, Head):
                head.hidden, head.is_removed = None, is_removed
                del hooks[key]

    def _enter(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Keep what enters; while training, let nothing through, but once the first position."""
        if layer is not self.layer:
            message = "LinearCausalLMLoss reads the model's own layer, which DataParallel copies."
            raise refused(LossInputError, message, "start one process for each device: torchrun")
        self.hidden = arguments[0]
        if not layer.training:
            return None
        return (arguments[0][..., : int(not self.is_known), :], *arguments[1:])

    def taken(self, logits: Tensor) -> Tensor:
        """Return the hidden states of the logits that the model has returned."""
        hidden, self.hidden = self.hidden, None
        if hidden is None and self.is_removed:
            message = "remove() has taken this loss off its model, and it is of no use afterwards."
            raise refused(LossInputError, message, "LinearCausalLMLoss(trainer.model)")
        if hidden is None:
            message = "nothing has entered the last layer since the last loss: is it that of the "
            message += "model that is trained, and does no later loss stand in place of this one?"
            raise refused(LossInputError, message, "LinearCausalLMLoss(trainer.model)")
        if not self.is_known:
            self._compare(hidden[..., :1, :], logits[..., :1, :])
            self.is_known = True
        return hidden

    @torch.no_grad()
    def _compare(self, hidden: Tensor, logits: Tensor) -> None:
        """Refuse a model that does more with its logits than its last layer and a cap do."""
        parts = (self.layer.weight, self.layer.bias)
        weight, bias = (None if part is None else part.to(hidden.dtype) for part in parts)
        ours = nn.functional.linear(hidden, weight, bias)
        if self.softcap is not None:
            ours = self.softcap * (ours / self.softcap).tanh()
        if not (ours.float() - logits.float()).norm() <= CLOSE * logits.float().norm():
            message = "the logits of the model are not those of its last layer: it scales them, or "
            message += "an adapter adds to them."
            raise refused(OptionError, message, INSTEAD)
