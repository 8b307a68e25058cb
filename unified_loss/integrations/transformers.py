"""Losses for ``transformers.Trainer(compute_loss_func=...)``, and for a model's ``loss_function``.

`CausalLMLoss` is for models that predict the next token, `LinearCausalLMLoss` for those whose
logits are not to be made, `ClassificationLoss` for models that classify sequences or tokens. Only
PyTorch is imported.
"""

import copy
import math
import operator
import sys
from collections.abc import Mapping
from typing import Any, Literal, Never

import torch
from torch import Tensor

from unified_loss import _names as names
from unified_loss import _words as words
from unified_loss._call import warn
from unified_loss._linear_cross_entropy import linear_cross_entropy
from unified_loss.exceptions import LossInputError, OptionError
from unified_loss.integrations._head import Head
from unified_loss.integrations._outputs import (
    IGNORE_INDEX,
    aligned,
    first_logits,
    is_next_token_model,
    predicts_next,
    predicts_next_token,
    read,
    refused,
    unshifted,
)
from unified_loss.integrations._received import (
    made,
    misused,
    received,
    refuse_other_kinds,
    refuse_other_logits,
)
from unified_loss.integrations.torch import CrossEntropyLoss

__all__ = ["CausalLMLoss", "ClassificationLoss", "LinearCausalLMLoss"]

# What the models' configurations call the factors of their own losses.
ROUTER = {"aux_loss": "router_aux_loss_coef", "z_loss": "router_z_loss_coef"}


