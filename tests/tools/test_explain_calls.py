"""`explain` beside the call that it explains, and on the command line."""

import tracemalloc
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.helpers.backends import Backend
from tests.helpers.problems import Problem
from tests.helpers.strategies import problems
from unified_loss import BackendError, LossInputError, OptionError, cross_entropy, explain
from unified_loss.__main__ import main
from unified_loss._backends.numpy import NumpyBackend

WRONG_ALL_THE_SAME = [
    ((2, 3), "jax int32[2]", {"framework": None, "sample_weight": "torch f32[2]"}, BackendError),
    ("numpy f32[2, 3]", "jax int32[2]", {}, BackendError),
    ((2, 3), (2,), {"normalizer": -1}, OptionError),
    ((2, 3), (2,), {"normalizer": "float32[2]"}, OptionError),
    ((2, 3), (2,), {"reduction": "batchmean"}, OptionError),
    (np.zeros((2, 3)), [0, 1], {"label_smoothing": 2}, OptionError),
]


@pytest.mark.parametrize("case", WRONG_ALL_THE_SAME, ids=str)
def test_wrong_calls_are_reported(case: Any) -> None:
    """R2, R8: a report, and no exception."""
    logits, labels, options, kind = case
    assert type(explain(logits, labels, **options).error) is kind


def test_normalizer_may_be_a_shape() -> None:
    """R8: a 0-d array."""
    assert explain((2, 3), (2,), normalizer="float32[]").valid
    assert explain((2, 3), (2,), normalizer=()).valid
    assert explain((2, 3), (2,), normalizer=np.float32(3)).valid


@pytest.mark.parametrize("dtype", ["uint7", "int128", "float8_e5m3", "u3"])
def test_other_numbers_of_bits_are_no_misspelt_names(dtype: str) -> None:
    """A library has them, or will; a report says where they are no help."""
    assert "no dtype" not in str(explain((4, 3), f"{dtype}[4]"))
    assert "no dtype" not in str(explain(f"{dtype}[4, 3]", (4,)))


UNREADABLE = [
    ("abc", (2,), {}),
    ((2, 3), "int64[two]", {}),
    ((2, -3), (2,), {}),
    ("flaot32[2, 3]", (2,), {}),
    ((2, 3), "itn64[2]", {}),
    ((2, 3), (2,), {"framework": "mxnet"}),
    (np.zeros((2, 3)), "int64[2]", {"framework": "numpy"}),
]


SCORES, IDS = np.zeros((2, 3), np.float32), [0, 2]
NO_ARRAYS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "lists": (SCORES.tolist(), IDS, {}),
    "a number": (0.5, IDS, {}),
    "nothing": (None, IDS, {}),
    "a model's output": ({"logits": SCORES}, IDS, {}),
    "no labels": (SCORES, None, {}),
    "names": (SCORES, ["cat", "dog"], {}),
    "missing": (SCORES, [0, None], {}),
    "rows of two lengths": (SCORES, [[0], [0, 1]], {}),
    "weights by name": (SCORES, IDS, {"class_weight": "balanced"}),
    "weights by id": (SCORES, IDS, {"class_weight": {0: 1.0}}),
    "a mask by name": (SCORES, IDS, {"sample_weight": "mask"}),
    "a number by name": (SCORES, IDS, {"normalizer": "tokens"}),
    "another library's word": (SCORES, IDS, {"weight": [1.0, 2.0, 1.0]}),
    "another library's word, by name": (SCORES, IDS, {"weight": "balanced"}),
}


@pytest.mark.parametrize("case", NO_ARRAYS)
def test_what_the_call_refuses_is_reported(backend: Backend, case: str) -> None:
    """R25: no array, where one is wanted; in the words of the call itself."""
    logits, labels, options = NO_ARRAYS[case]
    if isinstance(logits, np.ndarray):
        logits = backend.asarray(logits)
    with pytest.raises(LossInputError) as caught:
        cross_entropy(logits, labels, **options)
    found = explain(logits, labels, **options).error
    assert (type(found), str(found)) == (type(caught.value), str(caught.value))


