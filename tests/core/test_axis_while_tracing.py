"""R3 where sizes are unknown: one table of shapes, for every library that has such sizes.

In the table a letter is an unknown size. Equal letters are equal symbols to JAX and `torch.export`;
TensorFlow and Dask know no more of them than that they are unknown.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import AmbiguousAxisError, cross_entropy

SIZES = {"n": 2, "m": 2, "t": 7, "s": 7, "e": 5, "h": 4, "c": 5}


def shape_of(text: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """The sizes of today."""
    return tuple(sizes[word] if word in sizes else int(word) for word in text.split())


def known(text: str) -> tuple[int | None, ...]:
    """The sizes that are known while tracing."""
    return tuple(None if word.isalpha() else int(word) for word in text.split())


def loss_of(logits: Any, labels: Any) -> Any:
    """The loss, with no axis given."""
    return cross_entropy(logits, labels)


def tensorflow_loss(shapes: tuple[str, str], *arrays: Any) -> Any:
    """By `tf.function`, whose signature knows no letter."""
    import tensorflow as tf

    signature = [
        tf.TensorSpec(known(text), array.dtype) for text, array in zip(shapes, arrays, strict=True)
    ]
    return tf.function(loss_of, input_signature=signature)(*arrays)


def dask_loss(shapes: tuple[str, str], *arrays: Any) -> Any:
    """By Dask, to which what a mask selects has an unknown size."""
    import dask.array as da

    lazy = []
    for text, array in zip(shapes, arrays, strict=True):
        x = da.from_array(array, chunks=-1)
        for axis, size in enumerate(known(text)):
            if size is None:
                x = x[(slice(None),) * axis + (da.ones(array.shape[axis], dtype=bool),)]
        lazy.append(x)
    return cross_entropy(*lazy).compute(scheduler="synchronous")


def jax_loss(shapes: tuple[str, str], *arrays: Any) -> Any:
    """By `jax.export`, to which equal letters are equal symbols."""
    import jax

    scope = jax.export.SymbolicScope()
    given = [
        jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(",".join(text.split()), scope=scope), array.dtype
        )
        for text, array in zip(shapes, arrays, strict=True)
    ]
    return jax.export.export(jax.jit(loss_of))(*given).call(*arrays)


def export_loss(shapes: tuple[str, str], *arrays: Any) -> Any:
    """By `torch.export`, to which equal letters are equal dimensions."""
    import torch

    class Loss(torch.nn.Module):
        def forward(self, logits: Any, labels: Any) -> Any:
            return cross_entropy(logits, labels)

    sizes = tuple(
        {i: torch.export.Dim(word) for i, word in enumerate(text.split()) if word.isalpha()}
        for text in shapes
    )
    tensors = tuple(map(torch.as_tensor, arrays))
    return torch.export.export(Loss(), tensors, dynamic_shapes=sizes).module()(*tensors)


def compiled_loss(shapes: tuple[str, str], *arrays: Any) -> Any:
    """By `torch.compile`, to which every letter is a symbol of its own, with a value."""
    import torch

    tensors = tuple(map(torch.as_tensor, arrays))
    for text, tensor in zip(shapes, tensors, strict=True):
        for axis, size in enumerate(known(text)):
            (torch._dynamo.mark_dynamic if size is None else torch._dynamo.mark_static)(
                tensor, axis
            )
    torch._dynamo.reset()
    return torch.compile(cross_entropy, backend="aot_eager", fullgraph=True)(*tensors)


Way = Callable[..., Any]
WAYS: dict[str, tuple[str, Way]] = {
    "tf.function": ("tensorflow", tensorflow_loss),
    "dask": ("dask", dask_loss),
    "jax.export": ("jax", jax_loss),
    "torch.export": ("torch", export_loss),
    "torch.compile": ("torch", compiled_loss),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, installed: list[Backend]) -> Way:
    """A loss that is traced with unknown sizes."""
    library, function = WAYS[request.param]
    if BACKENDS[library] not in installed:
        pytest.skip(f"{library} is not under test")
    return function


def problem_of(
    shapes: tuple[str, str], sizes: dict[str, int], rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels: floating ones for a row of probabilities, else class ids."""
    logits, labels = (shape_of(text, sizes) for text in shapes)
    scores = rng.standard_normal(logits).astype(np.float32)
    if logits == labels:
        return scores, rng.random(labels).astype(np.float32)
    return scores, rng.integers(5, size=labels).astype(np.int32)


