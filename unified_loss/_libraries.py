"""The installed array libraries, as the demo and the doctor use them."""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss._dispatch import ARRAY_API_LIBRARIES, LOADERS
from unified_loss._types import Array

HostArray = npt.NDArray[Any]
Function = Callable[[Array], Array]


class Library:
    """Any library that has the array-API names and no autodiff."""

    module: str | None = None  # where the array names are, if not in the package itself
    has_autodiff = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.xp: Any = importlib.import_module(self.module or name)

    @property
    def version(self) -> str:
        """The installed version."""
        package = importlib.import_module(self.name)
        holder = package if hasattr(package, "__version__") else self.xp
        return str(getattr(holder, "__version__", "unknown"))

    def has_dtype(self, dtype: str) -> bool:
        """Whether arrays may have this dtype."""
        return hasattr(self.xp, dtype)

    def asarray(self, values: HostArray, dtype: str) -> Array:
        """An array of this library, on its default device."""
        return self.xp.asarray(values, dtype=getattr(self.xp, dtype))

    def to_numpy(self, array: Array) -> HostArray:
        """Any array of this library as float64 NumPy."""
        return np.asarray(array).astype(np.float64)

    def device(self, array: Array) -> str:  # noqa: ARG002
        """Where the array is."""
        return "cpu"

    def gradient(self, function: Function, array: Array) -> Array:
        """The gradient of a scalar function, by the autodiff of this library."""
        raise NotImplementedError


class Cupy(Library):  # pragma: no cover (needs a GPU)
    """CuPy."""

    def to_numpy(self, array: Array) -> HostArray:
        """CuPy copies to the host only when told to."""
        return np.asarray(self.xp.asnumpy(array), np.float64)

    def device(self, array: Array) -> str:
        """A number to CuPy."""
        return f"cuda:{array.device.id}"


class Dask(Library):
    """Dask's arrays, one chunk each."""

    module = "dask.array"

    def has_dtype(self, dtype: str) -> bool:
        """Whatever NumPy has."""
        return hasattr(np, dtype)

    def asarray(self, values: HostArray, dtype: str) -> Array:
        """Dask's dtypes are NumPy's."""
        return self.xp.from_array(values.astype(dtype), chunks=-1)


class Mlx(Library):
    """MLX."""

    module = "mlx.core"
    has_autodiff = True

    def has_dtype(self, dtype: str) -> bool:
        """MLX has float64 by name: its exp has the precision of float32."""
        return dtype != "float64" and super().has_dtype(dtype)

    def asarray(self, values: HostArray, dtype: str) -> Array:
        """MLX arrays keep the dtype they are given."""
        return self.xp.array(values, dtype=getattr(self.xp, dtype))

    def to_numpy(self, array: Array) -> HostArray:
        """NumPy cannot read MLX's bfloat16."""
        return np.asarray(array.astype(self.xp.float32)).astype(np.float64)

    def device(self, array: Array) -> str:  # noqa: ARG002
        """MLX places operations, not arrays."""
        return str(self.xp.default_device().type).rpartition(".")[2]

    def gradient(self, function: Function, array: Array) -> Array:
        """By `mx.grad`."""
        return self.xp.grad(function)(array)


class Torch(Library):
    """PyTorch, on the GPU if there is one."""

    has_autodiff = True

    def asarray(self, values: HostArray, dtype: str) -> Array:
        """A tensor that does not share the memory of `values`."""
        device = "cuda" if self.xp.cuda.is_available() else "cpu"
        return self.xp.tensor(values, dtype=getattr(self.xp, dtype), device=device)

    def to_numpy(self, array: Array) -> HostArray:
        """NumPy cannot read PyTorch's bfloat16, nor its graph."""
        return np.asarray(array.detach().double().cpu())

    def device(self, array: Array) -> str:
        """As PyTorch prints it."""
        return str(array.device)

    def gradient(self, function: Function, array: Array) -> Array:
        """By `torch.autograd`."""
        leaf = array.detach().requires_grad_()
        return self.xp.autograd.grad(function(leaf), leaf)[0]


class Jax(Library):
    """JAX."""

    module = "jax.numpy"
    has_autodiff = True

    def has_dtype(self, dtype: str) -> bool:
        """JAX has 64 bits only where they are switched on."""
        return dtype != "float64" or self.xp.zeros(0, float).dtype == dtype

    def device(self, array: Array) -> str:
        """As JAX names its platform."""
        (device,) = array.devices()
        return f"{device.platform}:{device.id}"

    def gradient(self, function: Function, array: Array) -> Array:
        """By `jax.grad`."""
        import jax

        return jax.grad(function)(array)


class TensorFlow(Library):
    """TensorFlow."""

    has_autodiff = True

    def __init__(self, name: str) -> None:
        with _silent_stderr():
            super().__init__(name)
            self.xp.zeros(0)  # looks for devices

    def asarray(self, values: HostArray, dtype: str) -> Array:
        """A tensor; TensorFlow has no `asarray` of its own."""
        return self.xp.cast(self.xp.constant(values), dtype)

    def to_numpy(self, array: Array) -> HostArray:
        """TensorFlow copies from any device."""
        return np.asarray(array.numpy(), np.float64)

    def device(self, array: Array) -> str:
        """The last part of `/job:localhost/replica:0/task:0/device:CPU:0`."""
        return str(array.device).rpartition("device:")[2].lower()

    def gradient(self, function: Function, array: Array) -> Array:
        """By a gradient tape."""
        with self.xp.GradientTape() as tape:
            tape.watch(array)
            loss = function(array)
        return tape.gradient(loss, array)


SPEAKERS: dict[str, type[Library]] = {
    "torch": Torch,
    "jax": Jax,
    "tensorflow": TensorFlow,
    "cupy": Cupy,
    "dask": Dask,
    "mlx": Mlx,
}


def known_names() -> tuple[str, ...]:
    """Every library that has a backend, NumPy first."""
    return (*LOADERS, *ARRAY_API_LIBRARIES)


def installed_names() -> Iterator[str]:
    """The libraries that are installed, whether or not they can be imported."""
    return (name for name in known_names() if importlib.util.find_spec(name))


def load(name: str) -> Library:
    """Import a library; any exception that its import raises comes through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA and TensorFlow chat
    return SPEAKERS.get(name, Library)(name)


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
