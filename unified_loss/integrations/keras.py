"""The loss as Keras knows it, on each of Keras's backends."""

import operator
from typing import Any, Literal, Never

import keras
from keras import ops
from keras.src import backend as keras_backend  # has no public name for the uses below

from unified_loss import _columns as columns
from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _names as names
from unified_loss import _rules as rules
from unified_loss import _words as words
from unified_loss._backend import Backend
from unified_loss._call import swapped
from unified_loss._cross_entropy import cross_entropy
from unified_loss._dispatch import backend_of
from unified_loss._shapes import same_size
from unified_loss._types import LabelKind, Spec
from unified_loss.exceptions import DTypeError, OptionError, ShapeError
from unified_loss.integrations._options import plan_of_options
from unified_loss.integrations._softmax import scores

__all__ = ["CrossEntropy"]

Reduction = Literal["mean", "mean_with_sample_weight", "sum_over_batch_size", "sum", "none"]

ARRAYS = {"y_true": "the first argument", "y_pred": "the second argument"}
TAKEN = {"sample_weight": None}  # by a call, beside its arrays

_REDUCTIONS: dict[str | None, str] = {
    "mean": "mean",
    "mean_with_sample_weight": "mean",
    "sum_over_batch_size": "sum",  # and divided afterwards
    "sum": "sum",
    "none": "none",
    None: "none",
}


