"""One module per framework: its arrays, its way to differentiate and compile, and its peers."""

import importlib
import importlib.util

from benchmarks.frameworks._base import Framework
from unified_loss import _libraries as libraries

CLASSES = {
    "numpy": "NumPy",
    "torch": "Torch",
    "jax": "Jax",
    "tensorflow": "TensorFlow",
    "mlx": "Mlx",
    "cupy": "Cupy",
}


def load(name: str, device: str) -> Framework:
    """Import a framework, in a process of its own.

    Examples
    --------
    >>> load("numpy", "cpu").name
    'numpy'
    """
    libraries.load(name)  # without the log that some write when they start
    module = importlib.import_module(f"benchmarks.frameworks.{name}")
    framework: Framework = getattr(module, CLASSES[name])(device)
    return framework


def is_installed(name: str) -> bool:
    """Whether a framework can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None
