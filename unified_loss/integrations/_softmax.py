"""A softmax, or a sigmoid, at the end of a model of Keras: the loss takes the logits before it."""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend import in_symbolic_scope

from unified_loss import _messages as messages
from unified_loss._call import warn
from unified_loss.exceptions import LossInputWarning

KERAS = "keras.src."  # where each output of a model meets its loss
TRAINERS = {keras.Model.compute_loss.__name__, keras.Model.compute_metrics.__name__}


def scores(y_pred: Any) -> Any:
    """The logits; those before it where Keras knows that one of the two is the last activation."""
    logits = getattr(y_pred, "_keras_logits", None)
    if logits is None and getattr(y_pred, "graph", None) is not None:  # of a step of TensorFlow
        made: Any = getattr(y_pred, "op", None)
        logits = made.inputs[0] if getattr(made, "type", None) == "Softmax" else None
    model, whole = (None, None) if _is_seen_by_dynamo() else _trained()
    end = None
    if logits is None and model is not None:
        end = _last_activation(y_pred, model, whole)
    if logits is None and end is None:
        return y_pred
    if not in_symbolic_scope():  # where `fit` tries the loss out, before it calls it
        name = None if model is None else model.name
        warn(LossInputWarning(messages.of_activation(end, name)))
    return logits if end is None else INVERSES[end](_in_digits(y_pred))


def _is_seen_by_dynamo() -> bool:
    """Whether `torch.compile` reads this, which knows nothing of frames."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def _trained() -> tuple[Any, Any]:
    """The model that is trained, and all its outputs; None of a loss that people call themselves.

    The trainer of the model called what calls this loss, or this metric.
    """
    frame: Any = sys._getframe(3)  # noqa: SLF001 (there is no other way to it)
    while frame is not None and frame.f_code.co_name not in TRAINERS:
        is_keras = str(frame.f_globals.get("__name__")).startswith(KERAS)
        frame = frame.f_back if is_keras else None
    known = {} if frame is None else frame.f_locals
    model = known.get("self")
    return (model, known.get("y_pred")) if isinstance(model, keras.Model) else (None, None)


def _last_activation(y_pred: Any, model: Any, whole: Any) -> str | None:
    """The name of what makes this output of the model, if it is one of `INVERSES`."""
    outputs = getattr(model, "outputs", None) or ()  # a subclass that was not built by layers
    arrays = keras.tree.flatten(whole)
    pairs = zip(arrays, outputs, strict=True) if len(arrays) == len(outputs) else ()
    return next((_activation(output) for array, output in pairs if array is y_pred), None)


def _activation(output: Any) -> str | None:
    """The same of a symbolic output, which a layer or an operation makes."""
    layer, node, index = output._keras_history  # noqa: SLF001 (as Keras's own models read it)
    if isinstance(layer, keras.Model) and layer.outputs:
        return _activation(layer.outputs[index])
    if type(layer).__name__.lower() in MOVES:
        return _activation(layer._inbound_nodes[node].input_tensors[0])  # noqa: SLF001 (as above)
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


# Layers and operations that leave numbers as they are, and move them.
MOVES = {"expanddims", "flatten", "identity", "permute", "reshape", "squeeze", "transpose"}
# Logits of which each makes the probabilities.
INVERSES: dict[str, Callable[[Any], Any]] = {"softmax": ops.log, "sigmoid": _log_odds}
