"""A softmax, or a sigmoid, at the end of a model of Keras: the loss takes the logits before it."""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from unified_loss import _messages as messages
from unified_loss._call import warn
from unified_loss.exceptions import LossInputWarning

COMPILED = "keras.src.trainers.compile_utils"  # where each output of a model meets its loss


def scores(y_pred: Any) -> Any:
    """The logits; those before it where Keras knows that one of the two is the last activation."""
    logits = getattr(y_pred, "_keras_logits", None)
    if logits is None and getattr(y_pred, "graph", None) is not None:  # of a step of TensorFlow
        made: Any = getattr(y_pred, "op", None)
        logits = made.inputs[0] if getattr(made, "type", None) == "Softmax" else None
    if logits is not None:
        warn(LossInputWarning(messages.of_activation("softmax or a sigmoid")))
        return logits
    end = None if _is_seen_by_dynamo() else _last_activation(y_pred)
    if end is not None:
        warn(LossInputWarning(messages.of_activation(end, remembered=False)))
        return INVERSES[end](_in_digits(y_pred))
    return y_pred


def _is_seen_by_dynamo() -> bool:
    """Whether `torch.compile` reads this, which knows nothing of frames."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def _last_activation(y_pred: Any) -> str | None:
    """The name of what makes this output of the model that is trained, if it is one of `INVERSES`.

    Its trainer called what calls this loss; one that people call by themselves has none.
    """
    frame: Any = sys._getframe(3)  # noqa: SLF001 (there is no other way to it)
    while frame is not None and frame.f_globals.get("__name__") == COMPILED:
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != keras.Model.compute_loss.__name__:
        return None
    model, whole = frame.f_locals.get("self"), frame.f_locals.get("y_pred")
    outputs = getattr(model, "outputs", None) or ()  # a subclass that was not built by layers
    arrays = keras.tree.flatten(whole)
    pairs = zip(arrays, outputs, strict=True) if len(arrays) == len(outputs) else ()
    return next((_activation(output) for array, output in pairs if array is y_pred), None)


def _activation(output: Any) -> str | None:
    """The same of a symbolic output, which a layer or an operation makes."""
    layer, _, index = output._keras_history  # noqa: SLF001 (as Keras's own models read it)
    if isinstance(layer, keras.Model) and layer.outputs:
        return _activation(layer.outputs[index])
    applied = getattr(layer, "activation", None)
    # `keras.layers.Softmax`, `keras.ops.softmax` and `keras.ops.sigmoid` are classes there.
    names = type(layer).__name__.lower(), getattr(applied, "__name__", None)
    return next((name for name in INVERSES if name in names), None)


def _in_digits(probabilities: Any) -> Any:
    """Probabilities, none so small that its logarithm has no gradient, in no half precision."""
    dtype = keras.backend.standardize_dtype(probabilities.dtype)
    if dtype != "float64":
        dtype = "float32"
    return ops.maximum(ops.cast(probabilities, dtype), np.finfo("float32").tiny)


def _log_odds(probabilities: Any) -> Any:
    """What a sigmoid has made the probabilities of; 1 for the largest number below it."""
    rest = np.finfo("float32").epsneg
    return ops.log(probabilities) - ops.log1p(-ops.minimum(probabilities, 1 - rest))


# Logits of which each makes the probabilities.
INVERSES: dict[str, Callable[[Any], Any]] = {"softmax": ops.log, "sigmoid": _log_odds}