@pytest.mark.parametrize(
    ("logits", "labels", "axis"),
    [
        ("n t 5", "n t", -1),
        ("n 5 t", "n t", 1),
        ("n e 5", "n e", -1),  # equal today
        ("n 5 e", "n e", 1),
        ("2 e 5", "2 e", -1),
        ("2 5 e", "2 e", 1),
        ("n e h 5", "n e h", -1),
        ("n 5 e e", "n e e", 1),
        ("n 5 t h", "n 1 t h", 1),
        ("n t h 5", "n t h 1", -1),
        ("n e 5", "n e 5", -1),
        ("n 5 t", "n 5 t", 1),
        ("2 7 6 c", "2 7 6", -1),
        ("n 7 6 c", "n 7 6", -1),
    ],
)
def test_a_known_size_is_that_of_the_classes(
    logits: str, labels: str, axis: int, way: Way, rng: Generator
) -> None:
    """R3: an unknown size is none of classes beside a known one, whatever it is today."""
    arrays = problem_of((logits, labels), SIZES, rng)
    loss = way((logits, labels), *arrays)
    np.testing.assert_allclose(float(loss), cross_entropy(*arrays, axis=axis), rtol=1e-5)


@pytest.mark.parametrize("way", [name for name in WAYS if "compile" not in name], indirect=True)
@pytest.mark.parametrize("t", [7, 5])
def test_what_proves_another_axis_is_refused(t: int, way: Way, rng: Generator) -> None:
    """R3: a provable fit of an unknown size, and a possible one of a known size: two readings."""
    shapes = f"2 {t} c", f"2 {t}"
    with pytest.raises(AmbiguousAxisError, match="axis="):
        way(shapes, *problem_of(shapes, SIZES, rng))


@pytest.mark.parametrize("way", ["tf.function", "dask"], indirect=True)
@pytest.mark.parametrize("logits", ["n t c", "n t c h", "n t t"])
def test_all_unknown_is_refused(logits: str, way: Way, rng: Generator) -> None:
    """R3: unknown sizes without names may all be equal."""
    words = logits.split()
    shapes = logits, " ".join(words[:1] + words[2:])
    with pytest.raises(AmbiguousAxisError, match="axis="):
        way(shapes, *problem_of(shapes, SIZES, rng))


@pytest.mark.parametrize("way", ["jax.export", "torch.compile"], indirect=True)
@pytest.mark.parametrize(
    ("logits", "labels", "axis"),
    [("n t c", "n t", -1), ("n c t", "n t", 1), ("n c t h", "n t h", 1), ("n t h c", "n t h", -1)],
)
def test_classes_may_be_unknown_too(
    logits: str, labels: str, axis: int, way: Way, rng: Generator
) -> None:
    """R3: where symbols prove one axis, or their values decide."""
    arrays = problem_of((logits, labels), SIZES, rng)
    loss = way((logits, labels), *arrays)
    np.testing.assert_allclose(float(loss), cross_entropy(*arrays, axis=axis), rtol=1e-5)


MISMATCHES = [
    ("n t 5", "n s", {"s": 6}),
    ("n t 5", "m t", {"m": 1}),
    ("n t 5", "n s", {"t": 5, "s": 6}),
    ("n 5 t", "n s", {"s": 1}),
    ("n 5 t h", "n s h", {"s": 5}),
    ("n t 5", "n 6", {}),
    ("n 7 c", "n 7 1 1", {}),
]


@pytest.mark.parametrize(("logits", "labels", "sizes"), MISMATCHES)
def test_what_was_taken_is_compared(
    logits: str, labels: str, sizes: dict[str, int], way: Way, rng: Generator
) -> None:
    """R3, R5: sizes that turn out to differ are an error, and never broadcast into a number."""
    arrays = problem_of((logits, labels), SIZES | sizes, rng)
    with pytest.raises(Exception, match=r"."):
        np.asarray(way((logits, labels), *arrays))


@pytest.mark.parametrize("compiled", [False, True])
def test_padded_batches_and_relaxed_traces_are_served(
    installed: list[Backend], *, compiled: bool
) -> None:
    """R3: `padded_batch` and `reduce_retracing` leave lengths unknown, some as long as classes."""
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")
    import tensorflow as tf

    step = tf.function(loss_of, reduce_retracing=True, jit_compile=compiled)
    for length in (8, 7, 5, 11):
        logits, labels = tf.random.normal((2, length, 5)), tf.ones((2, length), tf.int32)
        wanted = float(cross_entropy(logits, labels, axis=-1))
        assert float(step(logits, labels)) == pytest.approx(wanted, rel=1e-5)
    assert step.experimental_get_tracing_count() == 2
    if compiled:
        return
    rows = tf.data.Dataset.range(3, 9).map(lambda n: (tf.eye(n, 5), tf.ones(n, tf.int32)))
    batches = rows.padded_batch(2, padded_shapes=([None, 5], [None]))
    losses = [float(loss) for loss in batches.map(cross_entropy)]
    wanted = [float(cross_entropy(x, y, axis=-1)) for x, y in batches]
    assert losses == pytest.approx(wanted, rel=1e-5)
