"""The cross-entropy loss: one call, the same meaning for every array library."""

from typing import TYPE_CHECKING, Any

from unified_loss._cross_entropy import cross_entropy, cross_entropy_with_grad
from unified_loss._exact import Evaluation
from unified_loss._explain import explain
from unified_loss._linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_with_grad,
)
from unified_loss._totals import Totals, cross_entropy_totals, linear_cross_entropy_totals
from unified_loss._types import LinearGradients
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

if TYPE_CHECKING:
    from unified_loss._diagnosis import Fix, Reading
    from unified_loss._explain._report import Report
    from unified_loss._running import RunningCrossEntropy

__all__ = [
    "AmbiguousAxisError",
    "ArgumentError",
    "BackendError",
    "DTypeError",
    "Evaluation",
    "Fix",
    "LabelError",
    "LinearGradients",
    "LossInputError",
    "LossInputWarning",
    "OptionError",
    "Reading",
    "Report",
    "RunningCrossEntropy",
    "ShapeError",
    "SingleClassWarning",
    "Totals",
    "__version__",
    "cross_entropy",
    "cross_entropy_totals",
    "cross_entropy_with_grad",
    "explain",
    "linear_cross_entropy",
    "linear_cross_entropy_totals",
    "linear_cross_entropy_with_grad",
]

# What no call needs until it is asked for.
_HOMES = {
    "Fix": "_diagnosis",
    "Reading": "_diagnosis",
    "Report": "_explain._report",
    "RunningCrossEntropy": "_running",
}


def __getattr__(name: str) -> Any:
    from unified_loss._names import attribute

    return attribute(__name__, name, _HOMES)