@pytest.mark.parametrize("case", NO_ARRAYS)
def test_what_the_call_refuses_is_reported_beside_shapes(case: str) -> None:
    """R25: the same kind of error, where the other arguments are shapes."""
    logits, labels, options = NO_ARRAYS[case]
    with pytest.raises(LossInputError) as caught:
        cross_entropy(logits, labels, **options)
    if isinstance(logits, np.ndarray):
        logits = (2, 3)
    else:
        labels = "int64[2]"
    found = explain(logits, labels, **options).error
    assert (type(found), found and found.cause) == (type(caught.value), caught.value.cause)


def test_tables_of_logits_are_reported() -> None:
    """R2: with the code that makes an array of them."""
    for library in ("pandas", "polars"):
        table = pytest.importorskip(library).DataFrame(SCORES)
        assert "logits = logits.to_numpy()" in str(explain(table, IDS).error)


@pytest.mark.parametrize("case", UNREADABLE, ids=str)
def test_what_is_no_shape_raises(case: Any) -> None:
    """What is neither an array nor a shape, and an unknown library, cannot be explained."""
    logits, labels, options = case
    with pytest.raises(LossInputError, match=r"(logits|labels|framework) must be"):
        explain(logits, labels, **options)


SIZES = st.sampled_from([0, 1, 2, 2, 3, 5])
DTYPES = st.sampled_from(["float16", "float32", "float64", "int64", "uint8", "bool", "complex64"])


@st.composite
def calls(draw: st.DrawFn) -> tuple[tuple[str, str], dict[str, Any]]:
    """Any two arrays and options, many of them wrong; the arrays as text."""
    logits = draw(st.lists(SIZES, max_size=4))
    near = st.permutations(logits).map(lambda sizes: sizes[: max(0, len(logits) - 1)])
    labels = draw(st.just(logits[1:]) | st.just(logits[:-1]) | near | st.lists(SIZES, max_size=4))
    texts = (f"{draw(DTYPES)}{logits}", f"{draw(DTYPES)}{labels}")
    options = {
        "axis": draw(st.none() | st.integers(-4, 4)),
        "ignore_index": draw(st.sampled_from([-100, -100, None, 1])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.5, 2])),
        "reduction": draw(st.sampled_from(["mean", "none", "sum", "batchmean"])),
    }
    return texts, options


def zeros(text: str) -> Any:
    """The array that a text stands for."""
    dtype, _, sizes = text.partition("[")
    return np.zeros([int(size) for size in sizes.strip("]").split(",") if size], dtype)


def outcome(*arguments: Any, **options: Any) -> str:
    """The text of what a call raises, empty if it returns."""
    try:
        cross_entropy(*arguments, **options)
    except LossInputError as error:
        return f"invalid ({type(error).__name__}): {error}"
    return ""


@pytest.mark.filterwarnings("ignore::unified_loss.LossInputWarning")
@hypothesis.settings(max_examples=300)
@hypothesis.given(calls())
def test_explains_what_the_call_does(call: Any) -> None:
    """R25: valid exactly where the call returns, else with the words of its error."""
    texts, options = call
    arrays = tuple(map(zeros, texts))
    by_shapes = explain(*texts, **options, check=False)
    assert (str(by_shapes) if by_shapes.error else "") == outcome(*arrays, **options, check=False)
    by_arrays = explain(*arrays, **options)
    assert (str(by_arrays) if by_arrays.error else "") == outcome(*arrays, **options)
    if by_arrays.valid and by_shapes.valid:
        loss = cross_entropy(*arrays, **options)
        assert (by_shapes.result_shape, by_shapes.result_dtype) == (loss.shape, loss.dtype.name)


@hypothesis.given(problems())
def test_legal_calls_are_valid(problem: Problem) -> None:
    """Weights, options and every kind of labels; and all within a screen."""
    report = explain(**problem.arrays, **problem.options)
    assert report.valid
    assert len(str(report).splitlines()) <= 24
    by_name = {name: f"{array.dtype}{list(array.shape)}" for name, array in problem.arrays.items()}
    # Labels whose values are known may have another kernel.
    found = explain(**by_name, **problem.options).facts
    assert [fact for fact in found if fact[0] != "kernel"] == [
        fact for fact in report.facts if fact[0] != "kernel"
    ]


