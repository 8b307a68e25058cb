"""The loss in the form that a framework's own tools expect: one module for each of them.

Each module imports the framework that its losses run on, so none of them is imported here. All
the arithmetic and every check is that of `unified_loss.cross_entropy`.
"""

from typing import Any

from unified_loss import _names as names


def __getattr__(name: str) -> Any:
    """A loss, from the module that it lives in, which imports its framework."""
    return names.attribute(__name__, name, names.LOSSES)
