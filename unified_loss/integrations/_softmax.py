"""A softmax at the end of a model of Keras: the loss takes the logits before it."""

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from unified_loss import _messages as messages
from unified_loss._call import warn
from unified_loss.exceptions import LossInputWarning

FORGETFUL = "jax", "numpy"  # whose arrays take no attribute, such as logits to remember
COMPILED = "keras.src.trainers.compile_utils"  # where each output of a model meets its loss


def scores(y_pred: Any) -> Any:
    """The logits; those before it where Keras knows that a softmax is the last activation."""
    logits = getattr(y_pred, "_keras_logits", None)
    if logits is None and getattr(y_pred, "graph", None) is not None:  # of a step of TensorFlow
        made: Any = getattr(y_pred, "op", None)
        logits = made.inputs[0] if getattr(made, "type", None) == "Softmax" else None
    if logits is not None:
        warn(LossInputWarning(messages.of_softmax()))
        return logits
    if keras.backend.backend() in FORGETFUL and _is_output_of_softmax(y_pred):
        warn(LossInputWarning(messages.of_softmax(remembered=False)))
        return _logarithm(y_pred)
    return y_pred


def _is_output_of_softmax(y_pred: Any) -> bool:
    """Whether the model that is trained says that this output of it comes from a softmax.

    Its trainer called what calls this loss; one that people call by themselves has none.
    """
    frame: Any = sys._getframe(3)  # noqa: SLF001 (there is no other way to it)
    while frame is not None and frame.f_globals.get("__name__") == COMPILED:
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != keras.Model.compute_loss.__name__:
        return False
    model, whole = frame.f_locals.get("self"), frame.f_locals.get("y_pred")
    outputs = getattr(model, "outputs", None) or ()  # a subclass that was not built by layers
    arrays = keras.tree.flatten(whole)
    pairs = zip(arrays, outputs, strict=True) if len(arrays) == len(outputs) else ()
    return any(array is y_pred and _ends_in_softmax(output) for array, output in pairs)


def _ends_in_softmax(output: Any) -> bool:
    """Whether the layer, or operation, that makes a symbolic output applies a softmax last."""
    layer, _, index = output._keras_history  # noqa: SLF001 (as Keras's own models read it)
    if isinstance(layer, keras.Model) and layer.outputs:
        return _ends_in_softmax(layer.outputs[index])
    is_softmax = type(layer).__name__ == keras.layers.Softmax.__name__  # or `keras.ops.softmax`
    return is_softmax or getattr(layer, "activation", None) is keras.activations.softmax


def _logarithm(probabilities: Any) -> Any:
    """Logits whose softmax are the probabilities; none is so small that it has no gradient."""
    dtype = keras.backend.standardize_dtype(probabilities.dtype)
    if dtype != "float64":
        dtype = "float32"
    return ops.log(ops.maximum(ops.cast(probabilities, dtype), np.finfo("float32").tiny))
