"""What people write on NumPy with SciPy, which has a log-softmax and no loss."""

from typing import Any

import numpy as np
from scipy.special import log_softmax

from benchmarks.frameworks._base import Inputs, Loss


def scipy_recipe(inputs: Inputs) -> Loss:
    """The log-softmax of scipy, and the labels' entries of it."""
    axis = inputs.axis

    def index(logits: Any, labels: Any) -> Any:
        ids = np.expand_dims(labels, axis)
        return -np.take_along_axis(log_softmax(logits, axis), ids, axis).mean()

    def dense(logits: Any, labels: Any) -> Any:
        return -(labels * log_softmax(logits, axis)).sum(axis).mean()

    if not inputs.is_plain:
        return _with_options(inputs)
    return dense if inputs.is_dense else index


def scipy_recipe_with_gradient(inputs: Inputs) -> Loss:
    """The same, and what it says of the gradient: the softmax less the label rows."""
    axis = inputs.axis

    def index(logits: Any, labels: Any) -> Any:
        log_p = log_softmax(logits, axis)
        ids = np.expand_dims(labels, axis)
        entries = np.take_along_axis(log_p, ids, axis)
        slope = np.exp(log_p)
        np.put_along_axis(slope, ids, np.exp(entries) - 1, axis)
        slope /= labels.size
        return -entries.mean(), slope

    def dense(logits: Any, labels: Any) -> Any:
        log_p = log_softmax(logits, axis)
        loss = -(labels * log_p).sum(axis)
        return loss.mean(), (np.exp(log_p) - labels) / loss.size

    if not inputs.is_plain:
        return _with_options(inputs, with_gradient=True)
    return dense if inputs.is_dense else index


def _with_options(inputs: Inputs, *, with_gradient: bool = False) -> Loss:
    """The entries of the log-softmax weighted; label rows where they are smoothed."""
    axis, ndim, options = inputs.axis, inputs.logits.ndim, inputs.options
    num_classes = inputs.logits.shape[axis]
    smoothing = options.get("label_smoothing", 0.0)
    weight = options.get("class_weight", np.ones(num_classes, np.float32))
    along = weight.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])

    def entries(logits: Any, labels: Any) -> Any:
        log_p = log_softmax(logits, axis)
        ids = np.expand_dims(np.maximum(labels, 0), axis)
        mass = weight[ids] * np.expand_dims(labels >= 0, axis)
        total = mass.sum()
        value = -(np.take_along_axis(log_p, ids, axis) * mass).sum() / total
        if not with_gradient:
            return value
        slope = np.exp(log_p)
        slope *= mass / total
        np.put_along_axis(slope, ids, np.take_along_axis(slope, ids, axis) - mass / total, axis)
        return value, slope

    def rows(logits: Any, labels: Any) -> Any:
        log_p = log_softmax(logits, axis)
        if inputs.is_dense:
            target = labels * (1 - smoothing)
            kept, total = np.ones(1, np.float32), np.float32(labels.size // num_classes)
        else:
            ids = np.expand_dims(np.maximum(labels, 0), axis)
            kept = np.expand_dims(labels >= 0, axis)
            target = np.zeros_like(log_p)
            np.put_along_axis(target, ids, 1 - smoothing, axis)
            total = np.sum(weight[ids] * kept, dtype=np.float32)
        target += smoothing / num_classes
        target *= along * kept
        value = -(target * log_p).sum() / total
        if not with_gradient:
            return value
        return value, (np.exp(log_p) * target.sum(axis, keepdims=True) - target) / total

    return rows if inputs.is_dense or smoothing else entries
