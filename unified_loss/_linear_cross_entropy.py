"""The public functions of the linear form: signatures, docstrings, and the way of a call."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Never, TypedDict, Unpack, overload

from unified_loss import _words as words
from unified_loss._cross_entropy import ArrayT, Average, Reduction, folded
from unified_loss._dispatch import backend_of
from unified_loss._types import Head, LinearGradients, Operands, Options
from unified_loss.exceptions import LossInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class LinearGiven(TypedDict, total=False):
    """The options of a call but `reduction`, for type checkers."""

    bias: Any
    softcap: float | None
    class_weight: Any
    sample_weight: Any
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    normalizer: Any
    check: Literal["auto"] | bool
    class_group: Any


@overload
def linear_cross_entropy(  # the loss of one number on NumPy is its scalar
    hidden: "npt.NDArray[Any]",
    weight: Any,
    labels: Any,
    *,
    reduction: Average = "mean",
    **options: Unpack[LinearGiven],
) -> "np.floating[Any]": ...


@overload
def linear_cross_entropy(
    hidden: ArrayT,
    weight: Any,
    labels: Any,
    *,
    reduction: Reduction = "mean",
    **options: Unpack[LinearGiven],
) -> ArrayT: ...


def linear_cross_entropy(
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
    reduction: Reduction = "mean",
    normalizer: Any = None,
    check: Literal["auto"] | bool = "auto",
    class_group: Any = None,
    **foreign: Never,
) -> Any:
    r"""Softmax cross-entropy, in nats, of a linear layer, without its logits.

    It is `cross_entropy` of the logits

    .. math::
        x = \mathrm{cap}(h W^\top + b), \qquad
        \mathrm{cap}(u) = c \tanh(u / c) \text{ with a cap } c, \text{ else } u,

    of hidden states :math:`h`, a weight :math:`W` and a bias :math:`b`, under every option. Few
    logits are made, and their loss is taken. Where they are many, no array of their size is: they
    are computed a block at a time, and what the loss needs of a block is kept. The page on the
    linear form tells how, and what it costs.

    Parameters
    ----------
    hidden : array, shape (..., D), floating
        The D features of each example, as the last layer receives them: an array of any supported
        library, which decides library and device.
    weight : array, shape (C, D), floating
        A row for each of C classes, as the weight of `torch.nn.Linear` and of embeddings is. It
        may be the array that `hidden` was made with.
    labels : array, shape (...) integer, or shape (..., C) boolean, integer or floating
        As in `cross_entropy`, for logits of shape (..., C). They are not shifted here.
    bias : array, shape (C,), floating, optional
        A number for each class.
    softcap : float > 0, optional
        The cap of the logits.
    class_weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    z_loss, reduction, normalizer, check
        As in `cross_entropy`.
    class_group : ProcessGroup, DeviceMesh of one axis, str or tuple of str, optional
        As in `cross_entropy`: weight, bias, class weights and dense labels are those of this
        member's classes, hidden is the same on all members, and so is its gradient.

    Returns
    -------
    array, shape (...) if `reduction` is "none", else ()
        Of the library and on the device of `hidden`; float64 if `hidden` or `weight` is, else
        float32. Half-precision inputs are multiplied into float32.

    Raises
    ------
    ShapeError
        If the shapes do not fit together: the message has all of them, and for a transposed
        weight, labels one shorter, or labels flattened otherwise than `hidden`, the fix.
    DTypeError
        If hidden, weight or bias are not floating, or as in `cross_entropy`.
    LossInputError
        In all other cases as in `cross_entropy`; a `softcap` out of its range is an `OptionError`.

    See Also
    --------
    linear_cross_entropy_with_grad : The gradients as well, also without autodiff.
    cross_entropy : The loss of logits, and all about the options.

    Notes
    -----
    A dropped example adds exactly 0 to the loss and to the gradients of hidden, weight and bias,
    whatever its hidden states hold. Where labels can be read without waiting for an accelerator
    it takes no part in the products.

    With `class_group` the loss moves as few numbers as that of `cross_entropy` does, and the
    gradient of hidden is added up over the members once. That of the weight stays where it is.

    References
    ----------
    .. [3] E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025.
    .. [4] Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024,
       section 2 (the cap).

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import linear_cross_entropy
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> print(f"{linear_cross_entropy(hidden, weight, np.array([0, 1])):.4f}")
    0.3236
    >>> print(f"{linear_cross_entropy(hidden, weight, np.array([0, 1]), softcap=0.5):.4f}")
    0.7436
    """
    if hidden is ... or weight is ... or labels is ...:
        hidden, weight, labels = words.by_name(foreign, hidden=hidden, weight=weight, labels=labels)
    if hidden is ... or weight is ... or labels is ... or extra or foreign:
        raise words.refused(linear_cross_entropy.__name__, _DEFAULTS, extra, foreign, ARRAYS)
    arrays = Operands(None, labels, class_weight, sample_weight, normalizer)
    options = Options(None, ignore_index, label_smoothing, z_loss, reduction, check, class_group)
    return run("linear_loss", Head(hidden, weight, bias), arrays, options, softcap)


@overload
def linear_cross_entropy_with_grad(
    hidden: "npt.NDArray[Any]",
    weight: Any,
    labels: Any,
    *,
    reduction: Average = "mean",
    **options: Unpack[LinearGiven],
) -> "tuple[np.floating[Any], LinearGradients]": ...


@overload
def linear_cross_entropy_with_grad(
    hidden: ArrayT,
    weight: Any,
    labels: Any,
    *,
    reduction: Reduction = "mean",
    **options: Unpack[LinearGiven],
) -> tuple[ArrayT, LinearGradients]: ...


def linear_cross_entropy_with_grad(
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
    reduction: Reduction = "mean",
    normalizer: Any = None,
    check: Literal["auto"] | bool = "auto",
    class_group: Any = None,
    **foreign: Never,
) -> Any:
    r"""Softmax cross-entropy, in nats, of a linear layer, and the gradients of its inputs.

    With the gradient :math:`g` of the loss in the logits, times the slope of the cap, those are
    :math:`g W`, :math:`g^\top h` and the sum of the rows of :math:`g`. No autodiff is needed.

    Parameters
    ----------
    hidden, weight, labels
        As in `linear_cross_entropy`.
    bias, softcap
        As in `linear_cross_entropy`.
    class_weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    z_loss, reduction, normalizer, check, class_group
        As in `linear_cross_entropy`.

    Returns
    -------
    loss : array, shape (...) if `reduction` is "none", else ()
        What `linear_cross_entropy` returns.
    gradients : LinearGradients
        A tuple of those of `hidden`, `weight` and `bias`, each in the shape and dtype of its own;
        None for a bias that is not there. With ``reduction="none"``, of the summed losses.

    Raises
    ------
    LossInputError
        As in `linear_cross_entropy`.

    See Also
    --------
    linear_cross_entropy : The loss alone, and all about the arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import linear_cross_entropy_with_grad
    >>> hidden, weight = np.array([[1.0, 2.0]]), np.zeros((4, 2))
    >>> loss, gradients = linear_cross_entropy_with_grad(hidden, weight, np.array([2]))
    >>> print(gradients.weight)
    [[ 0.25  0.5 ]
     [ 0.25  0.5 ]
     [-0.75 -1.5 ]
     [ 0.25  0.5 ]]
    """
    if hidden is ... or weight is ... or labels is ...:
        hidden, weight, labels = words.by_name(foreign, hidden=hidden, weight=weight, labels=labels)
    if hidden is ... or weight is ... or labels is ... or extra or foreign:
        name = linear_cross_entropy_with_grad.__name__
        raise words.refused(name, _DEFAULTS, extra, foreign, ARRAYS)
    arrays = Operands(None, labels, class_weight, sample_weight, normalizer)
    options = Options(None, ignore_index, label_smoothing, z_loss, reduction, check, class_group)
    head = Head(hidden, weight, bias)
    loss, gradients = run("linear_loss_and_gradients", head, arrays, options, softcap)
    return loss, LinearGradients(*gradients)


ARRAYS = {
    "hidden": "the first argument",
    "weight": "the second argument",
    "labels": "the third argument",
}


def run(entry: str, head: Head, arrays: Operands, options: Options, softcap: Any) -> Any:
    """What the backend's function `entry` returns, after all that can be checked."""
    try:
        backend = backend_of(head.hidden, "hidden")
    except LossInputError as error:
        raise folded(error) from error.__cause__
    in_graph = backend.linear_in_graph()
    if in_graph is not None:  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
        return in_graph(entry, head, arrays, options, softcap)
    try:
        call = _prepare()(backend, head, arrays, options, softcap)
    except LossInputError as error:
        raise folded(error) from error.__cause__
    return getattr(backend, entry)(call.form, call.head, call.operands)


@cache
def _prepare() -> Any:
    from unified_loss._linear_call import prepare  # by the first call, since it imports NumPy

    return prepare


for _function in (linear_cross_entropy, linear_cross_entropy_with_grad):
    words.public(words.by_place(_function, 3))

_DEFAULTS: dict[str, Any] = linear_cross_entropy.__kwdefaults__ or {}
