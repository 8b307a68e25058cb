"""One module per framework: what is measured there, and its peers."""

import importlib

from benchmarks.frameworks._base import Framework
from unified_loss import _libraries as libraries


def load(name: str, device: str) -> Framework:
    """Import a framework, in a process of its own.

    Examples
    --------
    >>> load("numpy", "cpu").library.name
    'numpy'
    """
    library = libraries.load(name, device)  # without the log that some write when they start
    module = importlib.import_module(f"benchmarks.frameworks.{name}")
    framework: Framework = module.FRAMEWORK(library, device)
    return framework


def is_installed(name: str) -> bool:
    """Whether a framework can be imported, without importing it."""
    return libraries.named(name).is_installed()