@keras.saving.register_keras_serializable(package="unified_loss")
class CrossEntropy(keras.losses.Loss):
    """`cross_entropy` as a loss of Keras.

    For ``model.compile(loss=...)``, with what ``fit`` adds: sample weights, class weights and the
    masks of layers. The model must output logits, not probabilities. Labels are class ids or
    dense rows, as `cross_entropy` takes them, in the dtype that they have: no class id passes
    through the model's precision. Half-precision logits give a float32 loss.

    A model that was saved with this loss loads where `unified_loss.integrations.keras` has been
    imported.

    Parameters
    ----------
    axis : int or None, default -1
        The class axis of the logits: the last one, as in Keras's own losses. None: inferred, as
        in `cross_entropy`.
    class_weight : array, shape (C,), real, optional
        A weight for each class. It weighs each class's term and the mean, where the
        ``class_weight`` of ``fit`` is a sample weight in disguise.
    ignore_index : int or None, default -100
        Examples with this class id are dropped.
    label_smoothing : float in [0, 1], default 0
        The share of each label row that is spread over all C classes.
    z_loss : float >= 0, default 0
        Adds this factor times the squared logarithm of the softmax's denominator.
    reduction : str or None, default "mean"
        "mean", or Keras's name "mean_with_sample_weight": the sum over the total weight of all
        examples that are not dropped. "sum_over_batch_size", the default of Keras's losses: the
        sum over the number of examples, whatever they weigh, that are neither masked nor dropped
        for their labels. "sum". "none" or None: one loss for each example. Note that Keras's
        losses take "mean" for another name of "sum_over_batch_size".
    normalizer : float > 0, optional
        What "mean" divides by instead: the examples of a global batch, for example.
    check : {"auto", True, False}, default "auto"
        Whether to look at label values. Compiled steps never do: there True is an error, which
        says ``run_eagerly=True``.
    name : str, default "cross_entropy"
        The name in logs and configurations.
    dtype : str, optional
        What the logits are cast to before all else. By default they stay what they are; half
        precision is computed in float32 either way.

    Raises
    ------
    OptionError
        If an option is out of its range.
    ShapeError, DTypeError
        If the class weights are not one real number for each class.

    See Also
    --------
    unified_loss.cross_entropy : The function, and all about the arguments.

    Notes
    -----
    Under ``tf.distribute``, a mean that is taken by each replica is divided by their number, as
    Keras's losses do, so that the sum over the replicas is the mean of the replicas' means. With
    `normalizer`, that sum is the mean of the global batch as it stands.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss.integrations.keras import CrossEntropy
    >>> loss = CrossEntropy(label_smoothing=0.1, name="smooth")
    >>> print(f"{float(loss(np.array([[0], [2]]), np.zeros((2, 4), 'float32'))):.4f}")
    1.3863
    >>> CrossEntropy.from_config(loss.get_config()).name
    'smooth'
    """

    def __init__(
        self,
        *extra: Never,
        axis: int | None = -1,
        class_weight: Any = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0,
        z_loss: float = 0,
        reduction: Reduction | None = "mean",
        normalizer: float | None = None,
        check: Literal["auto"] | bool = "auto",
        name: str = "cross_entropy",
        dtype: Any = None,
        **foreign: Never,
    ) -> None:
        if extra or foreign:
            options = CrossEntropy.__init__.__kwdefaults__ or {}
            each = words.written("model.fit(inputs, labels, ", ["sample_weight"])
            name = type(self).__name__
            made = f"loss={name}(), or {name}()(y_true, y_pred)"
            raise words.refused(name, options, extra, foreign, {}, each, made)
        weight = None if class_weight is None else _on_host(class_weight)
        plan = plan_of_options(
            axis=axis,
            class_weight=None if weight is None else host.spec(weight, weight),
            normalizer=None if normalizer is None else Spec("python", (), "float64"),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=_core_reduction(reduction),
            check=check,
        )
        self._options: dict[str, Any] = {
            "axis": None if axis is None else operator.index(axis),
            "class_weight": weight,
            "ignore_index": None if ignore_index is None else operator.index(ignore_index),
            "label_smoothing": plan.label_smoothing,
            "z_loss": plan.z_loss,
            "reduction": plan.reduction,
            "normalizer": None if normalizer is None else rules.normalizer(normalizer),
            "check": check,
        }
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._cast = None if dtype is None else self.dtype  # the base class has one of its own

    words.plain(__init__)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of all examples, without sample weights.

        Parameters
        ----------
        y_true : array, shape (...) integer, or shape (..., C)
            The labels.
        y_pred : array, shape (..., C), floating
            The logits.

        Returns
        -------
        array, shape (...)
            In nats; float32 for half-precision logits.
        """
        options = self._options | {"reduction": "none", "normalizer": None}
        return cross_entropy(ops.convert_to_tensor(y_pred), y_true, **options)

    def __call__(
        self,
        y_true: Any = ...,
        y_pred: Any = ...,
        sample_weight: Any = None,
        *extra: Never,
        **foreign: Never,
    ) -> Any:
        """The loss; the base class would cast the labels to a floating dtype first.

        Parameters
        ----------
        y_true : array, shape (...) integer, or shape (..., C)
            The labels.
        y_pred : array, shape (..., C), floating
            The logits, whose Keras mask is heeded.
        sample_weight : array, shape (...) or (N,), real or boolean, optional
            A weight for each example, or for each entry of the first batch axis.

        Returns
        -------
        array, shape () or, without a reduction, (...)
            In nats; float32 for half-precision logits.
        """
        if y_true is ... or y_pred is ... or extra or foreign:
            name, options = type(self).__name__, CrossEntropy.__init__.__kwdefaults__ or {}
            of_class = words.written(f"{name}(", options)
            raise words.refused(name, TAKEN, extra, foreign, ARRAYS, of_class)
        mask = keras_backend.get_keras_mask(y_pred)
        with keras.name_scope(self.name):
            if mask is not None:
                mask = ops.cast(mask, "bool")
            _refuse_the_other_order(y_true, y_pred)
            y_pred = ops.convert_to_tensor(scores(y_pred), self._cast)
            self._refuse_a_check_that_sees_nothing(y_true, y_pred)
            if keras_backend.in_symbolic_scope() and _replicas() > 1:
                # There, fit tries out the shapes on the mean of all replicas' labels, a float.
                y_true = ops.cast(y_true, "int32")
            sample_weight = _of_examples(sample_weight, y_pred)
            weight = sample_weight if mask is None else _masked(sample_weight, mask)
            loss = cross_entropy(y_pred, y_true, sample_weight=weight, **self._options)
            if self.reduction == "sum_over_batch_size":
                loss = loss / self._number_of_examples(y_true, y_pred, mask)
            if self._is_mean_of_replica():
                loss = loss / _replicas()
        return loss

    words.plain(__call__)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal loss, as JSON has them."""
        config = self._options | {"reduction": self.reduction, "name": self.name}
        if self._cast is not None:
            config["dtype"] = self._cast
        if config["class_weight"] is not None:
            config["class_weight"] = config["class_weight"].tolist()
        return config

    def _refuse_a_check_that_sees_nothing(self, y_true: Any, y_pred: Any) -> None:
        """Compiled steps have no values, whatever the processor."""
        if self._options["check"] is not True or keras_backend.in_symbolic_scope():
            return
        backend = backend_of(y_pred)
        if backend.owns(y_true) and backend.read(y_true, wait=True) is None:
            text = (
                "check=True looks at label values, which a compiled step does not have: "
                "model.compile(..., run_eagerly=True) to look, or leave check as it is."
            )
            raise OptionError(text)

    def _number_of_examples(self, y_true: Any, y_pred: Any, mask: Any) -> Any:
        """How many examples are not dropped: those whose loss is not 0 between two equal logits.

        Class ids beyond the two give NaN, and count. A dense row stands for one class id.
        """
        ignore_index = self._options["ignore_index"]
        axis, kind = self._reading(y_true, y_pred)
        if kind == "dense":
            kept = ops.any(ops.cast(ops.convert_to_tensor(y_true), "bool"), axis, keepdims=True)
            ignore_index = 1
            y_true = ops.where(kept, 0, ignore_index)
        losses = cross_entropy(
            ops.ones_like(ops.take(y_pred, ops.convert_to_tensor([0, 0], "int32"), axis)),
            y_true,
            axis=axis,
            sample_weight=mask,
            ignore_index=ignore_index,
            reduction="none",
            check=False,
        )
        return ops.maximum(ops.sum(ops.cast(losses != 0, losses.dtype)), 1)

    def _reading(self, y_true: Any, y_pred: Any) -> tuple[int, LabelKind]:
        """The class axis of a call that nothing is wrong with, and the kind of its labels."""
        backend = backend_of(y_pred)
        plan = plan_of_options(
            logits=backend.spec(y_pred),
            labels=_spec(backend, y_true),
            same=backend.same_size,
            axis=self._options["axis"],
            class_weight=None,
            ignore_index=self._options["ignore_index"],
            label_smoothing=0,
            z_loss=0,
            reduction="none",
            check=False,
        )
        return plan.axis, plan.label_kind

    def _is_mean_of_replica(self) -> bool:
        is_mean = self._options["reduction"] == "mean" and self._options["normalizer"] is None
        return is_mean or self.reduction == "sum_over_batch_size"


