"""The cross-entropy loss: one call, the same meaning for every array library."""

from unified_loss._cross_entropy import cross_entropy, cross_entropy_with_grad
from unified_loss._explain import explain
from unified_loss._version import __version__
from unified_loss.exceptions import (
    AmbiguousAxisError,
    ArgumentError,
    BackendError,
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    SingleClassWarning,
)

__all__ = [
    "AmbiguousAxisError",
    "ArgumentError",
    "BackendError",
    "DTypeError",
    "LabelError",
    "LossInputError",
    "LossInputWarning",
    "OptionError",
    "ShapeError",
    "SingleClassWarning",
    "__version__",
    "cross_entropy",
    "cross_entropy_with_grad",
    "explain",
]
