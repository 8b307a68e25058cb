"""Arguments that are no arrays: what they hold is told, whatever their methods raise."""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import (
    ArgumentError,
    BackendError,
    DTypeError,
    LossInputError,
    cross_entropy,
    explain,
    linear_cross_entropy,
)
from unified_loss._diagnosis import Diagnosis, Fix, Reading, Score

LABELS = np.array([0, 2])


def refused(kind: type[LossInputError], *arguments: Any, **options: Any) -> Any:
    """The error of a call."""
    with pytest.raises(kind) as caught:
        cross_entropy(*arguments, **options)
    return caught.value


@pytest.mark.parametrize(
    ("wrapped", "code"),
    [
        (lambda logits: SimpleNamespace(loss=None, logits=logits), "logits = logits.logits"),
        (lambda logits: OrderedDict(loss=0, logits=logits), 'logits = logits["logits"]'),
        (lambda logits: {"out": logits}, "logits = logits['out']"),
        (lambda logits: ("auxiliary", logits), "logits = logits[1]"),
        (lambda logits: [logits, logits], "logits = logits[0]"),
    ],
)
def test_outputs_of_models(backend: Backend, wrapped: Any, code: str) -> None:
    """R25: what holds the logits is named, with the code that takes them out."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    error = refused(BackendError, wrapped(logits), LABELS)
    assert error.cause == "model_output_object_not_logits"
    (fix,) = error.fixes
    assert (fix.kind, fix.code) == ("conditional", code)
    cross_entropy(**fix.apply(wrapped(logits), LABELS))


def test_outputs_without_logits_tell_what_they_hold() -> None:
    """R25: nothing is chosen from several arrays."""
    error = refused(BackendError, {"masks": LABELS, "boxes": LABELS}, LABELS)
    assert "which holds 'masks', 'boxes'" in str(error)
    assert error.fixes[0].kind == "elsewhere"


class Sloppy:
    """An object whose attributes are the keys of a dict."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.parametrize("place", ["logits", "labels", "class_weight", "sample_weight"])
def test_whatever_attributes_raise(backend: Backend, place: str) -> None:
    """R25: no other exception escapes."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    refused(BackendError, **{"logits": logits, "labels": LABELS, place: Sloppy()})


@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, object)])
def test_names_of_classes(backend: Backend, kind: Any) -> None:
    """R25: names are numbered over the whole data set; no hint says to convert them."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    error = refused(LossInputError, logits, kind(["cat", "dog"]))
    assert error.cause == "string_labels"
    assert [fix.kind for fix in error.fixes] == ["elsewhere", "conditional"]
    assert "np.unique(all_names, return_inverse=True)" in str(error)
    assert ("StringLookup" in str(error)) is (backend.name == "tensorflow")
    assert "hint" not in str(error)


def test_missing_class_ids(backend: Backend) -> None:
    """R25: NaN and None among class ids are neither real numbers nor names; the code runs."""
    logits = backend.asarray(np.zeros((3, 3), np.float32))
    for labels in ([0, None, 2], np.array([0, None, 2], object), np.array([0, np.nan, 2])):
        error = refused(LossInputError, logits, labels)
        assert error.cause == "labels_missing_values"
        assert [fix.kind for fix in error.fixes] == ["conditional", "elsewhere"]
        mended = error.fixes[0].apply(logits, labels)
        assert np.asarray(mended["labels"]).tolist() == [0, -100, 2]
        cross_entropy(**mended)
    without = refused(DTypeError, logits, np.array([0, np.nan, 2]), ignore_index=None)
    assert [fix.kind for fix in without.fixes] == ["elsewhere"]
    beyond = refused(DTypeError, logits, np.array([0, np.nan, 7]))
    assert "give the last layer 8 output units" in str(beyond)


def test_missing_names(backend: Backend) -> None:
    """R25: the names that there are become ids, on one axis alone."""
    logits = backend.asarray(np.zeros((3, 3), np.float32))
    for names in (["b", None, "a"], np.array(["b", None, "a"], object)):
        error = refused(LossInputError, logits, names)
        assert error.cause == "string_labels"
        mended = error.fixes[1].apply(logits, names)
        assert mended["labels"] == [1, -100, 0]
    for rows in ([["b", None]], np.array([["b", None]], object)):
        assert {fix.kind for fix in refused(LossInputError, logits, rows).fixes} == {"elsewhere"}


@pytest.mark.parametrize(
    "names", [[b"b", None, b"a"], [1.5, None, 0.5], ["b", np.nan, "a"]], ids=str
)
def test_missing_names_are_none_and_nan_alone(names: list[Any]) -> None:
    """R25: whatever else the names are, they keep their ids; the mark is the call's own."""
    array, logits = np.empty(3, object), np.zeros((3, 3))
    array[:] = names
    error = refused(DTypeError, logits, array, ignore_index=7)
    assert error.cause == "string_labels"
    assert "examples without a name do not count" in error.fixes[1].text
    assert error.fixes[1].apply(logits, array)["labels"] == [1, 7, 0]
    for mark in (None, 1):  # which would be none, or a name
        assert len(refused(DTypeError, logits, array, ignore_index=mark).fixes) == 1
    if isinstance(names[0], str | bytes):
        error = refused(BackendError, logits, names)
        assert error.fixes[1].apply(logits, names)["labels"] == [1, -100, 0]


