"""One call as data: arrays on a grid that every floating dtype holds exactly, and options."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LabelKind = Literal["index", "kept", "dense"]
SampleWeight = Literal["full", "first", "mask"]

ARRAY_NAMES = ("logits", "labels", "class_weight", "sample_weight")
DEFAULTS = {
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "reduction": "mean",
    "normalizer": None,
}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Problem:
    """The arguments of one `cross_entropy`; `axis` as passed, `class_axis` as meant."""

    logits: Array
    labels: Array
    class_axis: int
    axis: int | None
    class_weight: Array | None = None
    sample_weight: Array | None = None
    ignore_index: int | None = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    reduction: str = "mean"
    normalizer: float | None = None

    def __repr__(self) -> str:
        """A call that can be pasted."""
        arguments = [pasteable(self.logits), pasteable(self.labels), f"axis={self.axis}"]
        arguments += [
            f"{name}={pasteable(value)}"
            for name in ("class_weight", "sample_weight")
            if (value := getattr(self, name)) is not None
        ]
        arguments += [
            f"{name}={getattr(self, name)!r}"
            for name, default in DEFAULTS.items()
            if getattr(self, name) != default
        ]
        return f"cross_entropy({', '.join(arguments)})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # noqa: FBT001 (IPython's protocol)
        printer.text(repr(self))

    def but(self, **changes: Any) -> "Problem":
        """The same call with some arguments changed."""
        return dataclasses.replace(self, **changes)

    @property
    def arrays(self) -> dict[str, Array]:
        """The array arguments that are given."""
        values = {name: getattr(self, name) for name in ARRAY_NAMES}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """The static arguments."""
        return {name: getattr(self, name) for name in ("axis", *DEFAULTS)}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.logits.shape[self.class_axis]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """B."""
        return without(self.logits.shape, self.class_axis)

    @property
    def has_index_labels(self) -> bool:
        """Whether the labels are class ids (R4)."""
        kept = list(self.logits.shape)
        kept[self.class_axis] = 1
        integer = self.labels.dtype.kind in "iu"
        return integer and self.labels.shape in {self.batch_shape, tuple(kept)}

    @property
    def ids(self) -> Array:
        """Index labels in the batch shape."""
        return self.labels.reshape(self.batch_shape)

    def one_hot(self) -> "Problem":
        """The same call with dense labels; an ignored example gets sample weight 0."""
        rows = self.ids[..., None] == np.arange(self.num_classes)
        keep = np.ones(self.batch_shape, bool)
        if self.ignore_index is not None:
            keep = self.ids != self.ignore_index
        weight = None
        if not keep.all():
            weight = keep if self.sample_weight is None else self.example_weights() * keep
        return self.but(
            labels=np.moveaxis(rows, -1, self.class_axis).astype(np.float32),
            sample_weight=self.sample_weight if weight is None else weight,
            ignore_index=-100,
        )

    def example_weights(self) -> Array:
        """Sample weights in the batch shape."""
        if self.sample_weight is None:
            return np.ones(self.batch_shape)
        missing = len(self.batch_shape) - self.sample_weight.ndim
        weights = self.sample_weight.reshape(self.sample_weight.shape + (1,) * missing)
        return np.broadcast_to(weights, self.batch_shape)


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """`shape` without one axis."""
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def pasteable(array: Array) -> str:
    """Code that makes `array`."""
    values = repr(array.tolist()).replace("inf", "np.inf").replace("nan", "np.nan")
    code = f"np.array({values}, {array.dtype.name!r})"
    return code if array.size else f"{code}.reshape({array.shape})"


def on_grid(values: Array, step: float = 1 / 8, limit: float = 15.875) -> Array:
    """Round to multiples of `step` that bfloat16, with its 8 bits, holds exactly."""
    return np.clip(np.round(values / step) * step, -limit, limit).astype(np.float32)


def sample(
    rng: np.random.Generator,
    kind: LabelKind = "index",
    *,
    batch: tuple[int, ...] = (6,),
    classes: int = 5,
    class_axis: int = -1,
    class_weight: bool = False,
    sample_weight: SampleWeight | None = None,
    ignored: int = 0,
    **options: Any,
) -> Problem:
    """A random problem; `class_axis` is passed as `axis`."""
    ndim = len(batch) + 1
    rows = on_grid(3 * rng.standard_normal((*batch, classes)))
    logits = np.ascontiguousarray(np.moveaxis(rows, -1, class_axis))
    if kind == "dense":
        raw = on_grid(rng.random((*batch, classes)))
        labels = np.ascontiguousarray(np.moveaxis(raw, -1, class_axis))
    else:
        labels = rng.integers(0, classes, batch).astype(np.int32)
        labels.reshape(-1)[:ignored] = -100
        if kind == "kept":
            labels = np.expand_dims(labels, class_axis)
    shapes = {"full": batch, "first": batch[:1], "mask": batch}
    weights = rng.random(shapes.get(sample_weight, ()))
    return Problem(
        logits,
        labels,
        class_axis % ndim,
        class_axis,
        class_weight=on_grid(rng.random(classes) + 0.25) if class_weight else None,
        sample_weight={None: None, "mask": weights < 0.7}.get(
            sample_weight, on_grid(weights + 0.25)
        ),
        **options,
    )


def positions(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every position in an array of this shape."""
    return iter(np.ndindex(shape))
