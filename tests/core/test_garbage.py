"""Whatever is passed for an argument, what escapes is an error of ours (R25)."""

import datetime as dt
import decimal
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import Backend
from unified_loss import (
    BackendError,
    LossInputError,
    cross_entropy,
    cross_entropy_with_grad,
    explain,
)
from unified_loss import _dispatch as dispatch
from unified_loss import _rules as rules

LOGITS = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
ARRAYS = ("labels", "class_weight", "sample_weight", "normalizer")
OPTIONS = ("axis", "ignore_index", "label_smoothing", "z_loss", "reduction", "check")
FUNCTIONS = (cross_entropy, cross_entropy_with_grad, explain)
HUGE = 10**5000  # beyond every float, and Python refuses to print it


class Sloppy:
    """Answers to every name."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Echo:
    """Answers to every name with itself."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Itself again."""
        return self


def raising(*names: str, error: type[Exception] = RuntimeError) -> Any:
    """An object whose methods and properties raise."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error("from within")

    members = {name: fail if name.startswith("__") else property(fail) for name in names}
    return type("Raising", (), members)()


def answering(**members: Any) -> Any:
    """An object of a class with these members."""
    return type("Answering", (), members)()


def holding_itself() -> list[Any]:
    """A list that is its own only item."""
    items: list[Any] = []
    items.append(items)
    return items


def nested(depth: int) -> Any:
    """A number in that many lists."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def namespaceless(**members: Any) -> Any:
    """An object that claims to be an array of the standard."""
    return answering(__array_namespace__=lambda self, **_: None, **members)


# Made anew for each call, since some are used up.
GARBAGE: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "ellipsis": lambda: ...,
    "not implemented": lambda: NotImplemented,
    "text": lambda: "ab",
    "no text": lambda: "",
    "digits": lambda: "9" * 5000,
    "surrogate": lambda: "\ud800",
    "bytes": lambda: b"ab",
    "bytearray": lambda: bytearray(b"ab"),
    "memory": lambda: memoryview(b"ab"),
    "set": lambda: {0, 1},
    "frozen set": lambda: frozenset({0}),
    "dict": lambda: {0: 1},
    "generator": lambda: (i for i in range(2)),
    "iterator": lambda: iter([0, 1]),
    "map": lambda: map(int, "01"),
    "slice": lambda: slice(2),
    "range": lambda: range(2),
    "long range": lambda: range(7, 10**4),
    "module": lambda: np,
    "class": lambda: int,
    "array class": lambda: np.ndarray,
    "dtype": lambda: np.dtype(np.float32),
    "function": lambda: len,
    "lock": threading.Lock,
    "error": lambda: ValueError("x"),
    "object": object,
    "date": lambda: dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    "true": lambda: True,
    "huge": lambda: HUGE,
    "-huge": lambda: -HUGE,
    "huge item": lambda: [HUGE, 0],
    "huge items": lambda: [-HUGE, 1, 1],
    "huge object": lambda: np.array(HUGE, object),
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "tiny": lambda: 1e-320,
    "decimal": lambda: decimal.Decimal("sNaN"),
    "complex": lambda: 1j,
    "no items": list,
    "itself": holding_itself,
    "deep": lambda: nested(3000),
    "64 deep": lambda: nested(64),
    "65 deep": lambda: nested(65),
    "ragged": lambda: [[0], [1, 2]],
    "tuples": lambda: ((0, (1,)), (0, (1,))),
    "texts": lambda: ["a", "b"],
    "mixed": lambda: [0, "b"],
    "nones": lambda: [None, None],
    "arrays in a list": lambda: [np.zeros(2), np.zeros(3)],
    "objects": lambda: np.array([object(), None]),
    "lists in an array": lambda: np.array([[0], [1, 2]], object),
    "booleans": lambda: np.array([True, False], object),
    "fractions": lambda: np.array([0.5, 1], object),
    "structure": lambda: np.zeros(2, [("a", "i4"), ("b", "f4")]),
    "dates": lambda: np.zeros(2, "M8[s]"),
    "spans": lambda: np.zeros(2, "m8[s]"),
    "unicode": lambda: np.array(["a", "b"]),
    "byte strings": lambda: np.array([b"a", b"b"]),
    "void": lambda: np.zeros(2, "V3"),
    "record": lambda: np.zeros(2, "i4,i4").view(np.recarray),
    "matrix": lambda: np.zeros((2, 3)).view(type("Mine", (np.ndarray,), {})),
    "0-d": lambda: np.array(0),
    "0-d date": lambda: np.datetime64("2024-01-01"),
    "0-d text": lambda: np.str_("mean"),
    "0-d void": lambda: np.void(b"abc"),
    "65 axes": lambda: np.zeros((1,) * 64),
    "swapped bytes": lambda: np.zeros(2, ">i4"),
    "long double": lambda: np.ones(2, np.longdouble),
    "sloppy": Sloppy,
    "echo": Echo,
    "no array": lambda: raising("__array__"),
    "no attributes": lambda: raising("__array__", "__array_namespace__", "shape", "dtype"),
    "no shape": lambda: raising("shape", "dtype", "device", "ndim"),
    "no number": lambda: raising("__float__", "__index__", "__int__"),
    "no index": lambda: raising("__index__", error=ZeroDivisionError),
    "no repr": lambda: raising("__repr__", "__str__"),
    "no repr, float": lambda: raising("__repr__", "__float__", error=KeyError),
    "no hash": lambda: raising("__hash__", "__eq__"),
    "no length": lambda: raising("__len__", "__iter__", "__getitem__"),
    "no truth": lambda: raising("__bool__"),
    "index of text": lambda: answering(__index__=lambda self: "1"),
    "float of text": lambda: answering(__float__=lambda self: "1"),
    "index of none": lambda: answering(__index__=None, __float__=None),
    "an index": lambda: answering(__index__=lambda self: 1),
    "no module": lambda: answering(__module__=None),
    "module of a number": lambda: answering(__module__=3),
    "only a namespace": namespaceless,
    "shapeless": lambda: namespaceless(dtype="float32"),
    "no namespace": lambda: namespaceless(dtype="float32", shape=(2, 3), device="toy"),
    "shape of text": lambda: namespaceless(dtype="float32", shape=("2", 3)),
    "shape of a number": lambda: namespaceless(dtype="float32", shape=3),
    "vast": lambda: namespaceless(dtype="float32", shape=(HUGE, 3)),
    "from torch by name": lambda: answering(__module__="torch.nn", shape=(2, 3)),
    "from mlx by name": lambda: namespaceless(__module__="mlx.core", shape=(2, 3)),
}