def test_names_without_an_order_have_no_code() -> None:
    """R25: no line that fails, where something is missing and where nothing is."""
    for names in (["a", b"b"], ["a", 1.5, None], ["a", {}]):
        for labels in (names, np.array(names, object)):
            error = refused(LossInputError, np.zeros((len(names), 3)), labels)
            assert [fix.kind for fix in error.fixes] == ["elsewhere"]


class Incomparable:
    """An object that cannot be compared."""

    def __ne__(self, other: object) -> bool:
        raise RuntimeError


def test_what_cannot_be_compared_is_there() -> None:
    """R25: an object is not taken for a missing one."""
    labels = np.array([Incomparable(), 0], object)
    assert refused(DTypeError, np.zeros((2, 3)), labels).cause == "string_labels"


def test_text_has_no_number_of_bits() -> None:
    """R25: NumPy's `str320` is text to people."""
    error = refused(DTypeError, np.zeros((2, 3)), np.array(["a" * 10, "b"]))
    assert str(error).splitlines()[0].endswith("but are str.")
    assert "numpy str[2]" in str(error)


def test_weights_by_class_id(backend: Backend) -> None:
    """R25: a dict by class id becomes a list."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    weights = {0: 1.0, 1: 2.0, 2: 4.0}
    error = refused(BackendError, logits, LABELS, class_weight=weights)
    assert error.cause == "class_weight_as_dict"
    cross_entropy(**error.fixes[0].apply(logits, LABELS, class_weight=weights))
    named = refused(BackendError, logits, LABELS, class_weight={"cat": 1.0, "dog": 2.0})
    assert not any(fix.code for fix in named.fixes)


WEIGHT, BIAS = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(3, np.float32)
STATES = np.array([[1, 2], [3, 5]], np.float32)


def layers() -> Iterator[tuple[str, Any, str, Any]]:
    """Layers of `WEIGHT` and `BIAS`, or of the weight alone, and how their weight is taken."""
    yield "numpy", {"kernel": WEIGHT.T, "bias": BIAS}, "weight['kernel'].T, weight['bias']", BIAS
    yield "numpy", SimpleNamespace(weight=WEIGHT, bias=None), "weight.weight", None
    torch = sys.modules.get("torch")
    if torch is not None:
        linear = torch.nn.Linear(2, 3)
        linear.weight.data, linear.bias.data = torch.tensor(WEIGHT), torch.tensor(BIAS)
        yield "torch", linear, "weight.weight, weight.bias", BIAS
        yield "torch", torch.nn.Embedding(3, 2, _weight=torch.tensor(WEIGHT)), "weight.weight", None
    with contextlib.suppress(ImportError):
        from flax import nnx

        flax = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        flax.kernel[...], flax.bias[...] = WEIGHT.T, BIAS
        yield "jax", flax, "weight.kernel[...].T, weight.bias[...]", BIAS
    with contextlib.suppress(ImportError):
        import keras

        dense = keras.layers.Dense(3)
        dense.build((None, 2))
        dense.set_weights([WEIGHT.T, BIAS])
        code = "keras.ops.transpose(weight.kernel), weight.bias.value"
        yield keras.backend.backend(), dense, code, BIAS


def test_a_layer_in_place_of_its_weight() -> None:
    """R25: a layer has its weight and its bias, in the words of its library."""
    tried = set()
    for name, layer, code, bias in layers():
        hidden = BACKENDS[name].asarray(STATES)
        with pytest.raises(BackendError) as caught:
            linear_cross_entropy(hidden, layer, LABELS)
        (fix,) = caught.value.fixes
        assert caught.value.cause == "layer_not_its_weight"
        assert (fix.kind, fix.code.partition(" = ")[2]) == ("conditional", code)
        mended = fix.apply(hidden=hidden, weight=layer, labels=LABELS)
        found = BACKENDS[name].to_numpy(linear_cross_entropy(**mended))
        wanted = linear_cross_entropy(STATES, WEIGHT, LABELS, bias=bias)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        tried.add(name)
    assert "numpy" in tried


def test_an_object_without_numbers_has_no_conversion() -> None:
    """R25: no hint says to convert what cannot be."""
    with pytest.raises(
        BackendError, match="hint: give numbers, lists of numbers or an array"
    ) as caught:
        linear_cross_entropy(STATES, SimpleNamespace(layers=3), LABELS)
    assert caught.value.cause is None
    assert [fix.kind for fix in caught.value.fixes] == ["elsewhere"]
    with pytest.raises(BackendError, match=r"bias = bias\.bias"):
        linear_cross_entropy(STATES, WEIGHT, LABELS, bias=SimpleNamespace(bias=BIAS))


def test_a_failing_diagnosis_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """R25: the first line stands alone."""

    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("unified_loss._diagnosis.extend", fail)
    monkeypatch.setattr("unified_loss._diagnosis._objects.readings_of", fail)
    assert str(refused(LossInputError, np.zeros((2, 3)), np.zeros(7, int))).endswith("shape (7,).")
    assert str(refused(BackendError, {"logits": LABELS}, LABELS)).startswith("logits must be")
    assert explain(np.zeros((2, 3)), np.zeros(7, int)).error is not None


def test_fixes_are_applied_to_all_arguments_of_the_call() -> None:
    """What is missing is named, be it an array of every call or one that the code reads."""
    logits = np.zeros((2, 3))
    with pytest.raises(LossInputError) as caught:
        cross_entropy(logits, [0, 1], class_weight={0: 1.0, 1: 2.0, 2: 1.0})
    fix = caught.value.fixes[0]
    for given, missing in (
        ({}, "class_weight, labels, logits"),
        ({"labels": LABELS}, "class_weight, logits"),
        ({"logits": logits, "labels": LABELS}, "class_weight"),
    ):
        with pytest.raises(ArgumentError, match=rf"has no {missing}: fix.apply\(logits, labels"):
            fix.apply(**given)


def test_a_fix_without_code_is_no_change_of_the_arguments() -> None:
    """R25: of the kind "elsewhere", or where a library has its own way of writing."""
    labels = np.array([0, 2, 3])
    with pytest.raises(LossInputError) as caught:
        cross_entropy(np.zeros((3, 3)), labels)
    told = [fix for fix in caught.value.fixes if fix.kind == "elsewhere"]
    assert told
    for fix in told:
        with pytest.raises(LossInputError, match="no code that changes the arguments") as error:
            fix.apply(np.zeros((3, 3)), labels)
        assert fix.text in str(error.value)


def test_a_fix_is_offered_once() -> None:
    """R25: readings may share a line; it stands once, and as what it is at best."""
    with pytest.raises(LossInputError) as caught:
        cross_entropy(np.zeros((4, 3)), np.array([0.0, 2.0, 1.0, 1.0]))
    error = caught.value
    shared = [fix.code for reading in error.readings for fix in reading.fixes if fix.code]
    assert len(shared) > len(set(shared))
    assert [fix.code for fix in error.fixes if fix.code] == list(dict.fromkeys(shared))
    assert {fix.kind for fix in error.fixes if fix.code} == {"same meaning"}


def test_a_fix_is_offered_as_what_it_is_at_best() -> None:
    """R25: the same code, which one reading has a condition for."""
    sure = Fix("do it", "axis=1", "same meaning")
    unsure = Fix("if it is meant, do it", "axis=1", "conditional")
    other = Fix("do something else", "", "elsewhere")
    readings = (
        Reading(Score.LIKELY, "one", (unsure, other)),
        Reading(Score.LIKELY, "two", (other, sure)),
    )
    assert Diagnosis("", (), readings).fixes == (sure, other)


def test_a_parameter_of_flax_is_no_array_yet() -> None:
    """The hint says how its array is taken, and on which side a kernel has the classes."""
    nnx = pytest.importorskip("flax.nnx")
    kernel = nnx.Linear(3, 3, rngs=nnx.Rngs(0)).kernel
    hidden = kernel[...][:2]
    with pytest.raises(BackendError, match=r"a kernel, .* weight.T") as caught:
        linear_cross_entropy(hidden, kernel, LABELS)
    assert linear_cross_entropy(hidden, kernel.T, LABELS) > 0
    (fix,) = caught.value.fixes
    assert linear_cross_entropy(**fix.apply(hidden=hidden, weight=kernel, labels=LABELS)) > 0


@pytest.mark.parametrize("name", ["logits", "hidden"])
def test_a_parameter_of_flax_is_no_first_argument(name: str) -> None:
    """R2: it is said to be none of JAX, and the hint makes an array of it, also under a trace."""
    jax, nnx = pytest.importorskip("jax"), pytest.importorskip("flax.nnx")
    parameter = nnx.Param(jax.numpy.asarray(STATES))
    more = () if name == "logits" else (WEIGHT,)
    call = cross_entropy if name == "logits" else linear_cross_entropy

    @nnx.jit
    def mended(parameter: Any) -> Any:
        found = {name: parameter}
        exec(fix.code, {"jnp": jax.numpy}, found)  # noqa: S102 (our own text)
        return call(found[name], *more, np.array([0, 1]))

    with pytest.raises(BackendError, match="must be an array of a supported library") as caught:
        call(parameter, *more, LABELS)
    told = str(caught.value)
    (fix,) = caught.value.fixes
    assert fix.code == f"{name} = jnp.asarray({name})"
    assert told.endswith(f"  hint: {fix}")
    assert "flax.nnx.variablelib.Param" in told
    assert explain(parameter, LABELS).error is not None
    wanted = call(STATES, *more, np.array([0, 1]))
    np.testing.assert_allclose(mended(parameter), wanted, rtol=1e-6)
