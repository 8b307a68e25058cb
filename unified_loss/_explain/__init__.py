"""`explain`: how a call of `cross_entropy` is understood, or what is wrong with it."""

from typing import TYPE_CHECKING, Any, Literal, Never

from unified_loss import _words as words

if TYPE_CHECKING:
    from unified_loss._explain._report import Report


def explain(
    logits: Any = ...,
    labels: Any = ...,
    *extra: Never,
    weight: Any = None,
    bias: Any = None,
    softcap: float | None = None,
    axis: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0,
    z_loss: float = 0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    normalizer: Any = None,
    check: Literal["auto"] | bool = "auto",
    class_group: Any = None,
    framework: str | None = None,
    **foreign: Never,
) -> "Report":
    """Tell how a call of `cross_entropy` is understood, or what is wrong with it.

    With a `weight` of two axes the call is one of `linear_cross_entropy`, and the first argument
    is `hidden`.
    No loss is computed. Arrays may be replaced by their shapes, so the call can be explained
    before there is a model or a batch.

    Parameters
    ----------
    logits, labels, class_weight, sample_weight, normalizer
        As in `cross_entropy`, or what stands for an array: text such as ``"float32[32, 20, 100]"``
        with ``?`` for an unknown size, as error messages show it, too (``"torch int64[32]"``); a
        `jax.ShapeDtypeStruct` or `tf.TensorSpec`; a `torch.Size` or `tf.TensorShape`; or, beside
        logits that are no array, a tuple of sizes. Without a dtype, all are float32 but labels,
        which are int64 unless they have the shape of the logits. Meta and fake tensors are arrays.
        The message of another library, or of an error of this one, stands for both, and is given
        alone.
    weight, bias, softcap
        As in `linear_cross_entropy`; arrays, or what stands for one. There is no `axis` then.
    axis, ignore_index, label_smoothing, z_loss, reduction, check, class_group
        As in `cross_entropy`. Arrays are looked at where `cross_entropy` would look.
    framework : str, optional
        For shapes: the library whose arrays they stand for, whatever a shape is an object of. It
        decides the kernel, and the code in fixes. By default the one that an argument tells, or
        NumPy.

    Returns
    -------
    Report
        The report: a text, and in a notebook a picture. Its attributes: `valid`; `error`, what
        the call would raise, with `cause`, `fixes` and `readings`; `warnings`; `axis`,
        `num_classes`, `label_kind`, `batch_shape`, `result_shape`, `result_dtype`, `kernel` and
        `extra_memory` (bytes), each None where it is not known; `facts`, all of this in sentences.
        Of the linear form `kernel` is the walk, and `facts` has its memory with gradients, that
        of the logits it does without, and the code of the call.

    Raises
    ------
    LossInputError
        If a text or a tuple is no shape, `framework` is not known or given beside arrays, or
        `axis` is given beside a weight, bias or softcap without one. A call that the loss refuses
        is no error: the report tells why.

    See Also
    --------
    cross_entropy : The loss, and all about its arguments.
    linear_cross_entropy : The linear form.

    Examples
    --------
    >>> from unified_loss import explain
    >>> report = explain("float32[32, 20, 100]", "int64[32, 100]")
    >>> report.valid, report.axis, report.batch_shape
    (True, 1, (32, 100))
    >>> explain((640, 20), "int64[640, 1, 1]", framework="torch").error.cause
    'labels_trailing_singleton'
    >>> report = explain("Expected input batch_size (32) to match target batch_size (20).")
    >>> report.error.cause
    'last_batch_smaller'
    >>> report = explain("float32[2048, 768]", "int64[2048]", weight="float32[32000, 768]")
    >>> report.kernel
    'by classes, by rows with gradients'
    """
    if logits is ...:
        logits = foreign.pop("logits", ...)
    if labels is ...:
        labels = foreign.pop("labels", ...)
    ends = None
    if labels is ... and isinstance(logits, str) and not (extra or foreign):
        from unified_loss._explain._pasted import call_in

        called = call_in(logits)
        if called is not None:
            logits, labels, ends = called.logits, called.labels, called.ends
            weight = called.weight if weight is None else weight
            bias = called.bias if bias is None else bias
            class_weight = called.class_weight if class_weight is None else class_weight
    if logits is ... or labels is ... or extra or foreign:
        raise words.refused(explain.__name__, explain.__kwdefaults__ or {}, extra, foreign)
    from unified_loss._explain._examination import examine
    from unified_loss._types import Head, Operands, Options

    arrays = Operands(logits, labels, class_weight, sample_weight, normalizer)
    options = Options(axis, ignore_index, label_smoothing, z_loss, reduction, check, class_group)
    return examine(arrays, options, framework, Head(logits, weight, bias), softcap, ends)


words.public(words.by_place(explain, 2))