class ClassificationLoss:
    """Cross-entropy, in nats, of a model that classifies sequences or tokens.

    The sum of the losses is divided by the number of labels that are not -100 in the whole batch
    of an optimizer step, which `Trainer` counts over all micro-batches and processes. So gradient
    accumulation and data parallelism change nothing but the rounding.

    Parameters
    ----------
    class_weight : tensor or array-like, shape (C,), real, optional
        A weight for each class. The number of labels is divided by nevertheless, since their
        total weight in the other micro-batches is not known.
    label_smoothing : float in [0, 1], default 0
        The share of each label row that is spread over all C classes. It takes the place of
        ``TrainingArguments.label_smoothing_factor``, which a `compute_loss_func` overrides.
    z_loss : float >= 0, default 0
        Adds this factor times the squared logarithm of the softmax's denominator.
    check : {"auto", True, False}, default "auto"
        Whether to look at label values. "auto": where that does not wait for an accelerator.
    model_losses : mapping from names to numbers, optional
        The losses that the model returns beside its logits, as a mixture of experts does, and the
        factor of each: ``{"aux_loss": model.config.router_aux_loss_coef}``, or 0 to leave it out.
        They are added once in each micro-batch, as the model itself does.
    virtual_tokens : int >= 0, default 0
        How many positions a tuned prompt has put before those of the labels.

    Raises
    ------
    OptionError
        If an option is out of its range.
    DTypeError, ShapeError
        If the class weights are not real numbers, or not of shape (C,).

    See Also
    --------
    CausalLMLoss : For models that predict the next token.
    unified_loss.cross_entropy : The loss, and all about its arguments.

    Examples
    --------
    >>> import torch
    >>> from unified_loss.integrations.transformers import ClassificationLoss
    >>> compute_loss = ClassificationLoss(label_smoothing=0.1)
    >>> outputs = {"logits": torch.zeros(2, 3)}
    >>> print(f"{compute_loss(outputs, torch.tensor([2, 0]), num_items_in_batch=4).item():.4f}")
    0.5493
    """

    def __init__(
        self,
        *extra: Never,
        class_weight: Any = None,
        label_smoothing: float = 0,
        z_loss: float = 0,
        check: Literal["auto"] | bool = "auto",
        model_losses: Mapping[str, float] | None = None,
        virtual_tokens: int = 0,
        **foreign: Never,
    ) -> None:
        if extra or foreign:
            raise misused(type(self), OPTIONS, extra, foreign)
        self.model_losses = _factors(model_losses or {})
        self.virtual_tokens = _count(virtual_tokens)
        self.shift: int | None = None  # of the labels, as the outputs seen last want it
        self.loss = CrossEntropyLoss(
            axis=-1,
            class_weight=class_weight,
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            check=check,
        )

    words.plain(__init__)

    def __call__(
        self,
        outputs: Any = ...,
        labels: Tensor | None = ...,
        *extra: Never,
        num_items_in_batch: Tensor | int | None = None,
        **foreign: Never,
    ) -> Tensor:
        """Return the part of the loss that one micro-batch has in its optimizer step.

        Parameters
        ----------
        outputs : mapping with "logits", tuple that begins with them, or the tensor alone
            What the model returned: logits of shape (..., C), the classes on the last axis. The
            tensor alone may also come as a model passes it to its loss: as ``logits``, and with
            ``vocab_size``, by name or in the third place.
        labels : tensor, shape (...) integer, or shape (..., C)
            Class ids, -100 where there is none, or a row of probabilities for each example.
        num_items_in_batch : int or 0-d tensor, optional
            The number of labels that are not -100 in the whole batch, by default those of
            `labels`. For rows of probabilities, the number of their elements, as in `Trainer`.

        Returns
        -------
        tensor, shape ()
            0 if there is no label to predict.

        Raises
        ------
        LossInputError
            If there are no labels, and as in `unified_loss.cross_entropy`.
        """
        if outputs is ... or labels is ... or extra or foreign:
            given = outputs, labels, num_items_in_batch
            given = received(type(self), OPTIONS, given, extra, foreign)
            outputs, labels, num_items_in_batch = given
            if not isinstance(self, CausalLMLoss) and not torch.compiler.is_compiling():
                caller = sys._getframe(1).f_locals.get("self")  # noqa: SLF001 (whose loss it is)
                if predicts_next_token(caller):
                    warn(unshifted())
        if labels is None:
            message = 'labels are missing: the batches of the data collator have no key "labels".'
            raise refused(LossInputError, message, 'name the column of the labels "labels"')
        refuse_other_kinds(type(self), outputs, labels)
        logits, losses = read(outputs)
        refuse_other_logits(type(self), logits, labels)
        logits = self.scored(logits)
        added = {name: factor for name, factor in self.model_losses.items() if factor}
        if not added.keys() <= losses.keys() <= self.model_losses.keys():
            raise _other_losses(list(losses), list(self.model_losses))
        self.shift = self.shift_of(outputs)
        is_of_tokens = not isinstance(self, CausalLMLoss) and logits.ndim == labels.ndim + 1 == 3
        if is_of_tokens and is_next_token_model(outputs):
            warn(unshifted())
        labels = aligned(labels, logits, self.shift, self.virtual_tokens)
        loss = self.part(logits, labels, _normalizer(labels, logits, num_items_in_batch))
        for name, factor in added.items():  # one loss for each replica, as above
            one = torch.as_tensor(losses[name], dtype=loss.dtype, device=loss.device).mean()
            loss = loss + factor * one
        return loss

    words.plain(__call__)

    def scored(self, logits: Tensor) -> Tensor:
        """Return what the loss is of: the logits, for all but subclasses."""
        return logits

    def part(self, logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
        """Return the loss of labels that stand where they are predicted."""
        loss: Tensor = self._loss_beside(logits)(logits, labels, normalizer=normalizer)
        return loss

    def _loss_beside(self, logits: Tensor) -> CrossEntropyLoss:
        """Move the class weights to where the logits are, and return their module."""
        # Asked first, since Dynamo of torch 2.9 cannot move a module.
        is_there = self.loss.class_weight is None or self.loss.class_weight.device == logits.device
        return self.loss if is_there else self.loss.to(logits.device)

    def row_sums(self, logits: Any, labels: Tensor) -> Tensor:
        """Return for each row the sum of its losses and the number of its labels, shape (N, 2).

        It is the ``preprocess_logits_for_metrics`` of a `Trainer` whose ``compute_metrics`` is
        `mean`, and that has this very object as ``compute_loss_func``.
        """
        if self.shift is None:
            message = "row_sums must be of the object that is the compute_loss_func of the Trainer."
            fix = "Trainer(compute_loss_func=loss, preprocess_logits_for_metrics=loss.row_sums)"
            raise refused(LossInputError, message, fix)
        logits = first_logits(logits)
        labels = aligned(labels, logits, self.shift, self.virtual_tokens)
        each = copy.copy(self._loss_beside(logits))
        each.reduction = "none"
        losses = each(logits, labels)
        dense = labels.shape == logits.shape
        counted = torch.ones_like(losses) if dense else labels.ne(IGNORE_INDEX).to(losses.dtype)
        return torch.stack([losses, counted], -1).unsqueeze(-2).flatten(1, -2).sum(1)

    def mean(self, prediction: Any) -> dict[str, float]:
        """Return the mean loss of all labels of the data, as the "loss" of an evaluation.

        Parameters
        ----------
        prediction : transformers.EvalPrediction
            Its predictions are what `row_sums` returned.
        """
        sums = prediction.predictions
        if getattr(sums, "shape", ())[1:] != (2,):
            raise refused(
                LossInputError,
                "predictions are not the sums and numbers of labels of rows.",
                "pass preprocess_logits_for_metrics=loss.row_sums to Trainer as well",
            )
        total, count = sums.sum(axis=0, dtype="float64")
        return {"loss": float(total / max(count, 1))}

    def __repr__(self) -> str:
        """The options that are not the defaults."""
        own = {"model_losses": self.model_losses, "virtual_tokens": self.virtual_tokens}
        shown = [self.loss.extra_repr().partition("axis=-1")[2].removeprefix(", ")]
        shown += [f"{name}={value!r}" for name, value in own.items() if value]
        return f"{type(self).__name__}({', '.join(filter(None, shown))})"

    def shift_of(self, outputs: Any) -> int:  # noqa: ARG002 (for subclasses)
        """Return by how many positions the labels of the outputs are shifted."""
        return 0


class CausalLMLoss(ClassificationLoss):
    """Cross-entropy, in nats, of a model that predicts the next token at every position.

    `Trainer` passes the labels as they are in the batch, most often a copy of the input tokens
    with -100 for padding. They are shifted here by one position, the logits are not copied. Those
    of encoder-decoder models are not shifted, since the inputs of the decoder are.

    The options, and what the loss is divided by, are those of `ClassificationLoss`.

    Parameters
    ----------
    class_weight, label_smoothing, z_loss, check, model_losses, virtual_tokens
        As in `ClassificationLoss`.

    Raises
    ------
    OptionError, DTypeError, ShapeError
        As in `ClassificationLoss`.

    See Also
    --------
    ClassificationLoss : For labels that stand where they are predicted.

    Notes
    -----
    `Trainer` counts the first label of each row as well, though nothing predicts it, unless the
    name of the model's class contains "ForCausalLM" (GPT-2's does not). The loss is then smaller
    by that much, as the model's own is, and the same for all micro-batches.

    Not for context parallelism, where the next token may be on another device.

    Examples
    --------
    >>> import torch
    >>> from unified_loss.integrations.transformers import CausalLMLoss
    >>> compute_loss = CausalLMLoss(z_loss=1e-4)
    >>> outputs = {"logits": torch.zeros(1, 4, 50)}  # one sequence of four tokens, 50 in all
    >>> loss = compute_loss(outputs, torch.tensor([[7, 3, 3, -100]]))
    >>> print(f"{loss.item():.4f}")
    3.9136
    """

    def shift_of(self, outputs: Any) -> int:
        """Return 1, or 0 where the model has shifted the inputs of its decoder."""
        return int(predicts_next(outputs))


class LinearCausalLMLoss(CausalLMLoss):
    """`CausalLMLoss` of hidden states and the weight of the last layer, without the logits.

    It takes the hidden states where they enter the last layer of the model, lets none of them
    through while the model trains, and gives them to `unified_loss.linear_cross_entropy` with the
    weight and the bias of that layer; tied to the embeddings or not, frozen or not. The cap of the
    logits of Gemma is that of the model's configuration. In evaluation mode the model makes its
    logits as ever.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model that is trained. Its parameters stay as they are; its last layer gets a hook,
        in place of that of an earlier `LinearCausalLMLoss`, until `remove` is called.
    class_weight, label_smoothing, z_loss, check, model_losses, virtual_tokens
        As in `ClassificationLoss`.

    Raises
    ------
    OptionError
        If the last layer is no `torch.nn.Linear`, or, when the model is first called, if the
        model does anything else with its logits; and as in `ClassificationLoss`.

    See Also
    --------
    CausalLMLoss : The same, of logits.
    unified_loss.linear_cross_entropy : The loss without a trainer.

    Notes
    -----
    Not for `DataParallel`, and not for what splits the parameters between forward passes (FSDP,
    ZeRO-3): the weight is read after the model's forward.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from unified_loss.integrations.transformers import LinearCausalLMLoss
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=8,
    ...                                      num_hidden_layers=1, num_attention_heads=2)).train()
    >>> compute_loss = LinearCausalLMLoss(model)
    >>> tokens = torch.tensor([[7, 3, 9, 3]])
    >>> loss = compute_loss(model(tokens), tokens)
    >>> model(tokens).logits.shape  # none are made, but for those that are checked once
    torch.Size([1, 0, 50])
    """

    def __init__(self, model: Any = ..., *extra: Never, **options: Any) -> None:
        extra = (model, *extra) if words.looks_like_outputs(model) else extra
        if extra or (model is ... and words.OF_ARRAYS & options.keys()):
            raise misused(type(self), OPTIONS, extra, options)
        if model is ...:
            message = "LinearCausalLMLoss takes the model that is trained, as its only argument."
            raise refused(OptionError, message, f"compute_loss_func={made(type(self))}")
        super().__init__(**options)
        self.head = Head(model)

    def remove(self) -> None:
        """Take the hook off the model, which makes its logits again while it trains.

        The loss is of no use afterwards: another one is made for another training.
        """
        self.head.remove()

    def scored(self, logits: Tensor) -> Tensor:
        """Return the hidden states that the logits are, or would be, made of."""
        return self.head.taken(logits)

    def part(self, logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
        """Return the loss of hidden states, and labels that stand where they are predicted."""
        head, loss = self.head, self._loss_beside(logits)
        value: Tensor = linear_cross_entropy(
            logits,
            head.layer.weight,
            labels,
            bias=head.layer.bias,
            softcap=head.softcap,
            class_weight=loss.class_weight,
            ignore_index=IGNORE_INDEX,
            label_smoothing=loss.label_smoothing,
            z_loss=loss.z_loss,
            normalizer=normalizer,
            check=loss.check,
        )
        return value


OPTIONS: dict[str, Any] = dict(ClassificationLoss.__init__.__kwdefaults__ or {})


def __getattr__(name: str) -> Any:
    return names.attribute(__name__, name)


def _normalizer(labels: Tensor, logits: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The number of labels that the sum of a step is divided by, or 1 if there are none."""
    items = labels.ne(IGNORE_INDEX) if num_items is None else num_items
    if not isinstance(items, Tensor):  # `as_tensor` would compile again for each number
        if isinstance(items, (bool, str)) or items is ...:
            message = f"num_items_in_batch must be a number of labels, but is {items!r}."
            raise refused(OptionError, message, "leave it out: it is counted then")
        items = torch.full((), items)
    # Under `DataParallel`, Trainer repeats the number for each replica, and multiplies the
    # loss by that of replicas.
    items = items.to(logits.device).sum()
    if labels.shape == logits.shape:
        items = items / logits.shape[-1]
    return items + (items == 0)  # without a label the sum is 0, whatever divides it


def _factors(model_losses: Mapping[str, float]) -> dict[str, float]:
    """The factors as numbers, or the error of one that is none."""
    try:
        factors = {str(name): float(factor) for name, factor in model_losses.items()}
    except (AttributeError, TypeError, ValueError):
        factors = {"": math.nan}
    if not all(map(math.isfinite, factors.values())):
        message = "model_losses must map names to finite numbers."
        raise refused(OptionError, message, "model_losses={'aux_loss': 0.001}")
    return factors


def _count(virtual_tokens: int) -> int:
    """The number as a Python integer, or the error of one that is none."""
    try:
        count = operator.index(virtual_tokens)
    except TypeError:
        count = -1
    if count < 0:
        message = "virtual_tokens must be an integer >= 0."
        fix = "virtual_tokens=model.active_peft_config.num_virtual_tokens, of a prompt of PEFT"
        raise refused(OptionError, message, fix)
    return count


def _other_losses(returned: list[str], wanted: list[str]) -> Exception:
    """The error of losses that only one of the model and the options knows."""
    unknown = [name for name in returned if name not in wanted]
    if not unknown:
        absent = ", ".join(name for name in wanted if name not in returned)
        message = f"model_losses names what the model did not return: {absent}."
        fix = "model.config.output_router_logits = True"
        return refused(OptionError, message, fix)
    message = f"the model returned what model_losses has no factor of: {', '.join(unknown)}."
    kinds = [next(filter(name.endswith, ROUTER), None) for name in unknown]
    factors = [
        f"{name!r}: {f'model.config.{ROUTER[kind]}' if kind else 1}"
        for name, kind in zip(unknown, kinds, strict=True)
    ]
    return refused(
        OptionError,
        message,
        f"to add them: model_losses={{{', '.join(factors)}}}",
        f"to leave them out: model_losses={dict.fromkeys(unknown, 0)}",
    )
