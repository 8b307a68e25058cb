"""Words of other libraries: what an argument that the loss does not know is called here.

A function that refuses such arguments in words of its own takes them
(``*extra, **foreign``), at no cost where there are none; `plain` hides them from its signature.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar

from unified_loss import _offered as offered
from unified_loss import _vocabulary as vocabulary
from unified_loss._offered import Offer, Told, hinted
from unified_loss._vocabulary import AXIS, LAYER, OF_ARRAYS
from unified_loss.exceptions import ArgumentError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

__all__ = [
    "OF_ARRAYS",
    "by_place",
    "is_known",
    "looks_like_outputs",
    "plain",
    "public",
    "refused",
    "written",
]

ARRAYS = {"logits": "the first argument", "labels": "the second argument"}


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
        if name in arrays:
            return ArgumentError(_twice(caller, name, arrays[name]))
        return ArgumentError(_unknown(caller, name, value, (*arrays, *options), elsewhere))
    if not extra:
        given = " and ".join(f"{name} ({where})" for name, where in arrays.items())
        return ArgumentError(f"{caller} takes {given}, one of which is missing.")
    taken = f"{' and '.join(arrays)} by position" if arrays else "no argument by position"
    hint = _of_position(caller, extra, options, elsewhere, made)
    return ArgumentError(
        hinted(f"{caller} takes {taken}; its options have names: {_listed(options)}.", hint)
    )


def by_place(function: FunctionT, number: int) -> FunctionT:
    """A function whose first arguments come by place; by name they are among its ``**foreign``.

    There it takes those that have no place. Of one that has come by both, Python would say that
    and no more, before the function is called.
    """
    code = function.__code__
    # With names of their own: Dynamo of torch 2.9 refuses the name of a place among the others.
    names = [f"_{name}" for name in code.co_varnames[:number]]
    function.__code__ = code.replace(
        co_posonlyargcount=number, co_varnames=(*names, *code.co_varnames[number:])
    )
    return function


def by_name(foreign: dict[str, Any], **given: Any) -> list[Any]:
    """Arrays by place, or those that came by name instead, which are taken out of the others."""
    return [foreign.pop(name, ...) if one is ... else one for name, one in given.items()]


def plain(function: FunctionT) -> FunctionT:
    """A function whose signature, as `help` and `inspect` show it, has no ``*extra, **foreign``."""
    code = function.__code__
    places = code.co_posonlyargcount
    names = [name.removeprefix("_") for name in code.co_varnames[:places]]
    shown = code.replace(
        co_flags=code.co_flags & ~0x0C,  # CO_VARARGS and CO_VARKEYWORDS
        co_posonlyargcount=0,
        co_varnames=(*names, *code.co_varnames[places:]),
    )
    told = FunctionType(shown, {}, function.__name__, None, function.__closure__)
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
    return name in vocabulary.NAMES or name in vocabulary.OURS


def _unknown(
    caller: str, name: str, value: Any, known: tuple[str, ...], elsewhere: Mapping[str, str]
) -> Told:
    first = f"{caller} has no argument {name!r}"
    if name in elsewhere:
        return _answered(first, f"it goes into {elsewhere[name]}")
    meant = {one: re.findall(r"(\w+)=", one) for one in _meanings(name, value)}
    if LAYER in known and (name == AXIS or any(AXIS in ours for ours in meant.values())):
        return _answered(first, "the rows of weight are the classes")
    here = {one: ours for one, ours in meant.items() if {*ours} <= {*known, *elsewhere}}
    if here:
        ours = [*itertools.chain(*here.values())]
        places = [f" {one}= goes into {elsewhere[one]}." for one in ours if one in elsewhere]
        place = next((place for place in vocabulary.PLACES if place in known), "")
        others = vocabulary.PLACES.get(place, {})
        answers = [_spoken(one, others) for one in here]
        offers = [_renamed(one, name, known, is_one=len(answers) == 1) for one in answers]
        text = f"{first}: here it is {', or '.join(answers)}.{''.join(places[:1])}"
        return offered.told(text, *offers, cause=offered.WORD)
    absent = [one for one in (name, *itertools.chain(*meant.values())) if one in vocabulary.WITHOUT]
    if absent:
        return _answered(first, vocabulary.WITHOUT[absent[0]], "here it is ")
    from difflib import get_close_matches

    is_ours = is_known(name)  # of other losses
    close = () if is_ours else get_close_matches(name, known, 1)
    guess = f", perhaps {close[0]!r} is meant" if close else ""
    offers = [_named(close[0], name, f"{close[0]} is meant")] if close else []
    return offered.told(f"{first}{guess}; it takes {_listed(known)}.", *offers)


def _twice(caller: str, name: str, place: str) -> Told:
    """The text of an array that is given by its place and by its name."""
    text = f"{caller} has {name!r} twice, as {place} and by name."
    meant = vocabulary.TWICE.get(name)
    return hinted(text, *([] if meant is None else [meant]), cause=offered.WORD)


def _meanings(name: str, value: Any) -> tuple[str, ...]:
    """What a word of another library may be here."""
    is_off = value is False and name in vocabulary.OFF
    words = vocabulary.NAMES | vocabulary.OTHERS
    found = vocabulary.OFF[name] if is_off else words.get(name, ())
    return (found,) if isinstance(found, str) else found


def _answered(first: str, answer: str, lead: str = "") -> Told:
    return offered.told(f"{first}: {lead}{answer}.", Offer(answer), cause=offered.WORD)


def _spoken(text: str, others: Mapping[str, str]) -> str:
    for one, other in others.items():
        text = text.replace(one, other)
    return text


def _renamed(answer: str, name: str, known: tuple[str, ...], *, is_one: bool) -> Offer:
    """The code of an answer that is a name of ours, for a value that is the same here."""
    ours, sign, meaning = answer.partition("=, ")
    if not sign or ours not in known or ":" in meaning:
        return Offer(answer)
    meaning = meaning.partition(";")[0]
    return _named(ours, name, None if is_one else f"it is {meaning}")


def _named(ours: str, name: str, condition: str | None) -> Offer:
    code = f"{ours} = {name}; del {name}"
    if condition is None:
        return Offer(f"name it {ours}", code, "same meaning")
    return offered.on_condition(condition, f"name it {ours}", code)


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
