"""The public functions: signatures, docstrings, and the way of a call."""

from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Never,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from unified_loss import _words as words
from unified_loss._backend import Backend, WrongIds
from unified_loss._dispatch import backend_of
from unified_loss._types import Operands, Options
from unified_loss.exceptions import LossInputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Array(Protocol):
    """What all arrays have, for type checkers."""

    @property
    def shape(self) -> Any:
        """The sizes."""

    @property
    def dtype(self) -> Any:
        """The kind of the entries."""


class Given(TypedDict, total=False):
    """The options of a call but `reduction`, for type checkers."""

    axis: int | None
    class_weight: Any
    sample_weight: Any
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    normalizer: Any
    check: Literal["auto"] | bool
    class_group: Any


ArrayT = TypeVar("ArrayT", bound=Array)
Average = Literal["mean", "sum"]
Reduction = Literal["none", "mean", "sum"]


@overload
def cross_entropy(  # the loss of one number on NumPy is its scalar
    logits: "npt.NDArray[Any]",
    labels: Any,
    *,
    reduction: Average = "mean",
    **options: Unpack[Given],
) -> "np.floating[Any]": ...


@overload
def cross_entropy(
    logits: ArrayT, labels: Any, *, reduction: Reduction = "mean", **options: Unpack[Given]
) -> ArrayT: ...


