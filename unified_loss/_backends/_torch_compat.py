"""The names that torch came to have last: a release without one is too old.

They are asked for when the backend loads, where that is a `BackendError` with the release to take,
and not first by a program that is being compiled.
"""

from torch.compiler import is_exporting
from torch.fx.experimental.symbolic_shapes import (
    guard_or_false,
    guard_or_true,
    has_static_value,
    statically_known_true,
)

__all__ = [
    "guard_or_false",
    "guard_or_true",
    "has_static_value",
    "is_exporting",
    "statically_known_true",
]