def __getattr__(name: str) -> Any:
    return names.attribute(__name__, name)


def _refuse_the_other_order(y_true: Any, y_pred: Any) -> None:
    """R1: class ids where the logits belong, and scores where the labels do."""
    try:
        is_integer = keras.backend.is_int_dtype(getattr(y_pred, "dtype", "float32"))
    except ValueError:  # text, objects: what Keras has no dtype for
        dtype = getattr(y_pred.dtype, "name", str(y_pred.dtype))
        given = Spec(rules.package_of(type(y_pred)), tuple(y_pred.shape), dtype)
        raise DTypeError(messages.part_not_floating("y_pred", given)) from None
    if not is_integer:
        return
    predicted = ops.convert_to_tensor(y_pred)
    backend = backend_of(predicted)
    labels = _spec(backend, y_true)
    if labels.dtype in rules.FLOATING:
        text = messages.logits_came_first(labels, backend.spec(predicted))
        raise swapped(DTypeError, text, instead=messages.SWAP_IN_KERAS)


def _spec(backend: Backend, labels: Any) -> Spec:
    """What the rules may know of the labels."""
    if backend.owns(labels):
        return backend.spec(labels)
    return host.spec(labels, host.as_numpy(labels, "labels"))


def _of_examples(sample_weight: Any, y_pred: Any) -> Any:
    """Sample weights (N, T, 1) beside logits (N, T, C), as Keras allows, are (N, T)."""
    if not hasattr(sample_weight, "shape"):
        return sample_weight
    ndim, wanted = _ndim(sample_weight), _ndim(y_pred)
    if wanted is None or wanted < 3:
        return sample_weight
    if ndim is None:
        return _of_examples_in_graph(sample_weight, wanted)
    if ndim != wanted or sample_weight.shape[-1] != 1:
        return sample_weight
    return ops.squeeze(ops.convert_to_tensor(sample_weight), -1)


