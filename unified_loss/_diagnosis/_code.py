"""How each library writes the operations of a fix."""

import re
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


def _functions(module: str, **others: Render) -> Dialect:
    """A library whose operations are functions of a module, with the names of the array API."""
    return {
        "argmax": lambda x, axis: f"{module}.argmax({x}, axis={axis})",
        "cast": lambda x, dtype: f"{module}.astype({x}, {module}.{dtype})",
        "reshape": lambda x, shape: f"{module}.reshape({x}, {_sizes(shape)})",
        "squeeze": lambda x, axis: f"{module}.squeeze({x}, axis={axis})",
        "insert": lambda x, axis: f"{module}.expand_dims({x}, axis={axis})",
        "permute": lambda x, order: f"{module}.transpose({x}, {order})",
        "mean": lambda x, axes: f"{module}.mean({x}, axis={_one_or_all(axes)})",
        "broadcast": lambda x, shape: f"{module}.broadcast_to({x}, {_sizes(shape)})",
        "exp": lambda x, _: f"{module}.exp({x})",
        "one_hot": lambda x, classes: (
            f"{module}.astype({x}[..., None] == {module}.arange({classes}), {module}.float32)"
        ),
        "cut": lambda x, value: f"{x}[{_slice(value)}]",
        "pick": lambda x, value: f"{x}[{_index(*value)}]",
        "stride": lambda x, value: f"{x}[{_strides(value)}]",
        "subtract": lambda x, n: f"({x} - {n})" if n > 0 else f"({x} + {-n})",
        "divide": lambda x, n: f"({x} // {n})",
        **others,
    }


def _one_or_all(axes: tuple[int, ...]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(axes)


def _sizes(shape: tuple[Any, ...]) -> str:
    return str(tuple(size if isinstance(size, int) else -1 for size in shape))


def _strides(value: tuple[tuple[int, int], ...]) -> str:
    steps = dict(value)
    return ", ".join(f"::{steps[i]}" if i in steps else ":" for i in range(max(steps) + 1))


def _listed(text: str) -> str:
    return text.strip("(),") or text


def _of_array(render: Render) -> Render:
    """A list has neither arithmetic nor axes."""
    return lambda x, value: render(f"np.asarray({x})", value)


NUMPY = _functions(
    "np",
    cast=lambda x, dtype: f"np.asarray({x}, np.{dtype})",
    one_hot=lambda x, classes: f"np.eye({classes}, dtype=np.float32)[{x}]",
)
DIALECTS: dict[str, Dialect] = {
    "numpy": NUMPY,
    "python": {
        **NUMPY,
        **{
            name: _of_array(NUMPY[name]) for name in ("cut", "pick", "stride", "subtract", "divide")
        },
    },
    "torch": _functions(
        "torch",
        argmax=lambda x, axis: f"{x}.argmax(dim={axis})",
        cast=lambda x, dtype: f"{x}.{ {'int64': 'long()'}.get(dtype, f'to(torch.{dtype})') }",
        reshape=lambda x, shape: f"{x}.reshape({_listed(_sizes(shape))})",
        squeeze=lambda x, axis: f"{x}.squeeze({axis})",
        insert=lambda x, axis: f"{x}.unsqueeze({axis})",
        permute=lambda x, order: f"{x}.permute({_listed(str(order))})",
        mean=lambda x, axes: f"{x}.mean(dim={_one_or_all(axes)})",
        broadcast=lambda x, shape: f"{x}.expand({_listed(_sizes(shape))})",
        exp=lambda x, _: f"{x}.exp()",
        one_hot=lambda x, classes: f"F.one_hot({x}, {classes})",
        resize=lambda x, value: f"F.interpolate({x}, size={value[1]})",
    ),
    "tensorflow": _functions(
        "tf",
        cast=lambda x, dtype: f"tf.cast({x}, tf.{dtype})",
        mean=lambda x, axes: f"tf.reduce_mean({x}, axis={_one_or_all(axes)})",
        one_hot=lambda x, classes: f"tf.one_hot({x}, {classes})",
    ),
    "jax": _functions(
        "jnp",
        cast=lambda x, dtype: f"{x}.astype(jnp.{ {'int64': 'int32'}.get(dtype, dtype) })",
        one_hot=lambda x, classes: f"jax.nn.one_hot({x}, {classes})",
        resize=lambda x, value: f'jax.image.resize({x}, {value[2]}, "nearest")',
    ),
    "dask": _functions(
        "da",
        cast=lambda x, dtype: f'{x}.astype("{dtype}")',
        one_hot=lambda x, classes: f'({x}[..., None] == da.arange({classes})).astype("float32")',
    ),
    "mlx": _functions(
        "mx",
        cast=lambda x, dtype: f"{x}.astype(mx.{dtype})",
        one_hot=lambda x, classes: f"mx.eye({classes})[{x}]",
    ),
}
STANDARD = _functions(
    "xp",
    permute=lambda x, order: f"xp.permute_dims({x}, {order})",
    # The standard wants an index for each axis.
    pick=lambda x, value: f"{x}[{_index(*value)}, ...]",
    cut=lambda x, value: f"{x}[{_slice(value)}, ...]",
    stride=lambda x, value: f"{x}[{_strides(value)}, ...]",
)
ALIASES = {
    "np": "numpy",
    "torch": "torch",
    "F": "torch.nn.functional",
    "tf": "tensorflow",
    "jnp": "jax.numpy",
    "jax": "jax",
    "da": "dask.array",
    "mx": "mlx.core",
}


def expression(library: str, name: str, operations: tuple[tuple[str, Any], ...]) -> str | None:
    """Code for operations on the argument `name`, one after the other; None: it has no such."""
    dialect = DIALECTS.get(library, STANDARD)
    code = name
    for operation, value in operations:
        if operation not in dialect:
            return None
        code = dialect[operation](code, value)
    ends_in_arithmetic = bool(operations) and operations[-1][0] in {"subtract", "divide"}
    return code[1:-1] if ends_in_arithmetic else code


def aliases(code: str) -> dict[str, str]:
    """The modules that the code names, by their usual names."""
    return {name: ALIASES[name] for name in re.findall(r"\b(\w+)\.", code) if name in ALIASES}
