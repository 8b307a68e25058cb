"""What is wrong with an argument that is no array: what it holds, and how to get at it."""

from collections.abc import Mapping
from typing import Any

from unified_loss import _rules as rules
from unified_loss._diagnosis._fixes import Fix, outside
from unified_loss._diagnosis._table import Reading, Score
from unified_loss._diagnosis._targets import WHOLE, named
from unified_loss._messages import CLASS_IDS
from unified_loss._shown import name_of
from unified_loss.exceptions import LossInputError

SHOWN_KEYS = 6


def readings_of(name: str, value: Any, library: str) -> tuple[Reading, ...]:
    """The readings of an argument `name` beside logits of a library."""
    if name == "logits":
        return _output(value)
    if name == "labels" and _holds_text(value):
        number = Fix(f"if {WHOLE}, number them", f"labels = {CLASS_IDS}", "conditional")
        reading = Reading(
            Score.CERTAIN,
            "labels are class names (text): each name needs a class id, a number from 0.",
            (*named(library), number),
            "do not number the names of each batch by itself: ids would change.",
            "string_labels",
            "class names instead of class ids",
        )
        return (reading,)
    if name in {"class_weight", "sample_weight"} and isinstance(value, Mapping):
        return _weights(name, value)
    return ()


def extend_foreign(error: LossInputError, name: str, value: Any, library: str) -> None:
    """Add to an error what such an argument tells of its cause; nothing, if it tells nothing."""
    found = readings_of(name, value, library)
    if found:
        from unified_loss._diagnosis import Diagnosis

        diagnosis = Diagnosis(str(error).partition("\n")[0], (), found)
        error.args = (str(diagnosis),)
        error.with_details(cause=diagnosis.cause, fixes=diagnosis.fixes, readings=found)


def _output(value: Any) -> tuple[Reading, ...]:
    keys = _keys(value)
    kind = name_of(type(value)).removeprefix("builtins.")
    holds = f", which holds {', '.join(map(repr, keys[:SHOWN_KEYS]))}" if keys else ""
    sequence = isinstance(value, tuple | list)
    arrays = [i for i, item in enumerate(value) if rules.is_array(item)] if sequence else []
    if rules.is_array(rules.attribute(value, "logits")):
        fixes = [_code("its logits are the scores", "logits = logits.logits")]
    elif isinstance(value, Mapping) and "logits" in keys:
        fixes = [_code("these are the scores", 'logits = logits["logits"]')]
    elif isinstance(value, Mapping) and len(keys) == 1 and isinstance(keys[0], str):
        fixes = [_code("these are the scores", f"logits = logits[{keys[0]!r}]")]
    elif isinstance(value, Mapping) and keys:
        fixes = [outside(f"pass the scores alone, as logits[{keys[0]!r}]")]
    elif arrays:
        where = arrays[0]
        holds = f", which holds {len(value)} entries, arrays at {', '.join(map(str, arrays[:3]))}"
        fixes = [_code(f"entry {where} has the scores", f"logits = logits[{where}]")]
    else:
        return ()
    reading = Reading(
        Score.CERTAIN,
        f"logits are a {kind}{holds}: the loss takes the array of scores (logits) alone.",
        tuple(fixes),
        None,
        "model_output_object_not_logits",
        "a model's whole output",
    )
    return (reading,)


def _code(condition: str, code: str) -> Fix:
    return Fix(f"if {condition}, pass them", code, "conditional")


def _weights(name: str, value: Mapping[Any, Any]) -> tuple[Reading, ...]:
    numbers = _keys(value)
    each = list(range(len(numbers)))
    fixes = [outside("give an array of one weight per class, in the order of the class ids")]
    if name == "class_weight" and sorted(map(str, numbers)) == sorted(map(str, each)):
        if all(rules.is_integer(number) for number in numbers):
            code = f"class_weight = [*map(class_weight.get, range({len(each)}))]"
            fixes = [
                Fix(f"if there are {len(each)} classes, make a list of it", code, "conditional")
            ]
    else:
        fixes.append(outside(f"keys are 0 to {len(each) - 1} then; these are "
                             f"{', '.join(map(repr, numbers[:SHOWN_KEYS]))}"))  # fmt: skip
    reading = Reading(
        Score.CERTAIN,
        f"{name} is a dict by class id: an array (or list) has one weight per class instead.",
        tuple(fixes),
        None,
        "class_weight_as_dict",
        "weights by name or id",
    )
    return (reading,)


def _keys(value: Any) -> list[Any]:
    """The keys of a mapping, or the names of an object's own attributes."""
    if isinstance(value, Mapping):
        return list(value)
    own = rules.attribute(value, "__dict__")
    return [key for key in own if not key.startswith("_")] if isinstance(own, dict) else []


def _holds_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_text, value[:SHOWN_KEYS]))
    return isinstance(value, str | bytes)