def test_computes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel runs, for arrays neither."""
    for name in ("loss", "loss_and_gradient"):
        monkeypatch.setattr(NumpyBackend, name, lambda *_: pytest.fail("computed"))
    assert explain(np.zeros((2, 3)), [0, 1]).valid
    assert explain((2, 3), (2,)).valid


def test_values_are_looked_at_as_the_call_would() -> None:
    """R17: errors and warnings about values are part of the report, and are not raised."""
    assert "[0, 3)" in str(explain(np.zeros((2, 3)), [0, 7]).error)
    assert explain(np.zeros((2, 3)), [0, 7], check=False).valid
    (text,) = explain(np.zeros((2, 3)), np.ones((2, 3)), check=True).warnings
    assert "do not sum to 1" in text


def test_reports_keep_no_arrays() -> None:
    """An error in a report has no traceback, which would hold the arguments."""
    assert explain(np.zeros((2, 3)), [0, 7]).error.__traceback__ is None


CASES = [
    ((640, 20), "float32", {}),
    ((640, 20), "float16", {}),
    ((640, 20), "float64", {"label_smoothing": 0.1}),
    ((6400, 20), "float32", {}),
    ((640, 2000), "float32", {}),
    ((2000, 500), "float16", {}),
    ((64000, 20), "float32", {}),
    ((640, 20), "float32", {"dense": True}),
    ((640, 2000), "float32", {"dense": True}),
    ((2000, 5000), "float32", {"dense": True}),
    ((64000, 20), "float32", {"dense": True}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_memory_is_a_true_estimate(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never above the estimate by more than a tenth, nor below half of it."""
    monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", "1")
    shape, dtype, options = case
    options = dict(options)
    logits = np.random.default_rng(0).normal(size=shape).astype(dtype)
    labels = np.zeros(shape if options.pop("dense", False) else shape[0], np.float32)
    labels = labels if labels.ndim == 2 else labels.astype(int)
    cross_entropy(logits, labels, **options)
    tracemalloc.start()
    cross_entropy(logits, labels, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    estimate = explain(logits, labels, **options).extra_memory
    assert 0.5 * estimate < peak < 1.1 * estimate


def test_command_tells_a_valid_call(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and the report."""
    options = "--axis 1 --class-weight [5] --sample-weight bool[8] --ignore-index none "
    options += "--label-smoothing .5 --z-loss .5 --reduction mean --normalizer 3 --framework numpy"
    assert main(["explain", "[8,5,16]", "[8,16]", *options.split()]) == 0
    report = explain(
        (8, 5, 16),
        (8, 16),
        axis=1,
        class_weight=(5,),
        sample_weight="bool[8]",
        ignore_index=None,
        label_smoothing=0.5,
        z_loss=0.5,
        normalizer=3,
    )
    assert capsys.readouterr().out == f"{report}\n"


def test_a_report_is_true_if_the_call_is_valid() -> None:
    """As people ask it: ``if explain(...)``."""
    for labels, valid in (("int64[4]", True), ("int64[5]", False)):
        report = explain("float32[4, 3]", labels)
        assert bool(report) == report.valid == valid


def test_command_tells_an_invalid_call(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and the diagnosis."""
    assert main(["explain", "float32[640,20]", "int64[32]", "--ignore-index", "7"]) == 1
    assert capsys.readouterr().out.startswith("invalid (ShapeError): labels must have shape (640,)")


def test_command_refuses_what_is_no_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the form to write."""
    assert main(["explain", "640/20", "int64[32]", "--framework", "mlx"]) == 2
    assert 'a shape such as "float32[32, 10]"' in capsys.readouterr().err


def test_command_without_the_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not installed has no kernel to name."""
    monkeypatch.setattr("unified_loss._libraries.installed_names", lambda: iter(()))
    assert main(["explain", "[4,3]", "[4]", "--framework", "array_api_strict"]) == 0
    assert "array_api_strict float32[4, 3]" in capsys.readouterr().out
