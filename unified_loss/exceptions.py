"""What the library raises and warns: one family, rooted in `LossInputError`.

AutoGraph keeps an exception's type only if its ``__init__`` is that of `Exception`, which
`ValueError` overrides. So details are attributes, set by `with_details`, or told by the text that
the error was made with; they survive pickling.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from unified_loss._diagnosis import Fix, Reading


def _cause(told: BaseException) -> str | None:
    """What the text says that went wrong."""
    return getattr(_text(told), "cause", None)


def _fixes(told: BaseException) -> "tuple[Fix, ...]":
    """What the text offers."""
    offers = getattr(_text(told), "offers", ())
    if not offers:
        return ()
    from unified_loss._diagnosis import Fix

    return tuple(Fix(*offer) for offer in offers)


def _text(told: BaseException) -> Any:
    """The text as it was made, which may be a `Told`."""
    return told.args[0] if told.args else ""


class LossInputError(ValueError):
    """The arguments of a loss do not fit together; every error of the library derives from it.

    Attributes
    ----------
    cause : str or None
        A short tag of what most likely went wrong; ``docs/errors.md`` lists them.
    fixes : tuple of Fix
        What would mend the call, each with `text`, `code` and its `kind`: "same meaning",
        "conditional" or "elsewhere".
    readings : tuple of Reading
        All readings of the mistake that are shown, the best first: tag, sentence and fixes.
    """

    cause = cached_property(_cause)
    fixes = cached_property(_fixes)
    readings: "tuple[Reading, ...]" = ()
    if not TYPE_CHECKING:  # pragma: no branch (a type checker would take the class for `Any`)
        __init__ = Exception.__init__

    def with_details(self, **details: Any) -> Self:
        """Set `details` as attributes and return the error, ready to raise."""
        self.__dict__.update(details)
        return self


class ShapeError(LossInputError):
    """Shapes do not fit.

    Attributes
    ----------
    logits_shape, labels_shape : tuple
        The shapes as the caller passed them.
    axis : int or None
        The axis of the logits that was taken as the class axis, None if none could be.
    """

    logits_shape: tuple[Any, ...] | None = None
    labels_shape: tuple[Any, ...] | None = None
    axis: int | None = None


class AmbiguousAxisError(ShapeError):
    """More than one axis of the logits could hold the classes; `axis=` decides."""


class DTypeError(LossInputError, TypeError):
    """An array has a data type that cannot play its role."""


class BackendError(LossInputError, TypeError):
    """An array is of a library, kind or device that cannot be combined with the logits."""


class OptionError(LossInputError):
    """An option has a value outside its range."""


class ArgumentError(OptionError, TypeError):
    """An argument has a name or a place that is not known, or one is missing.

    Most often the word is another library's; the message names the one to take.
    """


class LabelError(LossInputError):
    """Label values are not class ids, or not probabilities.

    Attributes
    ----------
    count : int
        How many labels are wrong.
    first : tuple of int
        The position of the first one.
    smallest, largest
        The smallest and the largest value among all labels that were checked.
    """

    count: int | None = None
    first: tuple[int, ...] | None = None
    smallest: Any = None
    largest: Any = None


class LossInputWarning(UserWarning):
    """The inputs are legal, and probably not what was meant.

    Attributes
    ----------
    cause, fixes
        As those of `LossInputError`.
    """

    cause = cached_property(_cause)
    fixes = cached_property(_fixes)


class SingleClassWarning(LossInputWarning):
    """The class axis has size 1, so the loss of its class is always 0: a binary loss is meant."""

    cause = "single_output_unit_with_categorical_loss"
