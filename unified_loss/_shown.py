"""How shapes, sizes, values and arrays are written."""

import reprlib
from numbers import Number
from typing import Any

from unified_loss._types import Shape, Size, Spec


def shown(shape: Shape | None) -> str:
    """A shape as people write it; unknown sizes are question marks."""
    if shape is None:
        return "(unknown rank)"
    sizes = [shown_size(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def shown_size(size: Size) -> str:
    """A size as people write it; `str` breaks the graph of torch.compile where it is symbolic."""
    if isinstance(size, int):
        return shown_integer(size)
    if size is None:
        return "?"
    seen = getattr(getattr(size, "node", None), "hint", None)  # of a symbol of torch the number
    return f"{size}" if seen is None else f"{seen}"


def shown_value(value: Any) -> str:
    """The value of an option, cut short; of an array the kind alone."""
    try:
        if value is None or isinstance(value, bool | float | str):
            return repr(value)
        if isinstance(value, int):
            return shown_integer(value)
        if isinstance(value, Number) or not hasattr(value, "shape"):
            return reprlib.repr(value)
    except Exception:  # noqa: BLE001, S110 - what an object's own methods raise
        pass
    return f"a {name_of(type(value))}"


def name_of(kind: type) -> str:
    """The whole name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def shown_integer(value: int) -> str:
    """An integer; Python refuses to print very long ones."""
    return str(value) if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"


def described(spec: Spec) -> str:
    """Library, dtype and shape, as in ``torch float32[8, 10]``."""
    inner = "..." if spec.shape is None else shown(spec.shape).strip("(),")
    return f"{spec.library} {shown_dtype(spec.dtype)}[{inner}]"


def shown_dtype(dtype: str) -> str:
    """A dtype as people name it; NumPy counts the bits of text."""
    kind = dtype.rstrip("0123456789")
    return kind if kind in {"str", "bytes"} else dtype