def escapes(function: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """What is raised that is no error of ours."""
    logits, labels = arguments.pop("logits"), arguments.pop("labels")
    try:
        str(function(logits, labels, **arguments))
    except LossInputError as error:
        return None if str(error) else "no text"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error}"[:200]
    return None


def all_escapes(logits: Any, names: tuple[str, ...]) -> list[str]:
    """What escapes for garbage in each of these arguments; some calls are legal."""
    found = []
    for name, kind, function in itertools.product(names, GARBAGE, FUNCTIONS):
        given = {"logits": logits, "labels": [0, 1], name: GARBAGE[kind]()}
        escaped = escapes(function, given)
        if escaped is not None:
            found.append(f"{function.__name__}, {name}: {kind}: {escaped}")
    return found


pytestmark = pytest.mark.filterwarnings("ignore")  # of what conversions warn is not the matter


def test_garbage_for_an_array(backend: Backend) -> None:
    """R25: as labels, weights and normalizer."""
    assert not all_escapes(backend.asarray(LOGITS), ARRAYS)


def test_garbage_for_an_option(backend: Backend) -> None:
    """R25: as any option."""
    assert not all_escapes(backend.asarray(LOGITS), OPTIONS)


def test_garbage_for_logits() -> None:
    """R25: and as what `explain` takes for a shape, or for a library."""
    assert not all_escapes(None, ("logits",))
    assert not all_escapes("float32[2, 3]", ARRAYS)
    assert not [
        escaped
        for make in GARBAGE.values()
        for given in ({"framework": make()}, {"labels": [make()]}, {"logits": (make(), 3)})
        if (escaped := escapes(explain, {"logits": (2, 3), "labels": (2,), **given}))
    ]


def test_two_pieces_of_garbage(rng: np.random.Generator) -> None:
    """R25: what one argument leaves to say of another."""
    names, kinds = (*ARRAYS, *OPTIONS, "logits"), tuple(GARBAGE)
    for _ in range(500):
        chosen = {rng.choice(names): rng.choice(kinds) for _ in range(rng.integers(2, 5))}
        given = {name: GARBAGE[kind]() for name, kind in chosen.items()}
        function = FUNCTIONS[rng.integers(3)]
        assert escapes(function, {"logits": LOGITS, "labels": [0, 1], **given}) is None, chosen


def test_what_dispatch_says_of_garbage() -> None:
    """R2: no library is found, none is imported, and the class is named."""
    for kind, make in GARBAGE.items():
        garbage = make()
        if isinstance(garbage, np.ndarray | np.generic):
            assert dispatch.backend_of(garbage).name == "numpy"
            continue
        claims = rules.attribute(garbage, "__array_namespace__") or kind == "no attributes"
        if claims and not isinstance(garbage, type):
            assert dispatch.backend_of(garbage).name == "array-api"
            continue
        with pytest.raises(BackendError, match="logits must be an array of a supported"):
            dispatch.backend_of(garbage)
