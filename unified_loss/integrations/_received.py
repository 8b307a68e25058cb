"""How a loss for ``transformers`` is called: by `Trainer`, or by a model, in place of its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unified_loss import _words as words
from unified_loss._shown import name_of
from unified_loss.exceptions import ArgumentError, BackendError, DTypeError
from unified_loss.integrations._outputs import IGNORE_INDEX, refused

ARRAYS = {"outputs": "the first argument", "labels": "the second argument"}
MADE = {"LinearCausalLMLoss": "LinearCausalLMLoss(model)"}  # of the others: ()
OF_LABELS = f"the labels, where {IGNORE_INDEX} is what does not count"
SETTLED = {"ignore_index": OF_LABELS, "mask": OF_LABELS}  # what is no option here
NUMBER = "num_items_in_batch"
UNSHIFTED = "ClassificationLoss"
SIZE = "vocab_size"  # which a model gives to its loss function, and nobody else does


def made(loss: type) -> str:
    """How people write an instance of a class."""
    name = loss.__name__
    return MADE.get(name, f"{name}()")


def misused(loss: type, options: Mapping[str, Any], extra: Any, foreign: Any) -> ArgumentError:
    """The error of arguments that a constructor does not take."""
    number = f"the call, which Trainer makes, as {NUMBER}"
    elsewhere = {**SETTLED, "normalizer": number, NUMBER: number}
    place = "model.loss_function = " if SIZE in foreign else "compute_loss_func="
    return words.refused(
        loss.__name__, options, extra, foreign, {}, elsewhere, f"{place}{made(loss)}"
    )


def received(
    loss: type,
    options: Mapping[str, Any],
    given: tuple[Any, Any, Any],
    extra: tuple[Any, ...],
    foreign: Mapping[str, Any],
) -> tuple[Any, Any, Any]:
    """What a call has given by other names and places, as outputs, labels and their number.

    `Trainer` calls a loss with the outputs, the labels and ``num_items_in_batch``; a model calls
    what is its ``loss_function`` with the logits, the labels, ``vocab_size`` and more by name.
    """
    (outputs, labels, number), rest = given, dict(foreign)
    if rest.get("ignore_index") == IGNORE_INDEX:  # as it is here in any case
        del rest["ignore_index"]
    if outputs is ...:
        outputs = rest.pop("logits", ...)
    if not isinstance(outputs, Tensor):
        if len(extra) == 1 and number is None:
            (number,), extra = extra, ()
    elif extra and isinstance(extra[0], int):
        rest, extra = {SIZE: extra[0], **rest}, extra[1:]
    if isinstance(outputs, Tensor) and SIZE in rest:
        size = rest.pop(SIZE)
        if size != outputs.shape[-1]:
            raise _another_size(loss, size, outputs.shape[-1])
        # What else the model was called with, it hands on to its loss.
        rest = {name: rest[name] for name in rest if name in options or words.is_known(name)}
    if outputs is ... or labels is ... or extra or rest:
        raise _misplaced(loss, options, extra, rest)
    return outputs, labels, number


def refuse_other_kinds(loss: type, outputs: Any, labels: Any) -> None:
    """R1, R2: refuse labels that are none, and outputs that are none, or both the other way round.

    The logits in the outputs are looked at by `refuse_other_logits`, once they are read.
    """
    if not isinstance(labels, Tensor):
        raise _no_labels(loss, outputs, labels)
    if isinstance(outputs, (Tensor, Mapping)):
        return
    is_row = isinstance(outputs, (tuple, list))  # Dynamo of torch 2.9 cannot read `tuple | list`
    if not is_row or not any(isinstance(one, Tensor) for one in outputs):
        raise _no_outputs(outputs)


def refuse_other_logits(loss: type, logits: Any, labels: Tensor) -> None:
    """R1: refuse logits that are no floating tensor, be they labels or something else."""
    if not isinstance(logits, Tensor):
        raise _no_outputs(logits, "the logits of the outputs")
    if logits.is_floating_point():
        return
    text = f"logits must be floating, but are {_dtype(logits)}"
    if not labels.is_floating_point() or labels.ndim < logits.ndim:
        raise refused(DTypeError, f"{text}.")
    raise _swapped(loss, DTypeError, f"{text} beside labels of {_dtype(labels)}")


def _misplaced(
    loss: type, options: Mapping[str, Any], extra: tuple[Any, ...], rest: Mapping[str, Any]
) -> Exception:
    """The error of arguments that a call does not take, or does not have."""
    start = made(loss)[:-1]
    of_class = words.written(start if start[-1] == "(" else f"{start}, ", options)
    elsewhere = {**of_class, **SETTLED, "normalizer": f"{NUMBER}=, the number of labels"}
    if loss.__name__ != UNSHIFTED:
        elsewhere["shift_labels"] = f"{UNSHIFTED}()(logits, labels), which shifts no labels"
    error = words.refused(loss.__name__, {NUMBER: None}, extra, rest, ARRAYS, elsewhere)
    return refused(ArgumentError, str(error), *_right(loss))


def _another_size(loss: type, size: Any, classes: int) -> Exception:
    text = (
        f"{SIZE} must be {classes}, the number of classes of the logits, but is {size}. It is "
        "the third argument beside logits, as models pass it to their loss function."
    )
    call = f"{made(loss)}(logits, labels, {NUMBER}={size})"
    return refused(ArgumentError, text, f"if it is the number of labels: {call}")


def _no_labels(loss: type, outputs: Any, labels: Any) -> Exception:
    """The error of labels that are no tensor: the batch, the outputs, or data of the host."""
    kind = name_of(type(labels)).removeprefix("builtins.")
    text = f"labels must be a tensor of class ids, but are of type {kind}"
    if isinstance(labels, Mapping) and "labels" in labels:
        return refused(ArgumentError, f"{text}.", f'{made(loss)}(outputs, inputs["labels"])')
    holds = labels if isinstance(labels, (tuple, list)) else ()
    if not isinstance(labels, Mapping) and not any(isinstance(one, Tensor) for one in holds):
        return refused(BackendError, f"{text}.", "labels = torch.as_tensor(labels)")
    if isinstance(outputs, Tensor) and not outputs.is_floating_point():
        return _swapped(loss, ArgumentError, f"{text} beside outputs of {_dtype(outputs)}")
    return refused(ArgumentError, f"{text}.", *_right(loss))


def _swapped(loss: type, kind: Any, text: str) -> Exception:
    text = f"{text}: the arguments look swapped, the order is (outputs, labels)."
    return refused(kind, text, *_right(loss), cause="arguments_swapped")


def _no_outputs(outputs: Any, what: str = "outputs") -> Exception:
    """The error of what is neither a tensor nor holds any."""
    kind = name_of(type(outputs)).removeprefix("builtins.")
    text = f"{what} must be what a model returns, or a tensor of logits, but are of type {kind}."
    fixes = ("outputs = torch.as_tensor(outputs)",) if hasattr(outputs, "shape") else ()
    if isinstance(outputs, nn.Module):
        fixes = ("outputs = model(**inputs)",)
    elif isinstance(getattr(outputs, "logits", None), Tensor):
        fixes = ("outputs = outputs.logits",)
    return refused(BackendError, text, *fixes)


def _right(loss: type) -> tuple[str, str]:
    """What to write, without a trainer and with one."""
    call = made(loss)
    return f"{call}(outputs, labels)", f"Trainer(compute_loss_func={call})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
