"""What the models of ``transformers`` return: their logits, their losses, and their kind."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unified_loss.exceptions import LossInputError, LossInputWarning, ShapeError

IGNORE_INDEX = -100  # the label that `Trainer` does not count
ENCODED = "encoder_last_hidden_state"  # the field of encoder-decoder models alone
SPAN = {"start_logits", "end_logits"}  # of a model that answers with a span of tokens
SPANS = (
    'for the first and the last token of a span: torch.stack([outputs["start_logits"], '
    'outputs["end_logits"]], 1) in place of the outputs, and labels of shape (N, 2)'
)
LIBRARY = ("transformers.modeling_outputs", "transformers.models.")
LENGTH = "give the labels the length of the tokens that the model predicts from"
SEQ2SEQ = "if it has an encoder: DataCollatorForSeq2Seq(tokenizer, model=model)"
NEXT_TOKEN = ("CausalLM", "ConditionalGeneration", "DoubleHeads", "WithLMHead")


def refused(kind: type[LossInputError], message: str, *fixes: str, **details: Any) -> Exception:
    """Return an error with what mends it, all of which is done outside of the call."""
    text = "\n".join([message, *(f"  fix: {fix}" for fix in fixes)])
    return kind(text).with_details(fixes=tuple(map(_outside, fixes)), **details)


def _outside(text: str) -> Any:
    """What is done outside of the call."""
    from unified_loss._diagnosis._fixes import outside

    return outside(text)


def read(outputs: Any) -> tuple[Tensor, dict[str, Any]]:
    """Return the logits, and the losses that the model computed by itself, by name."""
    if isinstance(outputs, Tensor):
        return outputs, {}
    if not isinstance(outputs, Mapping):
        if any(one.ndim == 0 for one in _tensors(outputs)):
            raise _without_names()
        return outputs[0], {}
    if "logits" not in outputs:
        message = f'outputs have no key "logits", but {", ".join(map(repr, outputs))}.'
        fixes = [SPANS] if outputs.keys() >= SPAN else []
        raise refused(LossInputError, message, *fixes, cause="model_output_object_not_logits")
    found = {name: one for name, one in outputs.items() if one is not None}
    losses = {name: one for name, one in found.items() if name.endswith("_loss")}
    if "encoder_router_logits" in found and not losses:  # those of NLLB
        message = "the model computes the losses of its routers from labels, which it is not given."
        raise refused(LossInputError, message, "model.config.output_router_logits = False")
    return outputs["logits"], losses


def first_logits(outputs: Any) -> Tensor:
    """Return the logits of outputs without names; only losses stand before them."""
    return outputs if isinstance(outputs, Tensor) else next(filter(_has_axes, outputs))


def predicts_next(outputs: Any) -> bool:
    """Whether the logits of one position predict the token of the next, as in the model's loss.

    Outputs that are not made by ``transformers`` are taken for those of a decoder.
    """
    language_model = getattr(outputs, "language_model_outputs", None)  # in a BLIP-2
    if language_model is not None:
        return predicts_next(language_model)
    if isinstance(outputs, (tuple, list)):
        if len(_tensors(outputs)) > 1:
            raise _without_names()
        return True
    if hasattr(outputs, ENCODED) or (isinstance(outputs, Mapping) and ENCODED in outputs):
        return False  # the inputs of the decoder are shifted instead
    names = _library_names(type(outputs))
    if names and not any(word in name for name in names for word in NEXT_TOKEN):
        message = f"CausalLMLoss is for models that predict the next token, not for {names[0]}."
        cause = "causal_shift_mismatch"
        fix = (
            "for labels that stand where they are predicted: compute_loss_func=ClassificationLoss()"
        )
        raise refused(LossInputError, message, fix, cause=cause)
    return True


def aligned(labels: Tensor, logits: Tensor, shift: int, virtual_tokens: int) -> Tensor:
    """Return the label of the prediction at each position of the logits, -100 where there is none.

    The labels are of the last tokens. Those of other shapes are returned as they are: with a row
    of probabilities for each example there is no shift, and all else is an error of the loss.
    """
    labels = labels.to(logits.device)
    if shift and logits.ndim == 2:
        message = (
            "logits of two axes have a row for each example and no positions, so there is no next "
            "token to predict"
        )
        fix = "for a model that classifies: compute_loss_func=ClassificationLoss()"
        raise _misshapen(message, logits, labels, fix, cause="causal_shift_mismatch")
    if shift and labels.ndim in {0, logits.ndim}:
        message = "labels must be token ids, one for each position"
        fix = "give the token ids themselves, with -100 where there is none"
        raise _misshapen(message, logits, labels, fix, cause="one_hot_given_to_sparse_loss")
    if labels.ndim != logits.ndim - 1 or labels.ndim + shift < 2:
        return labels
    positions, found = logits.shape[-2], labels.shape[-1]
    if positions != found + virtual_tokens and labels.shape[:-1] == logits.shape[:-2]:
        message = f"logits must have a position for each of {found} labels and {virtual_tokens} "
        message += f"virtual tokens, but have {positions}"
        cause, fixes = "sequence_length_differs", [LENGTH] if shift else [LENGTH, SEQ2SEQ]
        if positions > found:
            prompt = f"if a prompt of virtual tokens is tuned: virtual_tokens={positions - found}"
            # Labels of the next token are the tokens; those of a class each are cut by themselves.
            fixes.insert(0 if shift else len(fixes), prompt)
            cause = "prefix_tokens_in_logits_only" if shift else cause
        raise _misshapen(message, logits, labels, *fixes, cause=cause)
    if not (shift or virtual_tokens):
        return labels
    return nn.functional.pad(labels, (virtual_tokens, shift), value=IGNORE_INDEX)[..., shift:]


def unshifted() -> LossInputWarning:
    """The warning of labels that `ClassificationLoss` leaves where they stand, and should not."""
    fix = "CausalLMLoss() in its place"
    message = (
        "the outputs are those of a model that predicts the next token, and ClassificationLoss "
        f"does not shift the labels: each token would be asked to predict itself. Fix: {fix}."
    )
    warning = LossInputWarning(message)
    warning.cause, warning.fixes = "causal_shift_mismatch", (_outside(fix),)
    return warning


def is_next_token_model(outputs: Any) -> bool:
    """Whether the outputs are of a class that ``transformers`` gives the next token's models."""
    if not isinstance(outputs, Mapping) or hasattr(outputs, ENCODED):
        return False
    names = _library_names(type(outputs))
    return any(word in name for name in names for word in NEXT_TOKEN)


