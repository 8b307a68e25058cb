"""Losses for ``transformers.Trainer(compute_loss_func=...)``.

`CausalLMLoss` is for models that predict the next token, `ClassificationLoss` for those that
classify sequences or tokens. Only PyTorch is imported.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unified_loss.exceptions import LossInputError
from unified_loss.integrations.torch import CrossEntropyLoss

__all__ = ["CausalLMLoss", "ClassificationLoss"]

IGNORE_INDEX = -100  # the label that `Trainer` does not count


class ClassificationLoss(nn.Module):
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
        *,
        class_weight: Any = None,
        label_smoothing: float = 0,
        z_loss: float = 0,
        check: Literal["auto"] | bool = "auto",
    ) -> None:
        super().__init__()
        self.loss = CrossEntropyLoss(
            axis=-1,
            class_weight=class_weight,
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            check=check,
        )

    def forward(
        self,
        outputs: Any,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the part of the loss that one micro-batch has in its optimizer step.

        Parameters
        ----------
        outputs : mapping with "logits", tuple that begins with them, or the tensor alone
            What the model returned: logits of shape (..., C), the classes on the last axis.
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
        if labels is None:
            message = 'labels are missing: the batches of the data collator have no key "labels".'
            raise LossInputError(message)
        if isinstance(outputs, Tensor):
            logits = outputs
        else:
            logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        labels = self.aligned(labels).to(logits.device)
        items = labels.ne(IGNORE_INDEX) if num_items_in_batch is None else num_items_in_batch
        if isinstance(items, int | float):  # as_tensor() would compile it in, and it changes
            items = torch.full((), items)
        # Under `DataParallel`, Trainer repeats the number for each replica, and multiplies the
        # loss by that of replicas.
        items = torch.as_tensor(items, device=logits.device).sum()
        if labels.shape == logits.shape:
            items = items / logits.shape[-1]
        normalizer = items + (items == 0)  # without a label the sum is 0, whatever divides it
        return self.loss.to(logits.device)(logits, labels, normalizer=normalizer)

    def aligned(self, labels: Tensor) -> Tensor:
        """Return the labels of the predictions that stand at the same positions."""
        return labels


class CausalLMLoss(ClassificationLoss):
    """Cross-entropy, in nats, of a model that predicts the next token at every position.

    `Trainer` passes the labels as they are in the batch, most often a copy of the input tokens
    with -100 for padding. They are shifted here by one position, the logits are not copied.

    The options, and what the loss is divided by, are those of `ClassificationLoss`.

    Parameters
    ----------
    class_weight, label_smoothing, z_loss, check
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

    def aligned(self, labels: Tensor) -> Tensor:
        """Return for each position the next token, and -100 for the last one."""
        return nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
