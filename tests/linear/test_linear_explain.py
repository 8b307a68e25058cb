"""`explain` of calls of the linear form."""

import tracemalloc
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.helpers.backends import BACKENDS, Backend
from tests.linear.conftest import by_rows
from unified_loss import (
    LossInputError,
    OptionError,
    cross_entropy,
    explain,
    linear_cross_entropy,
    linear_cross_entropy_with_grad,
)
from unified_loss.__main__ import main
from unified_loss._backends.numpy import BACKEND as NUMPY
from unified_loss._explain._linear import way_of
from unified_loss._types import Form

LARGE = ("float32[2048, 768]", "int64[2048]", "float32[32000, 768]")


def told(report: Any) -> dict[str, str]:
    """The facts of a report by their headings."""
    return dict(report.facts)


def test_text() -> None:
    """What is told of a call: its logits, the walk and its memory beside theirs, and the code."""
    hidden, labels, weight = LARGE
    report = explain(
        hidden,
        labels,
        weight=weight,
        bias="bf16[32000]",
        z_loss=1e-4,
        framework="numpy",
    )
    assert (
        str(report)
        == """\
valid: hidden numpy float32[2048, 768], weight numpy float32[32000, 768], bias numpy \
bfloat16[32000], labels numpy int64[2048]
  logits   hidden times weight transposed + bias: float32 (2048, 32000), never made
  classes  32000, the rows of weight; the last axis of the logits
  labels   class ids in [0, 32000): int64, of the batch shape
  batch    (2048,), 2,048 examples
  z_loss   adds 0.0001 times the squared log of the softmax's denominator
  dropped  examples with label -100
  loss     mean: the sum of all losses, divided by the number of examples that are not dropped (0 if
           none is left)
  result   numpy float32, of shape (); gradient of bias in bfloat16
  walk     for the loss alone by classes, 2,048 classes of 2,048 examples at a time; with gradients
           by rows, all classes of 180 examples at a time
  memory   about 16.8 MB of arrays beside the arguments; with gradients 23.1 MB, and 105 MB for
           themselves. The logits of the two steps are 262 MB.
  code     linear_cross_entropy(hidden, weight, labels, bias=bias, z_loss=0.0001)"""
    )
    assert report.kernel == "by classes, by rows with gradients"
    assert (report.axis, report.num_classes, report.batch_shape) == (1, 32000, (2048,))
    assert report.extra_memory == 16_826_368
    assert "never made" in report._repr_html_()
    capped = told(explain(hidden, labels, weight=weight, softcap=30))
    assert ", below a cap of 30: float32" in capped["logits"]
    assert capped["code"].endswith("labels, softcap=30)")


WALKS = {
    "numpy": "by classes, by rows with gradients",
    "torch": "by classes, by rows with gradients",
    "array_api_strict": "by classes",
    "jax": "by classes",
    "tensorflow": "by classes",
}


def test_walk_in_every_library(backend: Backend) -> None:
    """R29: large, small, and of dense labels; by shapes as by arrays."""
    hidden, labels, weight = LARGE
    library = str(explain(backend.asarray(np.zeros((1, 2)), "float32"), [0])).split()[2]
    large = explain(hidden, labels, weight=weight, framework=library)
    assert large.kernel == WALKS.get(backend.name, large.kernel)
    if backend.name in WALKS:
        assert large.extra_memory < 2**26
        assert "never made" in told(large)["logits"]
        assert explain(
            hidden, labels, weight=weight, framework=library, reduction="none"
        ).kernel == ("by classes")
    shapes = ((4, 3), (4,), (7, 3))
    arrays = [backend.asarray(np.zeros(shape), "float32") for shape in (shapes[0], shapes[2])]
    ids = backend.asarray(np.zeros(4, np.int32))
    small = explain(arrays[0], ids, weight=arrays[1])
    by_shapes = explain(shapes[0], "int32[4]", weight=shapes[2], framework=library)
    assert str(small.kernel).startswith("two steps: ")
    assert small.extra_memory >= 4 * 4 * 7
    for heading in ("logits", "classes", "labels", "result", "walk", "code"):
        assert told(small)[heading] == told(by_shapes)[heading]
    dense = explain(hidden, "float32[2048, 32000]", weight=weight, framework=library)
    assert dense.label_kind == "dense"
    if backend.name == "tensorflow":
        assert "this call has no walk in this library" in told(dense)["walk"]
    if backend.name == "dask":
        assert told(large)["walk"].endswith("chunk by chunk")


