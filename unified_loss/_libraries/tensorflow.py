"""TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions, one_or_all, paired
from unified_loss._libraries._library import Function, HostArray, Library
from unified_loss._types import Array


class TensorFlow(Library):
    """TensorFlow."""

    floats = ("float16", "bfloat16", "float32", "float64")
    has_autodiff = True
    compiler = "`tf.function`"
    dialect = functions(
        "tf",
        cast=lambda x, dtype: f"tf.cast({x}, tf.{dtype})",
        transpose=lambda x, _: f"tf.transpose({x})",
        pair=paired("tf", "concat"),
        mean=lambda x, axes: f"tf.reduce_mean({x}, axis={one_or_all(axes)})",
        fill=lambda x, n: (
            f"tf.cast(tf.where(tf.math.is_nan({x}), tf.cast({n}, {x}.dtype), {x}), tf.int64)"
        ),
        one_hot=lambda x, classes: f"tf.one_hot({x}, {classes})",
    )
    aliases: ClassVar = {"tf": "tensorflow", "keras": "keras"}

    @cached_property
    def xp(self) -> Any:
        """The package, which looks for devices as soon as it makes a tensor."""
        with _silent_stderr():
            tf = self.package
            tf.zeros(0)
        return tf

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """A tensor; TensorFlow has no `asarray` of its own."""
        tensor = self.xp.constant(np.asarray(values))
        return tensor if dtype is None else self.xp.cast(tensor, dtype)

    def to_numpy(self, array: Array) -> HostArray:
        """From any device; the gradient of a gather is made dense."""
        return np.asarray(self.xp.convert_to_tensor(array).numpy(), np.float64)

    def device(self, array: Array) -> str:
        """The last part of `/job:localhost/replica:0/task:0/device:CPU:0`."""
        return str(array.device).rpartition("device:")[2].lower()

    def sum(self, array: Array, axis: int | None = None) -> Array:
        """TensorFlow names its reductions otherwise."""
        return self.xp.reduce_sum(array, axis)

    def transposed(self, matrix: Array) -> Array:
        """Tensors of TensorFlow have no `T`."""
        return self.xp.transpose(matrix)

    def compiled(self, function: Function, **options: Any) -> Function:
        """By `tf.function`."""
        graph: Function = self.xp.function(function, **options)
        return graph

    def value_and_gradients(self, function: Function, places: Sequence[int] = (0,)) -> Function:
        """By a gradient tape."""

        def both(*arrays: Array) -> tuple[Array, Sequence[Array]]:
            chosen = [arrays[place] for place in places]
            with self.xp.GradientTape() as tape:
                tape.watch(chosen)
                value = function(*arrays)
            return value, tape.gradient(value, chosen)

        return both


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """TensorFlow writes its start-up log to the file descriptor before its log level counts."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


LIBRARY = TensorFlow
