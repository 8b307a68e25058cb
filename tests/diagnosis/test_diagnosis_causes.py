"""Every cause of the table, by its own example, in every library."""

import inspect
import re
import warnings
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import Backend
from tests.helpers.plans import problem
from unified_loss import (
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    cross_entropy,
    explain,
)
from unified_loss import _libraries as libraries
from unified_loss._diagnosis import CAUSES, LINEAR_CAUSES, diagnose
from unified_loss._diagnosis._operations import aliases
from unified_loss._plan import make_plan

EXAMPLES = [tag for tag, cause in CAUSES.items() if cause.example]


def call_of(tag: str, convert: Any = np.asarray) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The arguments of a cause's example, as arrays of a library."""

    def arguments(*positional: Any, **options: Any) -> Any:
        arrays = (convert(value) if isinstance(value, list) else _converted(value, convert)
                  for value in positional)  # fmt: skip
        for name in {"class_weight", "sample_weight"} & options.keys():
            options[name] = convert(_narrow(options[name]))
        return tuple(arrays), options

    code = f"arguments({CAUSES[tag].example})"
    return eval(code, {"np": np, "arguments": arguments})  # noqa: S307 - our own table


def _converted(value: Any, convert: Any) -> Any:
    """An array of a library; text stays on the host."""
    array = np.asarray(value)
    return array if array.dtype.kind == "U" else convert(_narrow(array))


def _narrow(array: np.ndarray) -> np.ndarray:
    """Every library has 32 bits."""
    return array.astype({"f": np.float32, "i": np.int32}.get(array.dtype.kind, array.dtype))