def predicts_next_token(model: Any) -> bool:
    """The same of a model that calls its loss."""
    names = _library_names(type(model)) if isinstance(model, torch.nn.Module) else ()
    return any(word in name for name in names for word in (*NEXT_TOKEN, "LMHead"))


@torch.compiler.assume_constant_result  # as Dynamo cannot walk through the bases of a class
def _library_names(kind: type) -> tuple[str, ...]:
    """The names of a class and its bases, of those that ``transformers`` defines."""
    return tuple(one.__name__ for one in kind.__mro__ if one.__module__.startswith(LIBRARY))


def _has_axes(one: Any) -> bool:
    return isinstance(one, Tensor) and one.ndim > 0


def _tensors(outputs: Any) -> list[Tensor]:
    return [one for one in outputs if isinstance(one, Tensor)]


def _without_names() -> Exception:
    message = "outputs are several tensors without names, which tell neither their kind nor losses."
    cause = "model_output_object_not_logits"
    return refused(LossInputError, message, "model.config.return_dict = True", cause=cause)


def _misshapen(message: str, logits: Tensor, labels: Tensor, *fixes: str, cause: str) -> Exception:
    shapes = {"logits_shape": tuple(logits.shape), "labels_shape": tuple(labels.shape)}
    text = f"{message}: logits {shapes['logits_shape']}, labels {shapes['labels_shape']}."
    return refused(ShapeError, text, *fixes, cause=cause, axis=logits.ndim - 1, **shapes)
