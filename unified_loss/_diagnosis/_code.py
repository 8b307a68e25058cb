"""The code of a fix, as people of the library write it."""

import re
from typing import Any

from unified_loss import _libraries as libraries
from unified_loss._libraries._dialect import PYTHON


def expression(library: str, name: str, operations: tuple[tuple[str, Any], ...]) -> str | None:
    """Code for operations on the argument `name`, one after the other; None: it has no such."""
    dialect = PYTHON if library == "python" else libraries.named(library).dialect
    code = name
    for operation, value in operations:
        if operation not in dialect:
            return None
        code = dialect[operation](code, value)
    ends_in_arithmetic = bool(operations) and operations[-1][0] in {"subtract", "divide"}
    return code[1:-1] if ends_in_arithmetic else code


def aliases(code: str) -> dict[str, str]:
    """The modules that the code names, by their usual names."""
    known: dict[str, str] = {}
    for library in map(libraries.named, libraries.known_names()):
        known |= library.aliases
    return {name: known[name] for name in re.findall(r"\b(\w+)\.", code) if name in known}