def cross_entropy(
    logits: Any = ...,
    labels: Any = ...,
    *extra: Never,
    axis: int | None = None,
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
    r"""Softmax cross-entropy between logits and labels, in nats.

    For one example with logits :math:`x` and class id :math:`y`, the loss is
    :math:`\log\sum_c e^{x_c} - x_y`. In general, with a label row :math:`t` (one-hot for a class
    id), class weights :math:`w` and label smoothing :math:`\varepsilon`,

    .. math::
        \ell = -\sum_c w_c \, t'_c \log p_c, \qquad
        p = \mathrm{softmax}(x), \qquad
        t' = (1 - \varepsilon)\, t + \frac{\varepsilon}{C} \sum_c t_c .

    It means the same on every backend, and runs where the logits are.

    Parameters
    ----------
    logits : array, shape (..., C), floating
        Unnormalised log-probabilities of C classes along `axis`: an array of NumPy, PyTorch,
        JAX, TensorFlow or any library with an array-API namespace. float16 and bfloat16 are
        computed in float32.
    labels : array, shape (...) integer, or shape (..., C) boolean, integer or floating
        *Index labels*: class ids in [0, C), of any integer dtype, in the shape of the logits
        without the class axis, or with that axis at size 1. *Dense labels*: a row for each
        example (one-hot, multi-hot or probabilities), in the shape of the logits. The shape
        decides which, then the dtype, never the values. Nothing is broadcast. Like the other
        arguments, an array of the logits' library, or Python or NumPy data.
    axis : int, optional
        The class axis of the logits. By default the only axis of 1-D logits, the last of 2-D
        ones, and above that axis 1 or the last, whichever the labels' shape allows; if it allows
        both, the call is refused.
    class_weight : array, shape (C,), real, optional
        A weight for each class.
    sample_weight : array, shape (...) or (N,), real or boolean, optional
        A weight for each example, or for each entry of the first batch axis. Boolean: a mask,
        False drops the example.
    ignore_index : int or None, default -100
        Examples with this class id are dropped. None: there is no such id.
    label_smoothing : float in [0, 1], default 0
        The share :math:`\varepsilon` of each label row that is spread over all C classes.
    z_loss : float >= 0, default 0
        Adds this factor times the squared logarithm of the softmax's denominator.
    reduction : {"none", "mean", "sum"}, default "mean"
        "mean" divides the sum by the total *mass*: the sum of the sample weights (1 each if there
        are none), times the example's class weight :math:`\sum_c w_c t_c` if there are class
        weights, over all examples that are not dropped.
    normalizer : float or 0-d array > 0, optional
        What "mean" divides by instead: the number of tokens in a global batch, for example.
    check : {"auto", True, False}, default "auto"
        Whether to look at label values. "auto": where that does not wait for an accelerator.
        True: everywhere values exist, and at dense labels too. False: nowhere.
    class_group : ProcessGroup, DeviceMesh of one axis, str or tuple of str, optional
        The group whose members hold the classes of one loss, each of them some, in their order
        and as many as it likes: of torch a process group or a mesh of one axis, of JAX mesh axes
        by name, inside `jax.shard_map`. Logits, class weights and dense labels are then those of
        this member's classes; class ids are ids of all classes, and with sample weights the same
        on each member. So is the loss; C is the number of all classes.

    Returns
    -------
    array, shape (...) if `reduction` is "none", else ()
        Of the logits' library and on their device; float32 for half-precision logits, else of
        their dtype.

    Raises
    ------
    ShapeError
        If the shapes do not fit together; `AmbiguousAxisError` if the class axis is not certain.
    DTypeError
        If logits are not floating, index labels not integer, or weights not real.
    BackendError
        If an argument is of a library, kind or device that the logits cannot be combined with.
    OptionError
        If an option is out of its range; `ArgumentError`, a `TypeError` too, if an argument is not
        one of these.
    LabelError
        If class ids are out of range and not dropped, where `check` lets them be seen; under
        ``check=True`` also if dense labels are negative or not finite.

    Warns
    -----
    SingleClassWarning
        If there is one class only, so that the loss is always 0.
    LossInputWarning
        Of what is legal and probably not meant, where labels may be looked at: several ones in
        a row. Under ``check=True`` also of dense label rows that do not sum to 1, of logits that
        look like the output of a softmax, and of labels that are all ignored.

    See Also
    --------
    cross_entropy_with_grad : The gradient as well, also without autodiff.
    explain : How a call is understood, or what is wrong with it.

    Notes
    -----
    Where class ids cannot be seen (under a tracing compiler, on an accelerator, in a lazy array),
    the loss and the gradient of an example with a wrong one are NaN.

    A dropped example (`ignore_index`, sample weight 0 or False, a label row of nothing but zeros,
    or zero class weights wherever it is not) costs exactly 0, and so does its gradient, whatever
    its logits hold. The mean over no example is 0. A probability of 0 times a logit of -inf is 0.

    With `class_group` two all-reduces move at most 6 numbers a row, and the gradient moves nothing.
    Class ids are not looked at: the loss of a wrong one is NaN.

    `torch.nn.functional.cross_entropy` averages weighted dense labels over the number of
    examples; here index and one-hot labels mean the same.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
       section 7 (label smoothing).
    .. [2] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, section 5
       (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import cross_entropy
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> print(f"{cross_entropy(logits, np.array([0, 0])):.4f}")
    1.4076
    >>> print(cross_entropy(logits, np.array([0, -100]), reduction="none").round(4))
    [0.4076 0.    ]
    >>> print(f"{cross_entropy(logits, np.array([[1, 0, 0], [0.5, 0, 0.5]])):.4f}")
    0.9076
    """
    if logits is ...:
        logits = foreign.pop("logits", ...)
    if labels is ...:
        labels = foreign.pop("labels", ...)
    if logits is ... or labels is ... or extra or foreign:
        raise words.refused(cross_entropy.__name__, _DEFAULTS, extra, foreign)
    arrays = Operands(logits, labels, class_weight, sample_weight, normalizer)
    options = Options(axis, ignore_index, label_smoothing, z_loss, reduction, check, class_group)
    return run("loss", arrays, options)


@overload
def cross_entropy_with_grad(
    logits: "npt.NDArray[Any]",
    labels: Any,
    *,
    reduction: Average = "mean",
    **options: Unpack[Given],
) -> "tuple[np.floating[Any], npt.NDArray[Any]]": ...


@overload
def cross_entropy_with_grad(
    logits: ArrayT, labels: Any, *, reduction: Reduction = "mean", **options: Unpack[Given]
) -> tuple[ArrayT, ArrayT]: ...


def cross_entropy_with_grad(
    logits: Any = ...,
    labels: Any = ...,
    *extra: Never,
    axis: int | None = None,
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
    r"""Softmax cross-entropy, in nats, and its gradient with respect to the logits.

    The gradient of one example is
    :math:`(\sum_c w_c t'_c)\, p - w \odot t'` in the notation of `cross_entropy`. No autodiff is
    needed for it, so NumPy has it as well.

    On NumPy, large problems run in threads: as many as the environment variable
    ``UNIFIED_LOSS_NUM_THREADS`` says, else ``OMP_NUM_THREADS``, else as there are cores. Their
    number changes no bit of the result.

    Parameters
    ----------
    logits, labels
        As in `cross_entropy`.
    axis, class_weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    z_loss, reduction, normalizer, check, class_group
        As in `cross_entropy`.

    Returns
    -------
    loss : array, shape (...) if `reduction` is "none", else ()
        What `cross_entropy` returns.
    gradient : array, shape of `logits`
        Of the logits' library, device and dtype. With ``reduction="none"``, the gradient of the
        summed losses.

    Raises
    ------
    LossInputError
        As in `cross_entropy`.

    See Also
    --------
    cross_entropy : The loss alone, and all about the arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import cross_entropy_with_grad
    >>> loss, gradient = cross_entropy_with_grad(np.zeros((1, 4)), np.array([2]))
    >>> print(gradient)
    [[ 0.25  0.25 -0.75  0.25]]
    """
    if logits is ...:
        logits = foreign.pop("logits", ...)
    if labels is ...:
        labels = foreign.pop("labels", ...)
    if logits is ... or labels is ... or extra or foreign:
        raise words.refused(cross_entropy_with_grad.__name__, _DEFAULTS, extra, foreign)
    arrays = Operands(logits, labels, class_weight, sample_weight, normalizer)
    options = Options(axis, ignore_index, label_smoothing, z_loss, reduction, check, class_group)
    return run("loss_and_gradient", arrays, options)


def kernel_of(logits: Any, labels: Any, **given: Any) -> str:
    """The name of the kernel that serves a call of `cross_entropy`."""
    given = {**_DEFAULTS, **given}
    names = [name for name in Operands._fields if name in given]
    arrays = Operands(logits, labels, **{name: given.pop(name) for name in names})
    kernel: str = _prepare()(backend_of(logits), arrays, Options(**given)).route.name
    return kernel


def run(entry: str, arrays: Operands, options: Options) -> Any:
    """What the backend's function `entry` returns for a call, after all that can be checked."""
    try:
        backend = backend_of(arrays.logits)
    except LossInputError as error:
        raise folded(error) from error.__cause__
    in_graph = backend.in_graph()
    if in_graph is not None:  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
        return in_graph(entry, arrays, options)
    try:
        return _run_here(backend, entry, arrays, options)
    except LossInputError as error:
        raise folded(error) from error.__cause__


def _run_here(backend: Backend, entry: str, arrays: Operands, options: Options) -> Any:
    """The same where no compiler interprets Python, which would read each line for nothing."""
    _, plan, operands, _ = _prepare()(backend, arrays, options, looks=entry != "loss")
    try:
        return getattr(backend, entry)(plan, operands)
    except WrongIds:
        pass
    _, plan, operands, _ = _prepare()(backend, arrays, options)
    return getattr(backend, entry)(plan, operands)


def folded(error: LossInputError) -> LossInputError:
    """The error without the way to it, which tells nothing of the caller's mistake."""
    return error.with_traceback(None)


@cache
def _prepare() -> Any:
    from unified_loss._call import prepare  # by the first call, since it imports NumPy

    return prepare


for _function in (cross_entropy, cross_entropy_with_grad):
    words.public(words.by_place(_function, 2))

_DEFAULTS: dict[str, Any] = cross_entropy.__kwdefaults__ or {}
