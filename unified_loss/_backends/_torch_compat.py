"""The names that torch came to have after 2.6, and what says the same there.

They are asked for when the backend loads, where a release that is too old is a `BackendError` with
the release to take, and not first by a program that is being compiled.
"""

from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

__all__ = [
    "guard_or_false",
    "guard_or_true",
    "has_static_value",
    "is_compiling",
    "is_exporting",
    "statically_known_true",
]

try:
    from torch.compiler import is_exporting
except ImportError:

    def is_exporting() -> bool:
        """Whether `torch.export` traces, which alone sets the flag in such a release."""
        return torch.compiler._is_compiling_flag  # noqa: SLF001 (see above)


try:
    from torch.fx.experimental.symbolic_shapes import (
        guard_or_false,
        guard_or_true,
        has_static_value,
    )
except ImportError:
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    def has_static_value(_: int | torch.SymInt) -> bool:
        """False: Dynamo can read nothing there that tells, and the axis is found without it."""
        return False

    def guard_or_false(found: Any) -> bool:
        """What is found, under a guard; False where only data can tell."""
        try:
            return bool(found)
        except GuardOnDataDependentSymNode:
            return False

    def guard_or_true(found: Any) -> bool:
        """What is found, under a guard; True where only data can tell."""
        try:
            return bool(found)
        except GuardOnDataDependentSymNode:
            return True


if hasattr(torch.compiler, "_compile_session_context"):  # 2.13 has it, 2.9 has not
    from torch.compiler import is_compiling
else:
    # There exports alone set the flag, and Python that runs on fake tensors for the graph of
    # another compiler would reduce over processes, say, while that is traced.
    from torch._guards import TracingContext

    def is_compiling() -> bool:
        """Whether a compiler asks for a graph, or for the shapes of one."""
        return torch.compiler.is_compiling() or TracingContext.try_get() is not None