def test_walks_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told is what happens: one function decides both."""
    by_rows(monkeypatch)
    assert explain((4, 3), (4,), weight=(7, 3)).kernel == "by classes, by rows with gradients"
    assert "2 examples at a time" in told(explain((4, 3), (4,), weight=(7, 3)))["walk"]


SIZES = st.sampled_from([0, 1, 2, 3])
PARTS = st.lists(SIZES, max_size=3)
DTYPES = st.sampled_from(["float16", "float32", "float64", "int64", "uint8"])


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, Any]]:
    """Shapes of any call, many of them wrong."""
    hidden = draw(PARTS)
    classes = draw(SIZES)
    weight = draw(st.just([classes, *hidden[-1:]]) | st.just([*hidden[-1:], classes]) | PARTS)
    labels = draw(st.just(hidden[:-1]) | st.just([*hidden[:-1], classes]) | PARTS)
    floating = st.sampled_from(["float16", "float32", "float64"])
    given = {"hidden": f"{draw(floating | DTYPES)}{hidden}", "labels": f"{draw(DTYPES)}{labels}"}
    given["weight"] = f"{draw(floating)}{weight}"
    if draw(st.booleans()):
        given["bias"] = f"float32{draw(st.just([classes]) | PARTS)}"
    options = {
        "softcap": draw(st.sampled_from([None, 2.0, -1])),
        "ignore_index": draw(st.sampled_from([-100, None, 1])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.5, 2])),
        "reduction": draw(st.sampled_from(["mean", "none", "sum", "batchmean"])),
    }
    return given, options


def zeros(text: str) -> Any:
    """The array that a text stands for."""
    dtype, _, sizes = text.partition("[")
    return np.zeros([int(size) for size in sizes.strip("]").split(",") if size], dtype)


@pytest.mark.filterwarnings("ignore::unified_loss.LossInputWarning")
@hypothesis.settings(max_examples=200)
@hypothesis.given(calls())
def test_explains_what_the_call_does(call: Any) -> None:
    """R25, R28: valid exactly where the call returns, else with the words of its error."""
    texts, options = call
    arrays = {name: zeros(text) for name, text in texts.items()}
    outcome = ""
    is_no_layer = arrays["weight"].ndim < 2 and "bias" not in arrays and options["softcap"] is None
    try:
        if is_no_layer:  # but weights of classes, as other libraries call them
            cross_entropy(arrays["hidden"], arrays["labels"], weight=arrays["weight"])
        loss = linear_cross_entropy(**arrays, **options, check=False)
    except LossInputError as error:
        outcome = f"invalid ({type(error).__name__}): {error}"
    for given in (texts, arrays):
        others = {name: one for name, one in given.items() if name not in {"hidden", "labels"}}
        report = explain(given["hidden"], given["labels"], **others, **options, check=False)
        assert (str(report) if report.error else "") == outcome
        assert report._repr_html_()
        if report.valid:
            assert (report.result_shape, report.result_dtype) == (loss.shape, loss.dtype.name)


def test_values_and_warnings_are_told() -> None:
    """R17: what is found in arrays is part of the report, and not raised."""
    hidden, weight = np.zeros((2, 3)), np.zeros((4, 3))
    assert "weight has 4 rows" in str(explain(hidden, [0, 7], weight=weight))
    assert explain(hidden, [0, 7], weight=weight, check=False).valid
    (text,) = explain(hidden, [0, 0], weight=np.zeros((1, 3))).warnings
    assert text == explain((2, 3), (2,), weight=(1, 3)).warnings[0]
    assert told(explain(hidden, [0, 1], weight=weight))["dropped"] == "examples with label -100"


def test_unknown_sizes_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be known is said."""
    report = explain("[?, 3]", "[?]", weight=(3, 3))
    assert report.valid
    assert (
        told(report)["walk"] == told(report)["memory"] == "depends on the sizes that are not known"
    )
    assert (report.kernel, report.extra_memory, report.batch_shape) == (None, None, (None,))
    assert explain("f32[...]", "[3]", weight="f32[...]").valid
    assert not explain("torch f32[4, 3]", (4,), weight="jax f32[7, 3]").valid
    monkeypatch.setattr("unified_loss._explain._reading._load", lambda _: None)
    missing = explain((4, 3), (4,), weight=(7, 3), framework="torch")
    assert told(missing)["walk"] == "not known: torch is not installed"


