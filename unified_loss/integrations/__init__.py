"""The loss in the form that a framework's own tools expect: one module for each of them.

Each module imports the framework that its losses run on, so none of them is imported here. All
the arithmetic and every check is that of `unified_loss.cross_entropy`.
"""

from typing import Any

_HOMES = {
    "CausalLMLoss": "transformers",
    "ClassificationLoss": "transformers",
    "CrossEntropy": "keras",
    "CrossEntropyLoss": "torch",
    "LinearCausalLMLoss": "transformers",
}


def __getattr__(name: str) -> Any:
    """A loss, from the module that it lives in, which imports its framework."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
