"""Random problems of every legal kind, small and with coincidences on purpose."""

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.helpers.backends import INTEGERS, Backend
from tests.helpers.problems import Array, Problem, without

SIZES = (0, 1, 2, 3, 5)
LOGITS = st.integers(-127, 127).map(lambda n: n / 8)
WEIGHTS = st.integers(0, 16).map(lambda n: n / 8)
PROBABILITIES = st.integers(0, 8).map(lambda n: n / 8)
SMOOTHINGS = st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0])
Z_LOSSES = st.sampled_from([0.0, 0.0, 0.125, 1.0])


def filled(shape: tuple[int, ...], elements: Any) -> st.SearchStrategy[Array]:
    """Float32 arrays of a shape."""
    return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def problems(draw: st.DrawFn, *, reduction: str | None = None, max_batch: int = 4) -> Problem:
    """One legal call. No label is out of range, and no logit infinite."""
    batch = draw(st.lists(st.sampled_from(SIZES), max_size=max_batch).map(_at_most_30_examples))
    classes = draw(st.sampled_from([2, 3, 5]))
    class_axis = draw(st.integers(0, len(batch)))
    shape = (*batch[:class_axis], classes, *batch[class_axis:])
    kind = draw(st.sampled_from(["index", "kept", "dense"]))
    ignore_index = draw(st.sampled_from([-100, -100, None, 1, 255])) if kind != "dense" else -100
    labels = draw(_labels(shape, class_axis, kind, ignore_index))
    sample_shape = draw(st.sampled_from([None, batch, batch[:1], "mask"]))
    if sample_shape == "mask":
        sample_weight = draw(hnp.arrays(np.bool_, batch))
    else:
        sample_weight = None if sample_shape is None else draw(filled(sample_shape, WEIGHTS))
    reduction = reduction or draw(st.sampled_from(["none", "sum", "mean"]))
    normalizers = [None, None, 2.5, 7] if reduction == "mean" else [None]
    return Problem(
        draw(filled(shape, LOGITS)),
        labels,
        class_axis,
        draw(st.sampled_from(_readings(shape, labels, class_axis))),
        class_weight=draw(st.none() | filled((classes,), WEIGHTS)),
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=draw(SMOOTHINGS),
        z_loss=draw(Z_LOSSES),
        reduction=reduction,
        normalizer=draw(st.sampled_from(normalizers)),
    )


def _at_most_30_examples(sizes: list[int]) -> tuple[int, ...]:
    while math.prod(sizes) > 30:
        sizes = sizes[:-1]
    return tuple(sizes)


def dtypes(backend: Backend) -> st.SearchStrategy[str]:
    """A floating dtype of a backend."""
    return st.sampled_from(backend.floats)


@st.composite
def _labels(
    draw: st.DrawFn, shape: tuple[int, ...], axis: int, kind: str, ignore_index: int | None
) -> Array:
    if kind == "dense":
        dtype = draw(st.sampled_from(["bool", "int8", "int64", "uint8", "float32"]))
        if dtype == "float32":
            return draw(filled(shape, PROBABILITIES))
        return draw(hnp.arrays(dtype, shape, elements=st.integers(0, 1)))
    dtype = draw(st.sampled_from(INTEGERS))
    values = st.integers(0, shape[axis] - 1)
    bounds = np.iinfo(dtype)
    if ignore_index is not None and bounds.min <= ignore_index <= bounds.max:
        values = values | st.just(ignore_index)
    batch = without(shape, axis)
    labels = draw(hnp.arrays(dtype, batch, elements=values))
    return labels if kind == "index" else np.expand_dims(labels, axis)


def _readings(shape: tuple[int, ...], labels: Array, axis: int) -> list[int | None]:
    """The ways to pass the class axis; None where R3 infers it, and R4 takes that."""
    ndim = len(shape)
    readings: list[int | None] = [axis, axis - ndim]
    if ndim <= 2:
        is_row_of_ids = labels.shape == shape and ndim == 1 and labels.dtype.kind != "f"
        inferred = [] if is_row_of_ids else [ndim - 1]
    elif labels.shape == shape:
        inferred = []
    else:
        inferred = [
            candidate
            for candidate in (1, ndim - 1)
            if labels.shape
            in {without(shape, candidate), (*shape[:candidate], 1, *shape[candidate + 1 :])}
        ]
    return [*readings, None] if inferred == [axis] else readings