def _of_examples_in_graph(sample_weight: Any, ndim: int) -> Any:
    """The same for an array of TensorFlow whose rank will be known when the graph runs."""
    import tensorflow as tf

    shape = tf.shape(sample_weight)
    is_kept = tf.reduce_all(shape[ndim - 1 :] == 1)
    return tf.reshape(sample_weight, shape[: tf.where(is_kept, ndim - 1, tf.size(shape))])


def _core_reduction(name: Any) -> str:
    """The core's name of a reduction."""
    if isinstance(name, str | None) and name in _REDUCTIONS:
        return _REDUCTIONS[name]
    raise OptionError(messages.option("reduction", name, f"one of {tuple(_REDUCTIONS)}"))


def _on_host(class_weight: Any) -> host.HostArray:
    """Class weights as configurations can have them."""
    if ops.is_tensor(class_weight):
        class_weight = ops.convert_to_numpy(class_weight)
    return host.as_numpy(columns.as_host(class_weight, "class_weight"), "class_weight")


def _masked(sample_weight: Any, mask: Any) -> Any:
    """Sample weights that are 0 wherever a layer masked the example."""
    if sample_weight is None:
        return mask
    weight = ops.convert_to_tensor(sample_weight)
    if _ndim(weight) is None:
        weight = _extended_in_graph(weight, len(mask.shape))
    elif any(same_size(*sizes) is False for sizes in zip(weight.shape, mask.shape, strict=False)):
        text = (
            f"sample_weight must have the shape of the mask, {tuple(mask.shape)}, or of its first "
            f"axes, but has shape {tuple(weight.shape)}."
        )
        raise ShapeError(text)
    ndim = max(len(weight.shape), len(mask.shape))
    weight, mask = _extended(weight, ndim), _extended(mask, ndim)
    return ops.where(mask, weight, ops.zeros_like(weight))


def _ndim(array: Any) -> int | None:
    """The number of axes; None in a graph of TensorFlow that has seen several."""
    return None if getattr(array.shape, "rank", 0) is None else len(array.shape)


def _extended(array: Any, ndim: int) -> Any:
    """An array with axes of size 1 added on the right."""
    while len(array.shape) < ndim:
        array = ops.expand_dims(array, -1)
    return array


def _extended_in_graph(array: Any, ndim: int) -> Any:
    """The same for an array of TensorFlow whose rank will be known when the graph runs."""
    import tensorflow as tf

    ones = tf.ones([ndim - tf.rank(array)], tf.int32)
    shape = tf.concat([tf.shape(array), ones], 0)
    return tf.ensure_shape(tf.reshape(array, shape), [None] * ndim)


def _replicas() -> int:
    """How many replicas add up their gradients; only TensorFlow's strategies leave that to us."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    replicas: int = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas
