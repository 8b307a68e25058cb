"""`CrossEntropyLoss`: the loss as a `torch.nn.Module`, for PyTorch, Lightning and skorch."""

import operator
import sys
from typing import Any, Literal, Never, Self

import torch
from torch import Tensor, nn

from unified_loss import _columns as columns
from unified_loss import _host as host
from unified_loss import _names as names
from unified_loss import _words as words
from unified_loss._backends.torch import BACKEND
from unified_loss._call import warn
from unified_loss._cross_entropy import cross_entropy
from unified_loss._types import Spec
from unified_loss.exceptions import LossInputWarning
from unified_loss.integrations._options import plan_of_options

__all__ = ["CrossEntropyLoss"]

torch.fx.wrap("cross_entropy")  # `symbolic_trace` records the call, as that of torch's own loss


class CrossEntropyLoss(nn.Module):
    r"""Softmax cross-entropy between logits and labels, in nats, as a module.

    Its options are those of `unified_loss.cross_entropy`, fixed when the module is made; what
    changes from batch to batch is passed to `forward`.

    Parameters
    ----------
    axis : int, optional
        The class axis of the logits, found from the shapes by default.
    class_weight : tensor or array-like, shape (C,), real, optional
        A weight for each class: a buffer, which moves with the module and is saved in its
        `state_dict`. A floating tensor is kept as it is, anything else becomes a tensor of
        torch's default dtype.
    ignore_index : int or None, default -100
        Examples with this class id are dropped. None: there is no such id.
    label_smoothing : float in [0, 1], default 0
        The share of each label row that is spread over all C classes.
    z_loss : float >= 0, default 0
        Adds this factor times the squared logarithm of the softmax's denominator.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the total weight of the examples that are not dropped.
    check : {"auto", True, False}, default "auto"
        Whether to look at label values. "auto": where that does not wait for an accelerator.
    class_group : ProcessGroup or DeviceMesh of one axis, optional
        Over whose members the classes are split: `class_weight` are those of the classes here.
    persistent : bool, default True
        Whether the class weights are saved in the `state_dict`. One that torch's own
        ``CrossEntropyLoss(weight=...)`` has left is loaded either way.

    Raises
    ------
    OptionError
        If an option is out of its range.
    DTypeError, ShapeError
        If the class weights are not real numbers, or not of shape (C,).

    See Also
    --------
    unified_loss.cross_entropy : The function, and all about the arguments.

    Notes
    -----
    Logits go in, not probabilities. skorch adds the softmax of `predict_proba` by itself only for
    torch's own class: pass ``predict_nonlinearity=torch.nn.Softmax(dim=-1)`` along with this one.

    Examples
    --------
    >>> import torch
    >>> from unified_loss.integrations.torch import CrossEntropyLoss
    >>> loss = CrossEntropyLoss(class_weight=[1, 1, 2], label_smoothing=0.1)
    >>> loss
    CrossEntropyLoss(class_weight=(3 classes), label_smoothing=0.1)
    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> value = loss(logits, torch.tensor([0, 1, 2, -100]))
    >>> value.backward()
    >>> print(f"{value.item():.4f}")
    1.0986
    """

    class_weight: Tensor | None

    def __init__(
        self,
        *extra: Never,
        axis: int | None = None,
        class_weight: Any = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0,
        z_loss: float = 0,
        reduction: Literal["none", "mean", "sum"] = "mean",
        check: Literal["auto"] | bool = "auto",
        class_group: Any = None,
        persistent: bool = True,
        **foreign: Never,
    ) -> None:
        if extra or foreign:
            name = type(self).__name__
            options = CrossEntropyLoss.forward.__kwdefaults__ or {}
            each = words.written(f"{name}()(logits, labels, ", options)
            raise words.refused(
                name, OPTIONS, extra, foreign, {}, each, f"{name}()(logits, labels)"
            )
        super().__init__()
        if class_weight is not None and not isinstance(class_weight, Tensor):
            class_weight = host.as_numpy(
                columns.as_host(class_weight, "class_weight"), "class_weight"
            )
        plan = plan_of_options(
            axis=axis,
            class_weight=_spec(class_weight),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=reduction,
            check=check,
        )
        self.axis = None if axis is None else operator.index(axis)
        self.ignore_index = None if ignore_index is None else operator.index(ignore_index)
        self.label_smoothing = plan.label_smoothing
        self.z_loss = plan.z_loss
        self.reduction = plan.reduction
        self.check = plan.check
        self.class_group = None if class_group is None else BACKEND.group(class_group)
        self.register_buffer("class_weight", _floating(class_weight), persistent=bool(persistent))

    words.plain(__init__)

    def forward(
        self,
        logits: Any = ...,
        labels: Any = ...,
        *extra: Never,
        sample_weight: Any = None,
        normalizer: Any = None,
        **foreign: Never,
    ) -> Tensor:
        """Return the loss of one batch.

        Parameters
        ----------
        logits : tensor, shape (..., C), floating
            Unnormalised log-probabilities of C classes along `axis`.
        labels : tensor, shape (...) integer, or shape (..., C) boolean, integer or floating
            Class ids in [0, C), or a row of probabilities for each example.
        sample_weight : tensor, shape (...) or (N,), real or boolean, optional
            A weight for each example. Boolean: a mask, False drops the example.
        normalizer : float or 0-d tensor > 0, optional
            What "mean" divides by instead of the total weight: the number of examples in all
            micro-batches of a step, for example.

        Returns
        -------
        tensor, shape (...) if the reduction is "none", else ()
            float32 for half-precision logits, else of their dtype.

        Raises
        ------
        LossInputError
            As in `unified_loss.cross_entropy`.
        """
        if logits is ... or labels is ... or extra or foreign:
            options = CrossEntropyLoss.forward.__kwdefaults__ or {}
            name = type(self).__name__
            made = words.written(f"{name}(", OPTIONS)
            raise words.refused(name, options, extra, foreign, elsewhere=made)
        return cross_entropy(
            logits,
            labels,
            axis=self.axis,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
            normalizer=normalizer,
            check=self.check,
            class_group=self.class_group,
        )

    words.plain(forward)

    def _refuse_weight(self, _: Any) -> Never:
        """Class weights have another name here, under which torch's would do nothing."""
        message = words.refused(type(self).__name__, OPTIONS, (), {"weight": ...})
        raise message

    weight = property(None, _refuse_weight)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (as torch has it)
        """Set the mode, as that of every module, and warn where the loss is out of reach."""
        if not torch.compiler.is_compiling():
            _warn_of_a_property(self, sys._getframe(1).f_locals.get("self"))  # noqa: SLF001
        return super().train(mode)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Take the class weights of a checkpoint of torch's own loss, which calls them `weight`."""
        theirs = state_dict.pop(f"{prefix}weight", None)
        if theirs is not None and "class_weight" not in self._non_persistent_buffers_set:
            state_dict.setdefault(f"{prefix}class_weight", theirs)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Return the options that are not the defaults."""
        shown = []
        for name, default in OPTIONS.items():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                shown.append(f"{name}=({len(value)} classes)")
            elif value != default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


OPTIONS: dict[str, Any] = dict(CrossEntropyLoss.__init__.__kwdefaults__ or {})
del OPTIONS["persistent"]  # of the buffer alone


def __getattr__(name: str) -> Any:
    return names.attribute(__name__, name)


def _warn_of_a_property(loss: nn.Module, parent: Any) -> None:
    """Warn if a module has the loss under a name that is a property of its class, which wins.

    Assigning a module calls no property, and nothing of the module that is assigned. What is
    called is `train`, by that of the parent.
    """
    for name, child in parent.named_children() if isinstance(parent, nn.Module) else ():
        if child is loss and isinstance(getattr(type(parent), name, None), property):
            text = (
                f"{name} is a property of {type(parent).__name__}, and a module that is assigned "
                "to it has no effect. Fix, for a model of transformers: del model.loss_function; "
                "model.loss_function = CausalLMLoss(), of unified_loss.integrations.transformers."
            )
            warn(LossInputWarning(text))


def _spec(class_weight: Any) -> Spec | None:
    """What the rules may know of the class weights."""
    if class_weight is None:
        return None
    if isinstance(class_weight, Tensor):
        return BACKEND.spec(class_weight)
    return host.spec(class_weight, class_weight)


def _floating(class_weight: Any) -> Tensor | None:
    """The class weights as a buffer, floating because `Module.to` casts no others."""
    if class_weight is None:
        return None
    if not isinstance(class_weight, Tensor):
        class_weight = torch.tensor(host.cast(class_weight, "float64"))
    elif class_weight.is_floating_point():
        return class_weight
    return class_weight.to(torch.get_default_dtype())
