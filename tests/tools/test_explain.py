"""`explain`: how it reads its arguments, and what it says of a call."""

import doctest
import importlib
from typing import Any

import numpy as np
import pytest

import unified_loss._explain
from tests.helpers.backends import Backend
from unified_loss import _dispatch as dispatch
from unified_loss import explain
from unified_loss._cross_entropy import kernel_of

TEXTS = {
    "index": (
        explain("float32[640, 20]", "int64[640]"),
        """\
valid: logits numpy float32[640, 20], labels numpy int64[640]
  class axis  1 (size 20): the last axis of 2-D logits
  labels      class ids in [0, 20): int64, of the batch shape
  batch       (640,), 640 examples
  dropped     examples with label -100
  loss        mean: the sum of all losses, divided by the number of examples that are not dropped (0
              if none is left)
  result      numpy float32, of shape ()
  kernel      log-sum-exp in one pass
  memory      at most about 118 kB of arrays beside the arguments: 2 float32 arrays of the logits'
              size, and a few numbers an example. A gradient, if asked for, is another 51.2 kB.""",
    ),
    "options": (
        explain(
            (8, 5, 16, 16),
            "uint8[8, 1, 16, 16]",
            class_weight=(5,),
            sample_weight="f32[8]",
            label_smoothing=0.1,
            z_loss=1e-4,
            reduction="none",
        ),
        """\
valid: logits numpy float32[8, 5, 16, 16], labels numpy uint8[8, 1, 16, 16]
  class axis       1 (size 5): of axes 1 and 3 the only one that fits labels of shape (8, 1, 16, 16)
  labels           class ids in [0, 5): uint8, of the logits' shape with the class axis kept at size
                   1
  batch            (8, 16, 16), 2,048 examples
  class_weight     one weight for each class
  sample_weight    one weight for each entry of the first batch axis, extended over the others
  label_smoothing  0.1 of each label row goes to all classes
  z_loss           adds 0.0001 times the squared log of the softmax's denominator
  dropped          examples with sample weight 0, or all if every class weight is 0
  loss             none: the weighted losses of all examples, 0 where dropped
  result           numpy float32, of shape (8, 16, 16)
  kernel           row statistics
  memory           at most about 131 kB of arrays beside the arguments: 2 float32 arrays of the
                   logits' size, and a few numbers an example. A gradient, if asked for, is another
                   41 kB.""",
    ),
    "unknown": (
        explain("bf16[?, 3, 5]", "bf16[?, 3, 5]", axis=1, class_weight=(3,), label_smoothing=0.5),
        """\
valid: logits numpy bfloat16[?, 3, 5], labels numpy bfloat16[?, 3, 5]
  class axis       1 (size 3): axis=1 was given
  labels           dense, a row for each example (probabilities): bfloat16, of the logits' shape
  batch            (?, 5)
  class_weight     one weight for each class
  label_smoothing  0.5 of each label row goes to all classes
  dropped          examples whose label row, smoothed and weighted, is all zeros
  loss             mean: the sum of all losses, divided by the total mass of those not dropped, each
                   with its label row times class_weight, summed (0 if that is 0)
  result           numpy float32, of shape (); a gradient in bfloat16
  kernel           row statistics or row statistics in blocks
  memory           depends on the sizes that are not known""",
    ),
    "single": (
        explain(np.zeros((2, 1), np.float32), [0, 0]),
        """\
valid: logits numpy float32[2, 1], labels python int64[2]
  class axis  1 (size 1): the last axis of 2-D logits
  labels      class ids in [0, 1): int64, of the batch shape
  batch       (2,), 2 examples
  dropped     examples with label -100
  loss        mean: the sum of all losses, divided by the number of examples that are not dropped (0
              if none is left)
  result      numpy float32, of shape ()
  kernel      log-sum-exp in one pass
  memory      at most about 64 bytes of arrays beside the arguments: 2 float32 arrays of the logits'
              size, and a few numbers an example. A gradient, if asked for, is another 8 bytes.
  warning     the class axis of logits (2, 1) has size 1, so the loss of class id 0 is always 0, and
              any other id is out of range. For one score per example use a binary (sigmoid) cross-
              entropy, or give two classes.""",
    ),
    "no_problem": (
        explain(np.zeros((2, 3)), None),
        """\
invalid (BackendError): labels must be of the logits' library (numpy), or host data (numbers, \
lists, NumPy arrays), but are of type NoneType.
  hint: give numbers, lists of numbers or an array.""",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    """A report is a text that fits a terminal."""
    report, text = TEXTS[name]
    assert str(report) == repr(report) == text
    assert len(text.splitlines()) <= 20


FACTS = {
    "only axis": ((3,), (), {}, "class axis", "0 (size 3): the only axis"),
    "scalar batch": ((3,), (), {}, "batch", "(), 1 example"),
    "unknown rank": ("f32[...]", "[3]", {"axis": -1}, "batch", "of unknown rank"),
    "unknown labels": (
        "f32[...]",
        "[3]",
        {"axis": -1},
        "labels",
        "class ids in [0, ?): int64, and integers are class ids where a rank is unknown",
    ),
    "unknown rows": (
        (4, 3),
        "f32[...]",
        {},
        "labels",
        "dense, a row for each example (probabilities): float32, of unknown rank",
    ),
    "as far as known": (
        "[?,3,5]",
        "[?,5]",
        {},
        "class axis",
        ("1 (size 3): of axes 1 and 2 the only one that fits labels of shape (?, 5), as far as "
         "sizes are known"),
    ),
    "one-hot": (
        (4, 3),
        "bool[4,3]",
        {},
        "labels",
        "dense, a row for each example (one-hot or multi-hot): bool, of the logits' shape",
    ),
    "mask": ((4, 3), (4,), {"sample_weight": "bool[4]"}, "sample_weight",
             "a mask entry for each example"),
    "mask drops": ((4, 3), (4,), {"sample_weight": "bool[4]", "ignore_index": None}, "dropped",
                   "examples with sample weight False"),
    "weights of unknown rank": (
        (4, 3),
        (4,),
        {"sample_weight": "f32[...]"},
        "sample_weight",
        "one weight for each example, or for each entry of the first batch axis",
    ),
    "zero class": ((4, 3), (4,), {"class_weight": (3,)}, "dropped",
                   "examples with label -100, or with class weight 0"),
    "zero rows": ((4, 3), (4, 3), {}, "dropped", "examples whose label row is all zeros"),
    "no such label": ((4, 3), "uint8[4]", {}, "dropped",
                      "nothing: labels of dtype uint8 cannot be -100"),
    "nothing": ((4, 3), (4,), {"ignore_index": None}, "dropped", "nothing"),
    "sum": ((4, 3), (4,), {"reduction": "sum"}, "loss",
            "sum of the losses of all examples that are not dropped"),
    "normalizer": ((4, 3), (4,), {"normalizer": 7}, "loss",
                   "mean: the sum of all losses, divided by normalizer, not by their total mass"),
    "sample weights": (
        (4, 3),
        (4,),
        {"sample_weight": (4,)},
        "loss",
        ("mean: the sum of all weighted losses, divided by the total mass of those not dropped, "
         "each with its sample weight (0 if that is 0)"),
    ),
    "both weights": (
        (4, 3),
        (4,),
        {"sample_weight": (4,), "class_weight": (3,)},
        "loss",
        ("mean: the sum of all weighted losses, divided by the total mass of those not dropped, "
         "each with its sample weight times the class weight of its label (0 if that is 0)"),
    ),
    "result of unknown rank": ("f32[...]", "[3]", {"axis": -1, "reduction": "none"}, "result",
                               "numpy float32, of the batch shape"),
    "blocks": (
        (200_000, 200),
        (200_000,),
        {},
        "memory",
        ("at most about 8.9 MB of arrays beside the arguments: 2 float32 arrays of 513,020 "
         "logits, and a few numbers an example. A gradient, if asked for, is another 160 MB."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_facts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3, R4, R12 to R16: each fact in words."""
    monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", "1")
    logits, labels, options, heading, text = FACTS[name]
    assert dict(explain(logits, labels, **options).facts)[heading] == text


def test_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread has its own blocks."""
    monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", "4")
    text = dict(explain((200_000, 20), (200_000,)).facts)["memory"]
    assert "3 float32 arrays of 125,020 logits in each of 4 threads" in text


def test_attributes() -> None:
    """What programs ask for."""
    report = explain("f16[2, 5, 7]", (2, 7), reduction="none")
    found = (report.valid, report.axis, report.num_classes, report.label_kind, report.batch_shape)
    assert found == (True, 1, 5, "index", (2, 7))
    assert (report.result_shape, report.result_dtype, report.warnings) == ((2, 7), "float32", ())
    assert explain((2, 5), (2, 5)).result_shape == ()
    wrong = explain((2, 5), (3,))
    assert not wrong.valid
    assert wrong.error.cause
    names = ("label_kind", "result_shape", "result_dtype", "kernel", "extra_memory")
    assert [getattr(wrong, name) for name in names] == [None] * 5
    assert (wrong.axis, wrong.num_classes, wrong.batch_shape) == (1, 5, (2,))
    for open_ in (explain((2, 5, 7), (3,)), explain((), (3,)), explain("f32[...]", (3,))):
        assert (open_.axis, open_.num_classes, open_.batch_shape) == (None, None, None)


SAME_CALL = [
    ("float32[2, 5, 7]", "int64[2, 7]"),
    ("f32(2, 5, 7)", "i64(2, 7,)"),
    ("float[2,5,7]", "int[2,7]"),
    ("2, 5, 7", "2 7"),
    ("(2, 5, 7) float32", "(2, 7), int64"),
    ("f32[2,5,7]{2,1,0}", "s64[2,7]"),
    ("np.float32 [2, 5, 7]", "(2, 7) dtype('int64')"),
    ("numpy float32[2, 5, 7]", "numpy int64[2, 7]"),
    ((2, 5, 7), (2, 7)),
    ("[2, 5, 7]", "[2, 7]"),
    ((np.int64(2), 5, 7), "numpy int64[2, 7]"),
    (np.zeros((2, 5, 7), np.float32), "int64[2, 7]"),
    ((2, 5, 7), np.zeros((2, 7), np.int64)),
]


@pytest.mark.parametrize("arguments", SAME_CALL, ids=str)
def test_every_kind_of_shape_reads_the_same(arguments: tuple[Any, Any]) -> None:
    """Text, tuples and arrays may be mixed."""
    assert str(explain(*arguments)) == str(explain(*SAME_CALL[0]))


def abstract(backend: Backend) -> tuple[Any, Any]:
    """What the library itself has for an array without values, float32[2, 5] and int32[2]."""
    xp = backend.library.xp
    if backend.name == "torch":
        return tuple(xp.zeros(shape, dtype=getattr(xp, dtype), device="meta")
                     for shape, dtype in (((2, 5), "float32"), ((2,), "int32")))  # fmt: skip
    if backend.name == "jax":
        import jax

        return jax.ShapeDtypeStruct((2, 5), "float32"), jax.ShapeDtypeStruct((2,), "int32")
    return xp.TensorSpec((2, 5), "float32"), xp.TensorSpec((2,), "int32")


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_abstract_arrays_tell_their_library(name: str, installed: list[Backend]) -> None:
    """Meta tensors, `ShapeDtypeStruct` and `TensorSpec` are shapes of their library."""
    backend = next((one for one in installed if one.name == name), None)
    if backend is None:
        pytest.skip(f"{name} is not selected")
    logits, labels = abstract(backend)
    report = explain(logits, labels)
    assert str(report) == str(explain("[2, 5]", "int32[2]", framework=name))
    assert report.facts[0] == explain("[2, 5]", labels).facts[0]
    if name == "tensorflow":
        unknown = backend.library.xp.TensorSpec(None, "float32")
        assert explain(unknown, labels, axis=-1).batch_shape is None
    if name != "torch":
        assert "numpy" in str(explain(logits, labels, framework="numpy"))


@pytest.mark.processor(reason="shapes are those of arrays on the processor")
def test_kernel_by_shapes_is_that_of_arrays(backend: Backend) -> None:
    """Shapes alone tell the kernel that serves arrays of every library."""
    for shape in ((4, 3), (4000, 20), (400, 200)):
        labels = np.zeros(shape[:1], "int32")
        arrays = backend.asarray(np.zeros(shape), "float32"), backend.asarray(labels)
        report = explain(*arrays)
        assert report.kernel == kernel_of(*arrays)
        library = str(report).split()[2]
        shapes = explain(shape, (shape[0],), framework=library)
        assert shapes.kernel == report.kernel
        assert shapes.facts[-1] == report.facts[-1]
        assert explain("[?, 3]", "[?]", framework=library).batch_shape == (None,)


def test_kernel_is_unknown_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of a library that is not installed are explained all the same."""
    monkeypatch.setitem(dispatch.LOADERS, "torch", lambda: importlib.import_module("no_such"))
    report = explain((4, 3), (4,), framework="torch")
    assert (report.valid, report.kernel) == (True, None)
    assert dict(report.facts)["kernel"] == "not known: torch is not installed"
    assert not explain("torch f32[4, 3]", "jax i32[4]").valid


def test_docstring_examples() -> None:
    """The examples of the docstring run."""
    result = doctest.testmod(unified_loss._explain)
    assert result.attempted > 3
    assert result.failed == 0
