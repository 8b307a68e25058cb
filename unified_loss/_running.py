"""Totals over many batches, without a rounding error, and without waiting."""

import operator
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Never

from unified_loss import _columns as columns
from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _words as words
from unified_loss._cross_entropy import run
from unified_loss._dispatch import backend_of
from unified_loss._exact import Evaluation, ExactTotals
from unified_loss._linear_cross_entropy import ARRAYS as LINEAR_ARRAYS
from unified_loss._linear_cross_entropy import run as run_linear
from unified_loss._totals import Totals, start
from unified_loss._types import Head, Operands, Options, Spec
from unified_loss.exceptions import ArgumentError, BackendError, OptionError
from unified_loss.integrations._options import plan_of_options

if TYPE_CHECKING:
    from unified_loss._backend import Backend

# Results on their way to the host. From FEW on, those that have arrived are added to the sums; of
# a library that cannot tell, those before the last MANY, which have arrived long since.
FEW = 64
MANY = 1024

# What other libraries call what there is here.
ELSEWHERE = {
    **dict.fromkeys(("result", "value", "get", "item"), "compute()"),
    **dict.fromkeys(Evaluation._fields, "an attribute of what compute() returns"),
    **dict.fromkeys(("forward", "update_state", "add", "add_batch"), "update(logits, labels)"),
    **dict.fromkeys(("reset_state", "reset_states"), "reset()"),
}


