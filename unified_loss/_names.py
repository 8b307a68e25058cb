"""Names of the modules: what is there once it is asked for, and what other libraries call it."""

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from types import FrameType, MappingProxyType
from typing import Any

PACKAGE = "unified_loss"
INTEGRATIONS = f"{PACKAGE}.integrations"
# Of each loss of the integrations, the module that it lives in.
LOSSES = {
    "CausalLMLoss": "transformers",
    "ClassificationLoss": "transformers",
    "CrossEntropy": "keras",
    "CrossEntropyLoss": "torch",
    "LinearCausalLMLoss": "transformers",
}
FUNCTION = f"{PACKAGE}.cross_entropy(logits, labels)"
# What a name of another library, in small letters alone, has in it: what there is instead. The
# first that is found counts.
FOREIGN = {
    "^(jax|flax|equinox|mlx|numpy|tensorflow)$": (
        f"there is no module of that library, whose arrays {FUNCTION} takes"
    ),
    "binary|bce|sigmoid": (
        f"there is no binary loss here; classes that exclude each other are {FUNCTION}"
    ),
    "linear.*(entropy|loss)|(entropy|loss).*linear": (
        f"without logits it is {PACKAGE}.linear_cross_entropy(hidden, weight, labels)"
    ),
    "causallm": f"of a language model it is CausalLMLoss() of {INTEGRATIONS}.transformers",
    "nllloss": f"it is {FUNCTION}; log-probabilities will do for logits",
    "logloss": f"it is {FUNCTION}; of probabilities, the logits are the logarithm",
    "perplexity": f"over batches it is {PACKAGE}.RunningCrossEntropy().compute().perplexity",
    "entropy.*grad|valueandgrad": f"it is {PACKAGE}.cross_entropy_with_grad(logits, labels)",
    "crossentropy|celoss|xent|softmaxloss": (
        f"it is {FUNCTION}; as an object, CrossEntropyLoss() of {INTEGRATIONS}.torch or "
        f"CrossEntropy() of {INTEGRATIONS}.keras"
    ),
}
NOWHERE: Mapping[str, str] = MappingProxyType({})


def attribute(module: str, name: str, homes: Mapping[str, str] = NOWHERE) -> Any:
    """What a module has by its function ``__getattr__``, which calls this, or the error.

    `homes` are the modules below it that its names live in.
    """
    if name in homes:
        return getattr(import_module(f"{module}.{homes[name]}"), name)
    pointer = "" if name.startswith("_") else _pointer(module, name)
    if _is_import(sys._getframe(2)):  # noqa: SLF001 (an import says its own text of all others)
        message = f"cannot import name {name!r} from {module!r}"
        raise ImportError(message + pointer, name=module)
    message = f"module {module!r} has no attribute {name!r}"
    raise AttributeError(message + pointer, name=name, obj=sys.modules.get(module))


def _is_import(frame: FrameType) -> bool:
    """Whether a frame is at ``from ... import``, which takes any `AttributeError` for its own."""
    from opcode import opname

    return opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM"


def _pointer(module: str, name: str) -> str:
    """Where a name is, or what there is in place of it."""
    own = [
        loss for loss, home in LOSSES.items() if module in {INTEGRATIONS, f"{INTEGRATIONS}.{home}"}
    ]
    here = f"; here there is {', '.join(own)}" if own else ""
    if name in LOSSES:
        home = f"{INTEGRATIONS}.{LOSSES[name]}"
        return f": it is in {home}{here}. Fix: from {home} import {name}"
    if name == INTEGRATIONS.removeprefix(f"{PACKAGE}."):
        return f": it is a module. Fix: import {INTEGRATIONS}"
    if name in LOSSES.values():
        return f": it is a module. Fix: import {INTEGRATIONS}.{name}"
    if name in sys.modules[PACKAGE].__all__:
        return f": it is in {PACKAGE}. Fix: from {PACKAGE} import {name}"
    plain = re.sub("[^a-z]", "", name.lower())
    found = next((told for words, told in FOREIGN.items() if re.search(words, plain)), None)
    return here.replace(";", ":") if found is None else f": {found}."