def told_by(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> LossInputError | LossInputWarning | None:
    """The error or the warning of a call, if there is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            cross_entropy(*arguments, **options)
        except (LossInputError, LossInputWarning) as found:
            return found
    return None


@pytest.mark.parametrize("tag", EXAMPLES)
def test_example_shows_its_cause(tag: str) -> None:
    """R25: the cause of an example is among its readings, and each reading has a fix."""
    found = told_by(*call_of(tag))
    assert found is not None
    shown = [reading.tag for reading in getattr(found, "readings", ())] or [found.cause]
    assert tag in shown
    assert found.cause == shown[0]
    assert found.fixes or found.cause == "single_output_unit_with_categorical_loss"


@pytest.mark.parametrize("tag", EXAMPLES)
def test_fixes_suffice(backend: Backend, tag: str) -> None:
    """R25: the code of a fix that claims to suffice, run in the caller's library, does."""
    arguments, options = call_of(tag, backend.asarray)
    found = told_by(arguments, options)
    if found is None:
        assert not backend.reads_labels  # lazy values are not looked at
        return
    for fix in found.fixes:
        assert "\n" not in fix.text
        assert bool(fix.code) is (fix.kind != "elsewhere")
        assert fix.text.startswith("if ") is (fix.kind == "conditional")
        if fix.code:
            assert_is_legal(fix.apply(*arguments, **options))


def assert_is_legal(arguments: dict[str, Any]) -> None:
    """No error; a warning may be what it was about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossInputWarning)
        cross_entropy(**arguments)


def test_a_cause_is_documented_by_its_function() -> None:
    """R25: the docs are made of summaries, which are one sentence."""
    for cause in (CAUSES | LINEAR_CAUSES).values():
        assert re.fullmatch(r"[^.\n]+\.", cause.summary.partition("\n")[0]), cause.tag
        assert inspect.isgeneratorfunction(cause.readings)


# Words of one framework that are none in another, and words that tell a beginner nothing.
WORDS = {
    "torch": r"unsqueeze|\bview\b|BCE|drop_last|num_labels",
    "tensorflow": r"Dense|[Kk]eras|TimeDistributed|return_sequences|drop_remainder|categorical\)",
}
OBSCURE = r"spurious|remap|folded|\b1 (classes|rows|steps|entries)\b|entries per example|str\d"


@pytest.mark.parametrize("tag", EXAMPLES)
def test_words_are_of_the_framework(backend: Backend, tag: str) -> None:
    """R25: what is said to one framework's people has no other's words."""
    arguments, options = call_of(tag, backend.asarray)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LossInputWarning)
            cross_entropy(*arguments, **options)
    except (LossInputError, LossInputWarning) as told:
        text = re.sub(r"\(\w+_\w+\):", "", str(told))
        for name, words in WORDS.items():
            assert backend.name == name or not re.search(words, text), text
        assert not re.search(OBSCURE, text), text


@pytest.mark.parametrize("library", [*libraries.known_names(), "some_library"])
def test_code_is_in_the_library_of_the_caller(library: str) -> None:
    """R25: as people of that library write it; no code where that is not known."""
    dialect = libraries.named(library).dialect
    assert bool(dialect) is (library != "some_library")
    code = f"labels = {dialect['argmax']('labels', 1)}" if dialect else ""
    modules = aliases(dialect["one_hot"]("labels", 3) if dialect else "").values()
    assert all(module.partition(".")[0] == library for module in modules)
    assert bool(modules) is bool(dialect)
    call = problem((2, 3, 4), (2, 3, 4), "float32 int64")
    call = call._replace(labels=call.labels._replace(library=library))
    with pytest.raises(ShapeError) as caught:
        make_plan(call)
    fixes = diagnose(call, caught.value).fixes
    assert code in {fix.code.partition(";")[0] for fix in fixes}


@pytest.mark.parametrize("given", ["float32", "bool", "uint8"])
def test_argmax_of_every_dtype(backend: Backend, given: str) -> None:
    """R25: no library has the argmax of booleans; a fix works around that."""
    rows = np.eye(3)[[0, 2]].repeat(4, 0).reshape(2, 4, 3).astype(given)
    arguments = backend.asarray(np.zeros((2, 4, 3), np.float32)), backend.asarray(rows)
    found = told_by(arguments, {})
    assert isinstance(found, ShapeError)
    mended = [fix.apply(*arguments) for fix in found.fixes if "argmax(" in fix.code]
    assert mended
    for call in mended:
        cross_entropy(**call)


@pytest.mark.parametrize("dtype", ["bool", "complex64", "float8_e4m3fn", "str", "int64", "float16"])
def test_logits_of_every_kind(dtype: str) -> None:
    """R1, R25: only integers may be predicted classes, and only numbers are cast."""
    told = explain(f"{dtype}[4, 3]", "int64[4]").error
    if dtype == "float16":
        assert told is None
        return
    tags = {reading.tag for reading in told.readings}
    assert ("argmax_passed_as_logits" in tags) is (dtype == "int64")
    assert ("logits_of_another_kind" in tags) is (dtype != "int64")
    code = {fix.code for fix in told.fixes if fix.code}
    is_number = dtype in {"float8_e4m3fn", "int64"}
    assert code == ({"logits = np.asarray(logits, np.float32)"} if is_number else set())


VALUES: dict[str, tuple[Any, ...]] = {
    "label_out_of_range_negative_sentinel": (
        ([0, -1, 2], 3, "ignore_index=-1"),
        ([0, -5, 2], 3, "ignore_index=-5"),
        ([-1, 1, -1], 2, "labels = (labels + 1) // 2"),
    ),
    "label_out_of_range_one_based": (([1, 3, 2], 3, "labels = labels - 1"),),
    "label_out_of_range_void": (([0, 255, 2], 3, "ignore_index=255"),),
    "label_out_of_range_raw_pixels": (([0, 255, 255], 2, "labels = labels // 255"),),
    "too_few_output_units": (([0, 3, 2], 3, ""), ([0, 1000, 5], 3, "")),
    "hidden_states_not_logits": (([0, 30000, 9], 768, ""),),
    "single_output_unit_with_categorical_loss": (([0, 1, 1], 1, ""),),
}


@pytest.mark.parametrize(
    ("tag", "case"), [(tag, case) for tag, cases in VALUES.items() for case in cases]
)
def test_patterns_of_wrong_ids(
    backend: Backend, tag: str, case: tuple[list[int], int, str]
) -> None:
    """R17: the pattern of labels that are out of range is named first, with what mends it."""
    labels, classes, code = case
    arrays = backend.asarray(np.zeros((3, classes), np.float32)), backend.asarray(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not backend.reads_labels:
            cross_entropy(*arrays)
            arrays = arrays[0], np.array(labels)  # of the host, so they are read
        with pytest.raises(LabelError) as caught:
            cross_entropy(*arrays)
    error = caught.value
    first = error.fixes[0]
    assert (error.cause, first.code.replace("np.asarray(labels)", "labels")) == (tag, code)
    assert first.kind == ("conditional" if code else "elsewhere")
    if code:
        cross_entropy(**first.apply(*arrays))


def test_wrong_ids_with_two_faults_have_no_code() -> None:
    """R25: where a step does not mend the whole call, it says what else is to be done."""
    with pytest.raises(LabelError) as caught:
        cross_entropy(np.zeros((3, 3)), [1, 4, 2])
    assert caught.value.cause == "label_out_of_range_one_based"
    assert {fix.kind for fix in caught.value.readings[0].fixes} == {"elsewhere"}
    assert "subtract 1" in caught.value.fixes[0].text
    assert "give the last layer 4 output units" in caught.value.fixes[0].text


def test_ids_that_weights_drop_are_not_blamed() -> None:
    """R16, R17: the -1 has weight 0, so 7 is what is wrong."""
    with pytest.raises(LabelError) as caught:
        cross_entropy(np.zeros((3, 3)), [-1, 7, 1], sample_weight=[0, 1, 1])
    assert caught.value.cause == "too_few_output_units"


def test_unchecked_values_are_not_looked_at() -> None:
    """R17: under ``check=False`` not even where the call fails."""
    labels = np.array([-1.0, 0.5, 1.0])
    with pytest.raises(DTypeError, match="regression") as looked:
        cross_entropy(np.zeros((3, 3)), labels)
    with pytest.raises(DTypeError) as blind:
        cross_entropy(np.zeros((3, 3)), labels, check=False)
    assert looked.value.cause == "regression_target_with_classification_loss"
    assert blind.value.cause == "float_labels"


def test_options_have_no_cause() -> None:
    """R25: a number out of its range says all there is to say."""
    with pytest.raises(OptionError) as caught:
        cross_entropy(np.zeros((2, 3)), np.zeros(5, int), z_loss=-1)
    assert (caught.value.cause, caught.value.fixes) == (None, ())


@pytest.mark.skip_backend("numpy", reason="its arrays are on the host, and nowhere else")
def test_devices_are_shown(backend: Backend) -> None:
    """R25: where the arrays are is one of the facts, if the library tells."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    found = told_by((logits, np.zeros(5, int)), {})
    line = str(found).splitlines()[1]
    assert re.match(r"  logits: \w+ float32\[2, 3\]( on \S.*)?   labels: numpy int64\[5\]   ", line)
    assert (" on " in line) is hasattr(logits, "device")


SCORES, OUTCOMES = np.array([0.5, -2, 3, 1], np.float32), np.array([1, 0, 0, 1])
BINARY = np.log1p(np.exp(np.where(OUTCOMES == 1, -SCORES, SCORES))).mean()
ONE_SCORE = {
    "scores": (SCORES, OUTCOMES),
    "booleans": (SCORES, OUTCOMES == 1),
    "a column of labels": (SCORES, OUTCOMES[:, None]),
    "a column of scores": (SCORES[:, None], OUTCOMES),
    "two columns": (SCORES[:, None], OUTCOMES[:, None]),
    "floating labels": (SCORES[:, None], OUTCOMES.astype(np.float32)),
    "one-hot rows": (SCORES[:, None], np.eye(2, dtype=np.float32)[OUTCOMES]),
    "pixels": (SCORES.reshape(1, 1, 2, 2), OUTCOMES.reshape(1, 2, 2)),
}


@pytest.mark.parametrize("case", ONE_SCORE)
@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
def test_one_score_becomes_those_of_two_classes(backend: Backend, case: str) -> None:
    """R9, R25: as a binary classifier has them; the loss is that of its sigmoid."""
    scores, labels = ONE_SCORE[case]
    if backend.reads_labels:  # else of the host, so they are read
        labels = backend.asarray(labels)
    arrays = backend.asarray(scores), labels
    with pytest.raises(LossInputError) as caught:
        cross_entropy(*arrays)
    assert "to 0..0" not in str(caught.value)
    (fix,) = (fix for fix in caught.value.fixes if "zeros_like" in fix.code)
    assert fix.kind == "conditional"
    found = backend.to_numpy(cross_entropy(**fix.apply(*arrays)))
    np.testing.assert_allclose(found, BINARY, rtol=1e-6)


def test_a_decision_function_of_scikit_learn() -> None:
    """R25: the loss of its scores, once they are two, is that of its probabilities."""
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 3))
    outcomes = (features[:, 0] + rng.standard_normal(40) > 0).astype(int)
    model = linear.LogisticRegression().fit(features, outcomes)
    with pytest.raises(ShapeError) as caught:
        cross_entropy(model.decision_function(features), outcomes)
    (fix,) = (fix for fix in caught.value.fixes if "zeros_like" in fix.code)
    mended = fix.apply(model.decision_function(features), outcomes)
    wanted = cross_entropy(model.predict_log_proba(features), outcomes)
    np.testing.assert_allclose(cross_entropy(**mended), wanted)


@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
def test_one_score_that_is_no_outcome_has_no_second() -> None:
    """R25: of ids beyond 0 and 1, and of probabilities."""
    for labels in (np.array([0, 2, 1, 1]), np.array([0.5, 0.25, 1, 0])):
        with pytest.raises(LossInputError) as caught:
            cross_entropy(SCORES[:, None], labels)
        assert not any(fix.code for fix in caught.value.fixes)
    assert "and labels are 0 and 1" in str(explain((4,), "int64[4]").error)
