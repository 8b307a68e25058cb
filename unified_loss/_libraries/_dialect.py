"""How libraries write the operations of a fix; their own words are in their files."""

from collections.abc import Callable
from typing import Any

Render = Callable[[str, Any], str]
Dialect = dict[str, Render]


def _index(axis: int, entry: object) -> str:
    return ", ".join([":"] * axis + [str(entry)])


def _slice(value: tuple[int, int | None, int | None]) -> str:
    axis, start, stop = value
    ends = ("" if end is None else str(end) for end in (start, stop))
    return _index(axis, ":".join(ends))


def functions(module: str, **others: Render) -> Dialect:
    """A library whose operations are functions of a module, with the names of the array API."""
    dialect: Dialect = {
        "argmax": lambda x, axis: f"{module}.argmax({x}, axis={axis})",
        "cast": lambda x, dtype: f"{module}.astype({x}, {module}.{dtype})",
        "reshape": lambda x, shape: f"{module}.reshape({x}, {sizes(shape)})",
        "squeeze": lambda x, axis: f"{module}.squeeze({x}, axis={axis})",
        "insert": lambda x, axis: f"{module}.expand_dims({x}, axis={axis})",
        "permute": lambda x, order: f"{module}.transpose({x}, {order})",
        "transpose": lambda x, _: f"{x}.T",
        "pad": lambda x, value: (
            f"{module}.pad({x}, {_pairs(value[0])}, constant_values={value[1]})"
        ),
        "pair": paired(module),
        "mean": lambda x, axes: f"{module}.mean({x}, axis={one_or_all(axes)})",
        "broadcast": lambda x, shape: f"{module}.broadcast_to({x}, {sizes(shape)})",
        "exp": lambda x, _: f"{module}.exp({x})",
        "one_hot": lambda x, classes: (
            f"{module}.astype({x}[..., None] == {module}.arange({classes}), {module}.float32)"
        ),
        "cut": lambda x, value: f"{x}[{_slice(value)}]",
        "pick": lambda x, value: f"{x}[{_index(*value)}]",
        "stride": lambda x, value: f"{x}[{_strides(value)}]",
        "subtract": lambda x, n: f"({x} - {n})" if n > 0 else f"({x} + {-n})",
        "divide": lambda x, n: f"({x} // {n})",
        "stack": lambda x, is_flat: f"{module}.stack({x})" if is_flat else "",
        "fill": lambda x, n: dialect["cast"](
            f"{module}.where({module}.isnan({x}), {n}, {x})", "int64"
        ),
        **others,
    }
    return dialect


def paired(module: str, concatenate: str = "concatenate", axis: str = "axis") -> Render:
    """Zeros and numbers, side by side: along an axis of size 1, or a new one behind all others."""

    def render(x: str, place: int | None) -> str:
        join, place = ("stack", -1) if place is None else (concatenate, place)
        return f"{module}.{join}([{module}.zeros_like({x}), {x}], {axis}={place})"

    return render


def _pairs(ndim: int) -> str:
    """One entry more at the end of the last axis."""
    return str([[0, 0]] * (ndim - 1) + [[0, 1]])


def one_or_all(axes: tuple[int, ...]) -> str:
    """One axis as a number, several as a tuple."""
    return str(axes[0]) if len(axes) == 1 else str(axes)


def sizes(shape: tuple[Any, ...]) -> str:
    """A shape, -1 for a size that is not known."""
    return str(tuple(size if isinstance(size, int) else -1 for size in shape))


def _strides(value: tuple[tuple[int, int], ...]) -> str:
    steps = dict(value)
    return ", ".join(f"::{steps[i]}" if i in steps else ":" for i in range(max(steps) + 1))


def listed(text: str) -> str:
    """The entries of a tuple as arguments."""
    return text.strip("(),") or text


def _of_array(render: Render) -> Render:
    """A list has neither arithmetic nor axes."""
    return lambda x, value: render(f"np.asarray({x})", value)


def _numbered(x: str, mark: int | None) -> str:
    """The ids of names; with a mark on one axis, some of which are missing: None, NaN."""
    if mark is None:
        return f"np.unique({x}, return_inverse=True)[1]"
    # NumPy cannot sort them beside what is missing.
    names = f"sorted(name for name in {{*{x}}} if name is not None and name == name)"
    return f"[*map({{name: i for i, name in enumerate({names})}}.get, {x}, [{mark}] * len({x}))]"


STANDARD = functions(
    "xp",
    pair=paired("xp", "concat"),
    permute=lambda x, order: f"xp.permute_dims({x}, {order})",
    # The standard has no padding, and wants an index for each axis.
    pad=lambda x, value: f"xp.concat([{x}, xp.full_like({x}[..., :1], {value[1]})], axis=-1)",
    pick=lambda x, value: f"{x}[{_index(*value)}, ...]",
    cut=lambda x, value: f"{x}[{_slice(value)}, ...]",
    stride=lambda x, value: f"{x}[{_strides(value)}, ...]",
)
NUMPY = functions(
    "np",
    cast=lambda x, dtype: f"np.asarray({x}, np.{dtype})",
    one_hot=lambda x, classes: f"np.eye({classes}, dtype=np.float32)[{x}]",
    number=_numbered,
)
_OF_ARRAYS = ("cut", "pick", "stride", "subtract", "divide", "transpose")
PYTHON = NUMPY | {name: _of_array(NUMPY[name]) for name in _OF_ARRAYS}
