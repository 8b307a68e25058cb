"""Words of other libraries: what an argument that the loss does not know is called here.

A function that refuses such arguments in words of its own takes them
(``*extra, **foreign``), at no cost where there are none; `plain` hides them from its signature.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar

from unified_loss._offered import hinted
from unified_loss.exceptions import ArgumentError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

ARRAYS = {"logits": "the first argument", "labels": "the second argument"}
FIRST = "the first argument: logits"
SECOND = "the second argument: labels, class ids or rows of probabilities"
ORDER = "(logits come first here, labels second)"
AVERAGE = 'reduction="mean", "sum" or "none"'
EACH = "sample_weight=, a weight for each example; a boolean one is a mask, True where it counts"
OF_CLASSES = "class_weight=, a weight for each class"
DIVISOR = (
    "normalizer=, what the mean is divided by; the Trainer of transformers that passes it wants "
    "compute_loss_func=CausalLMLoss() of unified_loss.integrations.transformers"
)
COUNTED = "no option: the logits tell the number of classes"

AXIS, LAYER = "axis", "hidden"  # what a call has instead of the other

# The word of another library: ours, and what differs; several where it may mean either.
WORDS: dict[str, str | tuple[str, ...]] = {
    "input": FIRST,
    "inputs": FIRST,
    "preds": FIRST,
    "y_pred": f"{FIRST}, not probabilities {ORDER}",
    "output": FIRST,
    "outputs": FIRST,
    "pooled_logits": FIRST,
    "target": SECOND,
    "targets": SECOND,
    "y_true": f"{SECOND} {ORDER}",
    "shift_labels": f"{SECOND}, which stand where they are predicted",
    "weight": (OF_CLASSES, EACH),
    "weights": EACH,
    "linear_weight": "weight=, a row for each class",
    "linear_bias": "bias=, a number for each class",
    "class_weights": OF_CLASSES,
    "sample_weights": EACH,
    "mask": EACH,
    "where": EACH,
    "pos_weight": "class_weight=; a weight of positive examples alone is one of a binary loss",
    "dim": "axis=, the axis of the classes",
    "class_dim": "axis=, the axis of the classes",
    "from_logits": "no option, and needs no word: the loss takes logits, always",
    "ignore_class": "ignore_index=",
    "ignore_label": "ignore_index=",
    "size_average": f"{AVERAGE}; True is the mean, False the sum",
    "reduce": f"{AVERAGE}; False is none",
    "normalize": f"{AVERAGE}; True is the mean, False the sum",
    "smoothing": "label_smoothing=",
    "label_smoothing_factor": "label_smoothing=",
    "lse_square_scale": "z_loss=",
    "num_items_in_batch": DIVISOR,
    "avg_factor": "normalizer=, what the mean is divided by",
    "num_classes": COUNTED,
    "vocab_size": COUNTED,
    "name": "no option of a function",
}
# The same of an option that is turned off, where that differs.
OFF = {
    "from_logits": (
        "no option: the loss takes logits, so delete it together with the last softmax, or take "
        "the logarithm of the probabilities"
    ),
}
# Of calls that begin with another array, named here: what is said of arrays instead.
PLACES = {
    LAYER: {
        FIRST: "the first argument: hidden, what enters the last layer",
        "the second argument: labels": "the third argument: labels",
        ORDER: "(hidden comes first here, labels third)",
    },
    "outputs": {FIRST: "the first argument: outputs, what the model returned, or its logits"},
    "y_true": {
        FIRST: "the second argument: y_pred, the logits",
        "the second argument: labels": "the first argument: y_true",
        ORDER: "(labels come first here)",
    },
}
NAMES = {"logits": FIRST, "labels": SECOND, **WORDS}  # with ours, where a call has others
OF_ARRAYS = {name for name, told in NAMES.items() if str(told).startswith((FIRST, SECOND))}
OURS = frozenset(re.findall(r"(\w+)=", " ".join(map(str, WORDS.values()))))


def refused(
    caller: str,
    options: Mapping[str, Any],
    extra: tuple[Any, ...],
    foreign: Mapping[str, Any],
    arrays: Mapping[str, str] = ARRAYS,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
    made: str = "",
) -> ArgumentError:
    """The error of arguments that are not known, too many, or missing.

    `elsewhere` are options that the caller has in another place, and how they are written there;
    see `written`. `made` is how people write an instance of a class, and what it is for.
    """
    if made:
        call = f"the call, and a class is made before it is called: {made}"
        elsewhere = {**dict.fromkeys(OF_ARRAYS, call), **elsewhere}
    for name, value in foreign.items() if not (made and extra) else ():
        return ArgumentError(_unknown(caller, name, value, (*arrays, *options), elsewhere))
    if not extra:
        given = " and ".join(f"{name} ({where})" for name, where in arrays.items())
        return ArgumentError(f"{caller} takes {given}, one of which is missing.")
    taken = f"{' and '.join(arrays)} by position" if arrays else "no argument by position"
    hint = _of_position(caller, extra, options, elsewhere, made)
    return ArgumentError(
        hinted(f"{caller} takes {taken}; its options have names: {_listed(options)}.", hint)
    )


def plain(function: FunctionT) -> FunctionT:
    """A function whose signature, as `help` and `inspect` show it, has no ``*extra, **foreign``."""
    code = function.__code__
    flags = code.co_flags & ~0x0C  # CO_VARARGS and CO_VARKEYWORDS
    told = FunctionType(
        code.replace(co_flags=flags), {}, function.__name__, None, function.__closure__
    )
    told.__kwdefaults__ = function.__kwdefaults__
    told.__doc__, told.__qualname__ = function.__doc__, function.__qualname__
    told.__module__ = function.__module__
    told.__annotations__ = {
        name: kind
        for name, kind in function.__annotations__.items()
        if name not in {"extra", "foreign"}
    }
    function.__wrapped__ = told  # type: ignore[attr-defined]
    return function


def public(function: FunctionT) -> FunctionT:
    """A `plain` function that TensorFlow's AutoGraph calls as it is.

    It converts every function that a traced one calls, which takes seconds, and wraps its errors,
    unless the function has this mark of `tf.autograph.experimental.do_not_convert`.
    """
    function.__dict__["autograph_info__"] = {}
    return plain(function)


def written(call: str, options: Iterable[str]) -> dict[str, str]:
    """How options are written in a call, whose text ends where they begin."""
    return {name: f"{call}{name}=...)" for name in options}


def is_known(name: str) -> bool:
    """Whether a name is a word of a loss, and not of something else that a call hands on."""
    return name in NAMES or name in OURS


def _unknown(
    caller: str, name: str, value: Any, known: tuple[str, ...], elsewhere: Mapping[str, str]
) -> str:
    first = f"{caller} has no argument {name!r}"
    if name in elsewhere:
        return f"{first}: it goes into {elsewhere[name]}."
    told = OFF[name] if value is False and name in OFF else NAMES.get(name, ())
    words = (told,) if isinstance(told, str) else told
    meant = {one: re.findall(r"(\w+)=", one) for one in words}
    if LAYER in known and (name == AXIS or any(AXIS in ours for ours in meant.values())):
        return f"{first}: the rows of weight are the classes."
    here = {one: ours for one, ours in meant.items() if not ours or {*ours} & {*known, *elsewhere}}
    if here:
        ours = itertools.chain(*here.values())
        places = [f" {one}= goes into {elsewhere[one]}." for one in ours if one in elsewhere]
        answer = ", or ".join(here)
        place = next((place for place in PLACES if place in known), "")
        for one, other in PLACES.get(place, {}).items():
            answer = answer.replace(one, other)
        return f"{first}: here it is {answer}.{''.join(places[:1])}"
    from difflib import get_close_matches

    is_ours = is_known(name)  # of other losses
    close = () if is_ours else get_close_matches(name, known, 1)
    guess = f", perhaps {close[0]!r} is meant" if close else ""
    return f"{first}{guess}; it takes {_listed(known)}."


def _of_position(
    caller: str,
    extra: tuple[Any, ...],
    options: Mapping[str, Any],
    elsewhere: Mapping[str, str],
    made: str,
) -> str:
    value = extra[0]
    is_array = getattr(value, "shape", ()) != () or isinstance(value, list | tuple)
    if made and (len(extra) > 1 or looks_like_outputs(value)):
        return f"{caller} is a class, which is made before it is called: {made}."
    if is_array and "class_weight" in options:
        return "a weight for each class is class_weight=."
    if is_array and "class_weight" in elsewhere:
        return f"a weight for each class goes into {elsewhere['class_weight']}."
    if isinstance(value, str) and "reduction" in options:
        return "reduction=."
    return "write the name of the option."


def looks_like_outputs(value: Any) -> bool:
    """Whether the first argument of a constructor is what the loss is to be called with."""
    ndim = len(getattr(value, "shape", ()) or ())
    return ndim > 1 or (hasattr(value, "keys") and "logits" in value.keys())  # noqa: SIM118


def _listed(names: Any) -> str:
    return ", ".join(names)