def test_what_does_not_go_together_raises() -> None:
    """A bias without a weight, and an axis beside one."""
    for weight in ((4,), np.ones(7, np.float32), [0.5, 1.0], 0.5):
        error = explain("f32[4, 3]", "int64[4]", weight=weight).error
        assert "here it is class_weight=, a weight for each class" in str(error)
        error = explain("f32[4, 3]", "int64[4]", weight=weight, softcap=3.0).error
        assert "A weight for each class is class_weight=" in str(error)
    nested = np.ones((7, 3)).tolist()
    assert explain(np.ones((4, 3)), [0, 1, 2, 3], weight=nested).valid
    with pytest.raises(OptionError, match="axis must be None beside weight"):
        explain((4, 3), (4,), weight=(7, 3), axis=1)
    for options in ({"bias": (7,)}, {"softcap": 3.0}):
        with pytest.raises(OptionError, match="must be None without weight="):
            explain((4, 3), (4,), **options)
    assert str(explain([[0.0]], [0], weight=np.zeros((2, 1))).error).startswith("hidden must be")
    with pytest.raises(LossInputError, match="weight must be an array, or a shape"):
        explain((4, 3), (4,), weight="7 by 3")
    assert explain((4, 3), (4,), class_weight=(3,)).valid


SIZED = [
    ((1024, 128), (8192, 128), "float32", {}),
    ((1024, 64), (8192, 64), "float32", {}),
    ((1024, 64), (8192, 64), "float32", {"softcap": 9.0}),
    ((1024, 128), (8192, 128), "float32", {"softcap": 9.0}),
    ((1024, 256), (4096, 256), "float16", {}),
    ((512, 32), (8192, 32), "float64", {"reduction": "none"}),
]


@pytest.mark.parametrize("case", SIZED, ids=str)
def test_memory_is_a_true_estimate(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R29: within a quarter, for the loss alone and with gradients."""
    monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", "1")
    *shapes, dtype, options = case
    hidden, weight = (np.zeros(shape, dtype) for shape in shapes)
    labels = np.zeros(len(hidden), int)
    report = explain(hidden, labels, weight=weight, **options)
    way = way_of(NUMPY, report._problem, Form(report._plan, options.get("softcap")))
    assert way is not None
    assert report.extra_memory == way.alone
    for function, results, estimate in (
        (linear_cross_entropy, 0, way.alone),
        (linear_cross_entropy_with_grad, way.gradients, way.with_gradients),
    ):
        tracemalloc.start()
        function(hidden, weight, labels, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.75 * estimate < peak - results < 1.25 * estimate


def test_estimate_for_jax(installed: list[Backend]) -> None:
    """R29: XLA's own figure of its temporaries."""
    if BACKENDS["jax"] not in installed:
        pytest.skip("JAX is not under test")
    import jax

    hidden, weight, labels = (
        jax.ShapeDtypeStruct((1024, 128), "float32"),
        jax.ShapeDtypeStruct((16384, 128), "float32"),
        jax.ShapeDtypeStruct((1024,), "int32"),
    )
    program = jax.jit(linear_cross_entropy).lower(hidden, weight, labels).compile()
    estimate = explain(hidden, labels, weight=weight).extra_memory
    size = program.memory_analysis().temp_size_in_bytes
    assert 0.75 * estimate < size < 1.25 * estimate


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`--weight` makes it a call of the linear form."""
    hidden, labels, weight = LARGE
    options = ["--weight", weight, "--bias", "[32000]", "--softcap", "30"]
    assert main(["explain", hidden, labels, *options]) == 0
    report = explain(hidden, labels, weight=weight, bias=(32000,), softcap=30)
    assert capsys.readouterr().out == f"{report}\n"
    assert main(["explain", "[4,3]", "[4]", "--weight", "[3,7]"]) == 1
    assert "weight = weight.T" in capsys.readouterr().out
    assert main(["explain", "[4,3]", "[4]", "--softcap", "3"]) == 2


def test_a_refused_call_is_told_by_its_parts() -> None:
    """R28: the headline has hidden, weight and labels; logits that cannot be made have no shape."""
    for given in (("f32[6, 4]", "i64[6]"), (np.zeros((6, 4), np.float32), np.zeros(6, int))):
        turned = explain(*given, weight=np.zeros((4, 9), np.float32))
        assert "hidden numpy float32[6, 4], weight numpy float32[4, 9]" in turned._repr_html_()
        assert (turned.axis, turned.num_classes, turned.error.logits_shape) == (None, None, None)
        assert 'class="axes"' not in turned._repr_html_()
        shorter = explain(*given, weight=np.zeros((9, 4), np.float32), bias=np.zeros(8, np.float32))
        assert shorter.error.logits_shape == (6, 9)
    labels = explain("f32[6, 4]", "i64[5]", weight="f32[9, 4]")
    assert (labels.num_classes, labels.batch_shape) == (9, (6,))
    assert "The order is hidden, weight, labels." in str(explain("u8[6]", "[6]", weight="[9, 4]"))
    unread = explain(np.zeros((6, 4)), [0], weight=np.zeros((9, 4)), class_weight={0: 1.0})
    assert (unread.valid, unread.axis) == (False, None)