class RunningCrossEntropy:
    """The loss, perplexity and accuracy of data that come in batches, as if they came at once.

    What is held are the sums of `Totals` over all batches, exactly: no digit depends on the order
    of updates and merges, or on which process saw what. Counts are integers without bounds.

    Parameters
    ----------
    axis, class_weight, ignore_index, label_smoothing
        As in `cross_entropy`, for all updates.
    z_loss, check
        As in `cross_entropy`, for all updates.

    Raises
    ------
    LossInputError
        If an option is out of its range, or not known.

    See Also
    --------
    cross_entropy_totals : The sums of one batch, also inside a program that is traced.

    Notes
    -----
    `update` computes on the device of the logits and does not wait for it; numbers are fetched
    when they have arrived, and all of them by `compute` and by pickling. Dask computes then.
    Each update's totals are rounded as those of one call are, in the dtype that it computes in;
    all that is done with them later is rounded once, at the end.

    One object is for one thread. Others have their own, and `merge` brings them together.

    Examples
    --------
    >>> import numpy as np
    >>> from unified_loss import RunningCrossEntropy
    >>> running = RunningCrossEntropy()
    >>> running.update(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), np.array([0, 1]))
    >>> running.update(np.array([[0.0, 0.0, 3.0]]), np.array([2]))
    >>> running.compute().count
    3
    >>> print(f"{running.compute().loss:.4f}, {running.compute().accuracy:.4f}")
    0.6366, 0.6667

    Results of another process, or of a program that was traced, join by `merge`:

    >>> other = RunningCrossEntropy()
    >>> other.update(np.array([[1.0, 0.0, 0.0]]), np.array([2]))
    >>> running.merge(other)
    >>> running.compute().count
    4
    """

    def __init__(
        self,
        *extra: Never,
        axis: int | None = None,
        class_weight: Any = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0,
        z_loss: float = 0,
        check: Literal["auto"] | bool = "auto",
        **foreign: Never,
    ) -> None:
        if extra or foreign:
            name = type(self).__name__
            each = words.written(f"{name}().update(logits, labels, ", ["sample_weight"])
            made = f"{name}().update(logits, labels)"
            raise words.refused(name, _OPTIONS, extra, foreign, {}, each, made)
        class_weight, spec = _held(class_weight)
        plan = plan_of_options(
            axis=axis,
            class_weight=spec,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction="sum",
            check=check,
        )
        self._class_weight = class_weight
        self._options = Options(
            None if axis is None else operator.index(axis),
            None if ignore_index is None else operator.index(ignore_index),
            plan.label_smoothing,
            plan.z_loss,
            "sum",
            plan.check,
        )
        self._pending: deque[tuple[Backend, Any]] = deque()
        self.reset()

    words.plain(__init__)

    def update(
        self,
        logits: Any = ...,
        labels: Any = ...,
        *extra: Never,
        sample_weight: Any = None,
        **foreign: Never,
    ) -> None:
        """Add the examples of a batch, without waiting for an accelerator.

        Parameters
        ----------
        logits : array, shape (..., C), floating
            As in `cross_entropy`. Another library, device or number of classes than before is
            fine. Nothing of them is kept, and no autodiff looks.
        labels : array, shape (...) integer, or shape (..., C) boolean, integer or floating
            As in `cross_entropy`.
        sample_weight : array, shape (...) or (N,), real or boolean, optional
            A weight for each example. Boolean: a mask, False drops the example.

        Raises
        ------
        LossInputError
            As in `cross_entropy`; the sums are then those of before.
        BackendError
            If there are no values yet, as while tracing: there, take `cross_entropy_totals`, and
            `merge` what the program returns.
        """
        if logits is ...:
            logits = foreign.pop("logits", ...)
        if labels is ...:
            labels = foreign.pop("labels", ...)
        if logits is ... or labels is ... or extra or foreign:
            options = RunningCrossEntropy.update.__kwdefaults__ or {}
            made = words.written(f"{type(self).__name__}(", _OPTIONS)
            name = self.update.__name__
            raise words.refused(name, options, extra, foreign, elsewhere=made)
        arrays = Operands(logits, labels, self._class_weight, sample_weight, None)
        self._take(logits, run("deliver", arrays, self._options), "cross_entropy_totals")

    words.plain(words.by_place(update, 3))

    def update_linear(
        self,
        hidden: Any = ...,
        weight: Any = ...,
        labels: Any = ...,
        *extra: Never,
        bias: Any = None,
        softcap: float | None = None,
        sample_weight: Any = None,
        **foreign: Never,
    ) -> None:
        """Add the examples of a batch without their logits, and without waiting.

        Parameters
        ----------
        hidden, weight, labels
            As in `linear_cross_entropy`; the option `axis` has no part in it.
        bias, softcap
            As in `linear_cross_entropy`.
        sample_weight : array, shape (...) or (N,), real or boolean, optional
            As in `update`.

        Raises
        ------
        LossInputError
            As in `linear_cross_entropy`; the sums are then those of before.
        BackendError
            If there are no values yet, as while tracing: there, take
            `linear_cross_entropy_totals`, and `merge` what the program returns.

        Examples
        --------
        >>> import numpy as np
        >>> from unified_loss import RunningCrossEntropy
        >>> running = RunningCrossEntropy()
        >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> running.update_linear(np.array([[1.0, 0.0], [0.0, 2.0]]), weight, np.array([0, 1]))
        >>> print(f"{running.compute().perplexity:.4f}")
        1.3820
        """
        if hidden is ... or weight is ... or labels is ...:
            hidden, weight, labels = words.by_name(
                foreign, hidden=hidden, weight=weight, labels=labels
            )
        if hidden is ... or weight is ... or labels is ... or extra or foreign:
            options = RunningCrossEntropy.update_linear.__kwdefaults__ or {}
            name = self.update_linear.__name__
            made = words.written(f"{type(self).__name__}(", _OPTIONS)
            raise words.refused(name, options, extra, foreign, LINEAR_ARRAYS, made)
        head = Head(hidden, weight, bias)
        arrays = Operands(None, labels, self._class_weight, sample_weight, None)
        sent = run_linear("linear_deliver", head, arrays, self._options, softcap)
        self._take(hidden, sent, "linear_cross_entropy_totals")

    words.plain(words.by_place(update_linear, 4))

    def merge(self, other: "RunningCrossEntropy | Totals") -> None:
        """Add what another one has seen, or the totals of a program; `other` stays as it is.

        Parameters
        ----------
        other : RunningCrossEntropy or Totals
            One with the same options, but for `axis` and `check`; or sums, as numbers or 0-d
            arrays of any library, which are not waited for.

        Raises
        ------
        OptionError
            If the other one has other options, so that the sums mean something else;
            `ArgumentError` if it is neither of the two.
        BackendError
            If arrays have no values yet, as while tracing.
        ShapeError
            If arrays have axes.
        """
        if isinstance(other, Totals):
            self._keep(*start(other))
        elif isinstance(other, RunningCrossEntropy):
            seen, pending = other._seen, other._pending  # noqa: SLF001 (of this class)
            self._refuse_other_options(other)
            self._seen.merge(seen)
            self._pending.extend(list(pending))
        else:
            text = "merge takes a RunningCrossEntropy or Totals"
            raise ArgumentError(messages.not_totals(text, other))

    def compute(self) -> Evaluation:
        """Return the values over all that was seen, which may wait for an accelerator.

        Returns
        -------
        Evaluation
            Loss, perplexity, accuracy, confidence, count and mass. Of nothing, the loss is 0, the
            perplexity 1, and accuracy and confidence are NaN.
        """
        self._fetch(everything=True)
        return self._seen.evaluation()

    def reset(self) -> None:
        """Forget all that was seen; the options stay."""
        self._pending.clear()
        self._seen = ExactTotals()

    def __getattr__(self, name: str) -> Never:
        """Tell what there is in place of a word of another library."""
        told = ELSEWHERE.get(name)
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        text = text if told is None else f"{text}: here it is {told}"
        raise AttributeError(text, name=name, obj=self)

    def __repr__(self) -> str:
        """Show the options that are not the defaults."""
        weight = self._class_weight
        shown = [] if weight is None else [f"class_weight=({len(weight)} classes)"]
        for name, default in _OPTIONS.items():
            value = getattr(self._options, name, default)
            shown += [] if value == default else [f"{name}={value!r}"]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """Numbers of the host alone, which any process can read."""
        self._fetch(everything=True)
        return {**vars(self), "_class_weight": _on_host(self._class_weight)}

    def _take(self, first: Any, sent: Any, traced: str) -> None:
        """Keep what a backend delivered for a call, whose first argument tells which it is.

        `traced` is the function that a traced program has in its place.
        """
        if sent is None:
            raise BackendError(messages.no_values_yet(traced))
        self._keep(None if isinstance(sent, list) else backend_of(first), sent)

    def _keep(self, backend: "Backend | None", sent: Any) -> None:
        """Take numbers, or what the backend receives later."""
        if backend is None:
            self._seen.add(sent)
            return
        self._pending.append((backend, sent))
        if len(self._pending) >= FEW:
            self._fetch()

    def _fetch(self, *, everything: bool = False) -> None:
        """Add up what has arrived; or everything, which may have to be waited for."""
        pending, arrived = self._pending, []
        for older, (backend, sent) in enumerate(pending):
            is_there = everything or backend.has_arrived(sent)
            if not is_there and (is_there is False or len(pending) - older <= MANY):
                break
            arrived.append((backend, sent))
        received: list[list[float]] = []
        for backend, group in groupby(arrived, operator.itemgetter(0)):
            received += backend.receive([sent for _, sent in group])
        for numbers in received:  # nothing is lost if one could not be had
            pending.popleft()
            self._seen.add(numbers)

    def _refuse_other_options(self, other: "RunningCrossEntropy") -> None:
        options, class_weight = other._options, other._class_weight  # noqa: SLF001 (of this class)
        for name in ("ignore_index", "label_smoothing", "z_loss"):
            mine, theirs = getattr(self._options, name), getattr(options, name)
            if mine != theirs:
                raise OptionError(messages.other_options(name, mine, theirs))
        mine = self._class_weight
        if mine is not class_weight and not _are_equal(_on_host(mine), _on_host(class_weight)):
            raise OptionError(messages.other_options("class_weight", mine, class_weight))


_OPTIONS: dict[str, Any] = RunningCrossEntropy.__init__.__kwdefaults__ or {}


def _held(class_weight: Any) -> tuple[Any, Spec | None]:
    """Class weights as they are kept, and what the rules may know of those of the host."""
    if class_weight is None:
        return None, None
    value = columns.as_host(class_weight, "class_weight")
    if not host.is_host_data(value):  # of a library: each update looks at them
        return class_weight, None
    array = host.as_numpy(value, "class_weight")
    return array.copy(), host.spec(value, array)


def _on_host(class_weight: Any) -> Any:
    if class_weight is None or host.is_host_data(class_weight):
        return class_weight
    values = backend_of(class_weight).read(class_weight, wait=True)
    return host.as_numpy(class_weight, "class_weight") if values is None else values  # of Dask


def _are_equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one.shape == other.shape and (one == other).all())
