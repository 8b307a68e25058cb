"""Which backend an array belongs to, by the library that its class comes from.

A backend loads when its first array arrives. Its line in `LOADERS` names the package that its
arrays come from and imports the module; a library with an array-API namespace needs no line.
"""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from unified_loss import _messages as messages
from unified_loss import _offered as offered
from unified_loss._backend import Backend
from unified_loss._offered import Offer
from unified_loss._shown import name_of
from unified_loss.exceptions import BackendError


def _numpy() -> Backend:
    from unified_loss._backends import numpy as library

    return library.BACKEND


def _torch() -> Backend:
    from unified_loss._backends import torch as library

    return library.BACKEND


def _jax() -> Backend:
    from unified_loss._backends import jax as library

    return library.BACKEND


def _tensorflow() -> Backend:
    from unified_loss._backends import tensorflow as library

    return library.BACKEND


def _array_api() -> Backend:
    from unified_loss._backends import array_api as library

    return library.BACKEND


LOADERS: dict[str, Callable[[], Backend]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
}
# Of each library the oldest release that is supported: what `pyproject.toml` asks for.
OLDEST = {"numpy": "2.0", "torch": "2.6", "jax": "0.8", "tensorflow": "2.20"}
ARRAY_API_LIBRARIES = ("array_api_strict", "cupy", "dask", "mlx")

ALIASES = {"jaxlib": "jax"}  # the package of concrete JAX arrays


def known_names() -> tuple[str, ...]:
    """Every library that has a backend, NumPy first."""
    return (*LOADERS, *ARRAY_API_LIBRARIES)


def backend_of(logits: Any, name: str = "logits") -> Backend:
    """The backend of the logits, or of what else comes first; `BackendError` if there is none."""
    # Nothing is remembered: `torch.compile` would compile again once that has changed.
    for base in type(logits).__mro__:
        package = str(base.__module__).partition(".")[0]
        library = ALIASES.get(package, package)
        load = LOADERS.get(library)
        if load is None:
            continue
        try:
            backend = load()
        except (ImportError, AttributeError) as error:
            _refuse_old(library, error)
            continue  # not installed: the name is all that the class has of it
        if backend.owns(logits):
            return backend
    if not _is_recorded(logits):  # it answers to every name
        backend = _array_api()
        if backend.owns(logits):
            return backend
    unknown = BackendError(_unknown(logits, name))
    if not _is_recorded(logits):
        explain_object(unknown, name, logits, "numpy")
    raise unknown


def explain_object(error: BackendError, name: str, value: Any, library: str) -> None:
    """Add to an error what an object that is no array holds; it may raise whatever it is asked."""
    try:
        from unified_loss._diagnosis._objects import extend_foreign

        extend_foreign(error, name, value, library)
    except Exception:  # noqa: BLE001, S110 (the first line is there)
        pass


def loaded(library: str) -> Backend:
    """The backend of a library of `LOADERS`; `BackendError` if the library lacks what it needs."""
    try:
        return LOADERS[library]()
    except (ImportError, AttributeError) as error:
        _refuse_old(library, error)
        raise


def _refuse_old(library: str, error: Exception) -> None:
    """`BackendError` if the library is there, and lacks a name."""
    version = getattr(sys.modules.get(library), "__version__", None)
    missing = error.name if isinstance(error, ModuleNotFoundError) else library
    if version is not None and str(missing).partition(".")[0] == library:
        oldest = OLDEST.get(library)
        raise BackendError(messages.unsupported(library, version, oldest, error)) from error
    if not isinstance(error, ImportError):
        raise error


def _is_recorded(value: Any) -> bool:
    """Whether a value only records what is done with it: a `torch.fx.Proxy`."""
    return any(base.__module__ == "torch.fx.proxy" for base in type(value).__mro__)


def _unknown(value: Any, name: str) -> str:
    libraries = known_names()
    installed = [library for library in libraries if importlib.util.find_spec(library)]
    text = (
        f"{name} must be an array of a supported library, but {messages.are(name)} of type "
        f"{name_of(type(value)).removeprefix('builtins.')}.\n"
        f"  supported: {', '.join(libraries)}, and any library with __array_namespace__\n"
        f"  installed: {', '.join(installed)}"
    )
    offer = _offer(value, name)
    if offer is None:
        return text
    return offered.hinted(text, offer, cause=offered.OTHER_KIND if offer.code else None)


def _offer(value: Any, name: str) -> Offer | None:
    """What to make of a value that is no array."""
    kind, found = type(value), None
    if hasattr(kind, "to_numpy"):
        code = f"{name} = {name}.to_numpy()"
        found = offered.on_condition("these are floating numbers", "make an array of them", code)
    elif hasattr(kind, "__jax_array__"):  # a parameter of Flax, a variable of Keras
        found = offered.converted(name, f"jnp.asarray({name})", "make an array of it")
    elif isinstance(value, list | tuple | int | float):
        found = _offer_of_numbers(value, name)
    elif _is_recorded(value):
        found = Offer(
            'torch.fx.wrap("cross_entropy") at the top of the module that calls it, or '
            "CrossEntropyLoss of unified_loss.integrations.torch"
        )
    elif hasattr(kind, "predict_proba"):  # of scikit-learn
        found = Offer("give its decision_function(X), or the logarithm of its predict_proba(X)")
    elif callable(value) and not isinstance(value, type):
        found = Offer("call it, and give what it returns")
    return found


def _offer_of_numbers(value: Any, name: str) -> Offer:
    from unified_loss._host import is_host_data

    if not is_host_data(value):
        return offered.NUMBERS
    code = f"{name} = np.asarray({name}, float)"
    return offered.on_condition("these are scores", "make an array of them", code)
