"""The array libraries that have a backend: for each one file that says how it is used.

Diagnosis, doctor, demo, benchmarks and tests ask these files; the loss itself needs none of them.
"""

import importlib
import os
from collections.abc import Iterator

from unified_loss._dispatch import known_names
from unified_loss._libraries._library import HostArray, Library

__all__ = ["HostArray", "Library", "installed_names", "known_names", "load", "named"]


def installed_names() -> Iterator[str]:
    """The libraries that are installed, whether or not they can be imported."""
    return (name for name in known_names() if named(name).is_installed())


def named(name: str, device: str | None = None) -> Library:
    """A library by its name, not imported yet.

    Without `device`, its arrays are where it puts them by itself, or on the GPU if there is one.
    """
    if name not in known_names():
        return Library(name)  # it has the names of the array API, or no backend either
    library: Library = importlib.import_module(f"{__name__}.{name}").LIBRARY(name, device)
    return library


def load(name: str, device: str | None = None) -> Library:
    """A library, imported; any exception that its import raises comes through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA and TensorFlow chat
    library = named(name, device)
    library.xp  # noqa: B018 (imports it)
    return library
