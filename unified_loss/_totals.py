"""Sums over examples, which add up over parts of the data: a call without its division."""

from typing import Any, Literal, NamedTuple, Never, Self

from unified_loss import _messages as messages
from unified_loss import _words as words
from unified_loss._backend import Backend
from unified_loss._cross_entropy import run
from unified_loss._dispatch import backend_of
from unified_loss._exact import Evaluation, ExactTotals
from unified_loss._linear_cross_entropy import ARRAYS as LINEAR_ARRAYS
from unified_loss._linear_cross_entropy import run as run_linear
from unified_loss._types import Head, Operands, Options
from unified_loss.exceptions import ArgumentError, BackendError, ShapeError


class Totals(NamedTuple):
    r"""Sums over the examples that are not dropped, as 0-d arrays of the logits' library.

    Totals of parts add up to those of the whole, entry by entry: ``one + other``, ``sum(parts)``,
    a `psum`, an all-reduce, the carry of a scan. They are a tuple with names, so every library
    takes them for a tree of arrays. Then, in the program that is traced or out of it, the mean
    loss is ``loss / mass``, the perplexity the exponential of ``nll / weight``, and the accuracy
    ``correct / weight``; `compute` has them as numbers of Python.

    Attributes
    ----------
    loss : array, shape ()
        The loss with every option, as of `cross_entropy` with ``reduction="sum"``.
    mass : array, shape ()
        What "mean" divides by.
    nll : array, shape ()
        :math:`\sum s\,(\mathrm{lse}(x) - x_y)` in nats, or :math:`-\sum s \sum_c t_c \log p_c` of
        label rows: only sample weights have a part in it.
    weight : array, shape ()
        :math:`\sum s`, the sample weights; 1 each without.
    correct : array, shape ()
        The same over examples whose label's logit is the largest, ties included. Of label rows:
        where a largest logit is in the place of a largest label.
    confidence : array, shape ()
        :math:`\sum s \max_c p_c`.
    count : array, shape (), integer
        How many examples there are.

    Notes
    -----
    All but the count are of the dtype of the loss. Of a class id that is out of range and could
    not be seen, `loss`, `nll` and `correct` are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import cross_entropy_totals
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    >>> labels = np.array([0, 1, -100])
    >>> parts = [cross_entropy_totals(logits[i], labels[i], axis=0) for i in range(3)]
    >>> total = sum(parts)
    >>> print(f"{total.loss / total.mass:.4f}")
    0.9076
    >>> total.compute().accuracy
    0.5
    """

    loss: Any
    mass: Any
    nll: Any
    weight: Any
    correct: Any
    confidence: Any
    count: Any

    @classmethod
    def zero(cls) -> Self:
        """Return the totals of nothing, to start from: numbers that add to any array."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)

    def __add__(self, other: "Totals") -> "Totals":  # type: ignore[override]
        """Add entry by entry, where tuples would be joined."""
        if not isinstance(other, Totals):
            raise ArgumentError(messages.not_totals("Totals add to Totals", other))
        return Totals(*(one + more for one, more in zip(self, other, strict=True)))

    def __radd__(self, other: Any) -> "Totals":
        """Start a `sum`, which begins with 0."""
        if isinstance(other, int) and other == 0:
            return self
        raise ArgumentError(messages.not_totals("Totals add to Totals", other))

    def compute(self) -> Evaluation:
        """Return the values as numbers of Python, which may wait for an accelerator.

        Returns
        -------
        Evaluation
            Loss, perplexity, accuracy, confidence, count and mass; that of nothing if there is
            nothing.

        Raises
        ------
        BackendError
            If the arrays have no values yet, as while tracing.
        ShapeError
            If an array has axes, as after a vectorized map.
        """
        backend, sent = start(self)
        (numbers,) = [sent] if backend is None else backend.receive([sent])
        exact = ExactTotals()
        exact.add(numbers)
        return exact.evaluation()


def start(totals: Totals) -> tuple[Backend | None, Any]:
    """Totals on their way to the host: what a backend receives later, or numbers without one."""
    if all(isinstance(number, (int, float)) for number in totals):
        return None, list(totals)
    shape = tuple(totals.loss.shape)
    if shape:
        raise ShapeError(messages.totals_have_axes(shape))
    backend = backend_of(totals.loss)
    sent = backend.send(tuple(totals))
    if sent is None:
        raise BackendError(messages.no_values_yet())
    return backend, sent


def cross_entropy_totals(
    logits: Any = ...,
    labels: Any = ...,
    *extra: Never,
    axis: int | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0,
    z_loss: float = 0,
    check: Literal["auto"] | bool = "auto",
    **foreign: Never,
) -> Totals:
    """Sums over examples that loss, perplexity and accuracy are made of.

    A mean over parts is no mean over the whole; sums are. Everything comes from one pass over the
    logits, the one of the loss, and can be traced and differentiated as that can.

    Parameters
    ----------
    logits, labels
        As in `cross_entropy`.
    axis, class_weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    z_loss, check
        As in `cross_entropy`.

    Returns
    -------
    Totals
        Loss, mass, negative log-likelihood, sample weight, correct, confidence and count, each
        with shape (), of the logits' library and on their device; the count an integer, the rest
        float32 for half-precision logits, else of their dtype.

    Raises
    ------
    LossInputError
        As in `cross_entropy`.

    See Also
    --------
    RunningCrossEntropy : The same over many batches, exactly.
    cross_entropy : The loss alone, and all about the arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import cross_entropy_totals
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> totals = cross_entropy_totals(logits, np.array([0, 0]), sample_weight=[1, 3])
    >>> print(f"{totals.loss / totals.mass:.4f}, {totals.correct / totals.weight:.2f}")
    1.9076, 0.25
    >>> int(totals.count)
    2
    """
    if logits is ...:
        logits = foreign.pop("logits", ...)
    if labels is ...:
        labels = foreign.pop("labels", ...)
    if logits is ... or labels is ... or extra or foreign:
        raise words.refused(cross_entropy_totals.__name__, _DEFAULTS, extra, foreign)
    arrays = Operands(logits, labels, class_weight, sample_weight, None)
    options = Options(axis, ignore_index, label_smoothing, z_loss, "sum", check)
    return Totals(*run("sums", arrays, options))


def linear_cross_entropy_totals(
    hidden: Any = ...,
    weight: Any = ...,
    labels: Any = ...,
    *extra: Never,
    bias: Any = None,
    softcap: float | None = None,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0,
    z_loss: float = 0,
    check: Literal["auto"] | bool = "auto",
    **foreign: Never,
) -> Totals:
    """Sums over examples that loss, perplexity and accuracy are made of, without the logits.

    They are `cross_entropy_totals` of the logits that `linear_cross_entropy` describes, and come
    from one walk over them: what the loss needs of a row tells its perplexity, accuracy and
    confidence.

    Parameters
    ----------
    hidden, weight, labels
        As in `linear_cross_entropy`.
    bias, softcap
        As in `linear_cross_entropy`.
    class_weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    z_loss, check
        As in `cross_entropy`.

    Returns
    -------
    Totals
        As of `cross_entropy_totals`: of the library and on the device of `hidden`; float64 if
        `hidden` or `weight` is, else float32.

    Raises
    ------
    LossInputError
        As in `linear_cross_entropy`.

    See Also
    --------
    RunningCrossEntropy.update_linear : The same over many batches, exactly.
    linear_cross_entropy : The loss alone, and all about the arguments.

    Notes
    -----
    A second walk is taken where the loss has no use for a label's logit, or for label rows without
    their weights: with ``label_smoothing=1``, and for dense labels with class weights.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import linear_cross_entropy_totals
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> totals = linear_cross_entropy_totals(hidden, weight, np.array([0, 0]))
    >>> print(f"{totals.loss / totals.mass:.4f}, {totals.correct / totals.weight:.1f}")
    1.3236, 0.5
    """
    if hidden is ... or weight is ... or labels is ...:
        hidden, weight, labels = words.by_name(foreign, hidden=hidden, weight=weight, labels=labels)
    if hidden is ... or weight is ... or labels is ... or extra or foreign:
        name = linear_cross_entropy_totals.__name__
        raise words.refused(name, _LINEAR_DEFAULTS, extra, foreign, LINEAR_ARRAYS)
    arrays = Operands(None, labels, class_weight, sample_weight, None)
    options = Options(None, ignore_index, label_smoothing, z_loss, "sum", check)
    return Totals(*run_linear("linear_sums", Head(hidden, weight, bias), arrays, options, softcap))


words.public(words.by_place(cross_entropy_totals, 2))
words.public(words.by_place(linear_cross_entropy_totals, 3))

_DEFAULTS: dict[str, Any] = cross_entropy_totals.__kwdefaults__ or {}
_LINEAR_DEFAULTS: dict[str, Any] = linear_cross_entropy_totals.__kwdefaults__ or {}
