"""What is wrong with an argument that is no array: what it holds, and how to get at it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import LOOK, Values, values_of
from unified_loss._diagnosis._fixes import Fix, outside
from unified_loss._diagnosis._operations import expression
from unified_loss._diagnosis._table import OBJECT_CAUSES, Reading, Readings, Score, cause
from unified_loss._diagnosis._targets import WHOLE_BUT_MISSING, named
from unified_loss._offered import WHOLE
from unified_loss._shown import name_of
from unified_loss.exceptions import LossInputError

SHOWN_KEYS = 6
MARK = f"{rules.DEFAULT_IGNORE_INDEX}, the default of ignore_index"
NDIM = {"weight": 2, "bias": 1}  # the number of axes of each parameter
MATRICES = "weight", "kernel", "embeddings", "embedding"  # a kernel alone has a column per class


class Given(NamedTuple):
    """An argument that is no array, beside a first argument of a library."""

    name: str
    value: Any
    library: str


def readings_of(name: str, value: Any, library: str) -> tuple[Reading, ...]:
    """The readings of an argument `name` beside a first argument of a library."""
    given = Given(name, value, library)
    return tuple(
        reading._replace(tag=tag, title=one.title)
        for tag, one in OBJECT_CAUSES.items()
        for reading in one.readings(given)
    )


def extend_foreign(error: LossInputError, name: str, value: Any, library: str) -> None:
    """Add to an error what such an argument tells of its cause; nothing, if it tells nothing."""
    found = readings_of(name, value, library)
    if found:
        from unified_loss._diagnosis import Diagnosis

        diagnosis = Diagnosis(str(error).partition("\n")[0], (), found)
        error.args = (str(diagnosis),)
        error.with_details(cause=diagnosis.cause, fixes=diagnosis.fixes, readings=found)


@cause(
    "string_labels",
    "class names instead of class ids",
    "object",
    example='np.zeros((2, 3)), ["cat", "dog"]',
)
def names_of_classes(given: Given) -> Readings:
    """Names of classes, or other objects, where class ids are wanted."""
    if given.name == "labels" and _holds_text(given.value):
        values = _values(given.value)
        mark, text = None, f"if {WHOLE}, number them"
        is_readable = values is None or values.sortable
        if values and values.missing:
            mark = rules.DEFAULT_IGNORE_INDEX
            text = f"if {WHOLE_BUT_MISSING}, number them, and mark the missing ones with {MARK}"
            is_readable &= not any(isinstance(name, list | tuple) for name in given.value)
        code = f"labels = {expression('python', 'labels', (('number', mark),))}"
        number = (Fix(text, code, "conditional"),)
        yield Reading(
            Score.CERTAIN,
            "labels are class names (text): each name needs a class id, a number from 0.",
            (*named(given.library), *number[: int(is_readable)]),
            "do not number the names of each batch by itself: ids would change.",
        )


@cause(
    "labels_missing_values",
    "missing values among the labels",
    "object",
    example="np.zeros((4, 3)), [0, 2, None, 1]",
)
def missing_class_ids(given: Given) -> Readings:
    """Class ids some of which are missing: None in a list."""
    values = _values(given.value) if given.name == "labels" else None
    if values is None or not values.whole:
        return
    steps = ("cast", "float64"), ("fill", rules.DEFAULT_IGNORE_INDEX)
    yield Reading(
        Score.CERTAIN,
        f"labels hold {values.missing} missing value{'' if values.missing == 1 else 's'} (None).",
        (
            Fix(
                f"if examples without a label do not count, mark them with {MARK}",
                f"labels = {expression('python', 'labels', steps)}",
                "conditional",
            ),
            outside("leave out the examples without a label, where the data are made"),
        ),
    )


def _values(value: Any) -> Values | None:
    """What a list holds, if something in it is missing; of arrays there is nothing to be read."""
    import numpy as np

    if not isinstance(value, list | tuple) or host.array_in(value) is not None:
        return None
    return values_of(np.array(value, object))


@cause(
    "model_output_object_not_logits",
    "a model's whole output",
    "object",
    example='{"loss": 0.5, "logits": np.zeros((2, 3))}, [0, 2]',
)
def model_output_object_not_logits(given: Given) -> Readings:
    """What a model returns, an object, a dict or a tuple, in place of the logits in it."""
    if given.name != "logits":
        return
    value = given.value
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
        return
    yield Reading(
        Score.CERTAIN,
        f"logits are a {kind}{holds}: the loss takes the array of scores (logits) alone.",
        tuple(fixes),
    )


def _code(condition: str, code: str) -> Fix:
    return Fix(f"if {condition}, pass them", code, "conditional")


@cause(
    "layer_not_its_weight",
    "a layer in place of its weight",
    "object",
    "head",
    example='np.zeros((4, 3)), {"kernel": np.zeros((3, 7)), "bias": np.zeros(7)}, [0, 6, 2, 1]',
)
def layer_not_its_weight(given: Given) -> Readings:
    """A layer, or its parameters by name, where its weight or its bias is wanted."""
    name, value, _ = given
    names = {"weight": MATRICES, "bias": ("bias",)}.get(name, ())
    key = next((key for key in names if _ndim(_part(value, key)) == NDIM[name]), None)
    if key is None:
        return
    changed, code = name, _taken(name, value, key)
    if name == "weight" and _ndim(_part(value, "bias")) == NDIM["bias"]:
        changed, code = "weight, bias", f"{code}, {_taken(name, value, 'bias')}"
    what = changed.replace(", ", " and ")
    yield Reading(
        Score.CERTAIN,
        f"{name} is a {name_of(type(value)).removeprefix('builtins.')}, which holds the {what} of "
        "a layer: the loss takes arrays.",
        (
            Fix(
                f"if the logits are what this layer makes of hidden, pass its {what}",
                f"{changed} = {code}",
                "conditional",
            ),
        ),
    )


def _part(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else rules.attribute(value, key)


def _ndim(part: Any) -> int | None:
    return len(part.shape) if rules.is_array(part) else None


def _taken(name: str, value: Any, key: str) -> str:
    """Code for a parameter of a layer, a matrix with a row for each class."""
    code = f"{name}[{key!r}]" if isinstance(value, Mapping) else f"{name}.{key}"
    package = rules.package_of(type(_part(value, key)))
    if package == "keras":  # whose variables have no transpose on every backend
        return f"keras.ops.transpose({code})" if key == "kernel" else f"{code}.value"
    held = f"{code}[...]" if package == "flax" else code
    return f"{held}.T" if key == "kernel" else held


@cause(
    "class_weight_as_dict",
    "weights by name or id",
    "object",
    example="np.zeros((2, 3)), [0, 2], class_weight={0: 1.0, 1: 2.0, 2: 1.0}",
)
def class_weight_as_dict(given: Given) -> Readings:
    """Weights by class id or by name, as Keras's `fit` and scikit-learn take them."""
    name, value, _ = given
    if name not in {"class_weight", "sample_weight"} or not isinstance(value, Mapping):
        return
    numbers = _keys(value)
    each = list(range(len(numbers)))
    todo = "give an array of one weight per class, in the order of the class ids"
    fixes = [outside(todo if name == "class_weight" else f"{todo}, as class_weight=")]
    if name == "class_weight" and sorted(map(str, numbers)) == sorted(map(str, each)):
        if all(rules.is_integer(number) for number in numbers):
            code = f"class_weight = [*map(class_weight.get, range({len(each)}))]"
            fixes = [
                Fix(f"if there are {len(each)} classes, make a list of it", code, "conditional")
            ]
    else:
        fixes.append(outside(f"keys are 0 to {len(each) - 1} then; these are "
                             f"{', '.join(map(repr, numbers[:SHOWN_KEYS]))}"))  # fmt: skip
    yield Reading(
        Score.CERTAIN,
        f"{name} is a dict by class id: an array (or list) has one weight per class instead.",
        tuple(fixes),
    )


def _keys(value: Any) -> list[Any]:
    """The keys of a mapping, or the names of an object's own attributes."""
    if isinstance(value, Mapping):
        return list(value)
    own = rules.attribute(value, "__dict__")
    return [key for key in own if not key.startswith("_")] if isinstance(own, dict) else []


def _holds_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_text, value[:LOOK]))
    return isinstance(value, str | bytes)
