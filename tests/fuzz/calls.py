"""One call as data, and what a backend is asked to do with it."""

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np

from tests.helpers.problems import Array, Problem

DIFFERENTIABLE = ("logits", "labels", "class_weight", "sample_weight")
HALVES = ("float16", "bfloat16")
HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None  # it comes with JAX


def dtype_of(name: str) -> Any:
    """A NumPy dtype by its name, bfloat16 among them."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_floating(array: Array) -> bool:
    """Whether an array can have a gradient."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Call(Problem):
    """The arguments of one `cross_entropy`, each in its own dtype."""

    check: Any = "auto"
    normalizer_is_array: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The static arguments."""
        options = super().options | {"check": self.check}
        if self.normalizer_is_array:
            del options["normalizer"]
        return options

    @property
    def arrays(self) -> dict[str, Array]:
        """The array arguments that are given."""
        arrays = super().arrays
        if self.normalizer_is_array:
            dtype = np.float64 if self.logits.dtype == np.float64 else np.float32
            arrays["normalizer"] = np.asarray(self.normalizer, dtype)
        return arrays


class Form(NamedTuple):
    """All of a call but its values: what is compiled once, and then run for many draws."""

    dtype: str = "float32"
    batch: tuple[int, ...] = (3,)
    classes: int = 3
    class_axis: int = -1  # counted from the back
    axis: int | None = -1  # as passed
    kind: str = "index"  # "index", "kept" or "dense"
    labels: str = "int64"
    class_weight: str | None = None  # a dtype
    sample_weight: str | None = None
    first_axis: bool = False  # sample weights of shape (N,)
    ignore_index: int | None = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    reduction: str = "mean"
    normalizer: float | None = None
    normalizer_is_array: bool = False
    check: Any = "auto"
    wrt: tuple[str, ...] = ("logits",)  # what is differentiated
    on_host: tuple[str, ...] = ()  # what is passed as NumPy data, whatever the logits are
    layout: str = "plain"  # how arrays lie in memory
    size: str = "usual"  # which way a library goes: "usual", or "blocks" cut small


class Case(NamedTuple):
    """A call, what its loss is multiplied by, and where second derivatives are taken along."""

    call: Call
    upstream: Array
    direction: dict[str, Array]
