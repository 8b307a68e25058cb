"""`explain` reads what people paste: shapes with what is around them, and whole messages."""

import runpy
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unified_loss import (
    ArgumentError,
    LossInputError,
    OptionError,
    ShapeError,
    cross_entropy,
    explain,
    linear_cross_entropy,
)
from unified_loss.__main__ import main
from unified_loss._explain import _texts as texts
from unified_loss._explain._pasted import call_in

DOCS = Path(__file__).parents[2] / "docs"
GENERATOR = runpy.run_path(str(DOCS / "generate_messages.py"))
CASES = [
    pytest.param(library, message, id=f"{library['name']}: {message['words']}")
    for library in tomllib.loads((DOCS / "messages.toml").read_text(encoding="utf-8"))["library"]
    for message in library["message"]
    if not message.get("needs_cuda")
]
# Of the messages of today; the rest tell no sizes, or not whose they are.
READ = 21
EARLIER = """\
size mismatch (got input: 4x3x8x8 , target: 4x16x16
1D target tensor expected, multi-target not supported
only batches of spatial targets supported (3D tensors) but got targets of size : [4, 8, 8, 3]
Shape mismatch: The shape of labels (received (8, 2)) should equal the shape of logits except for \
the last dimension (received (8, 20, 50)).
Expected object of scalar type Long but got scalar type Float""".splitlines()


def read(text: str) -> Any:
    """The call in a text, None if it is pointed to the page."""
    try:
        return call_in(text)
    except OptionError as error:
        told = [fix.text for fix in error.fixes]
    assert told == [texts.NO_SIZES]
    return None


def agrees(text: str, array: Any) -> bool:
    """Whether a shape has the rank, and all known sizes, of an array."""
    shape, actual = texts.shaped("logits", text).shape, np.shape(array)
    assert shape is not None
    known = all(one in {None, other} for one, other in zip(shape, actual, strict=False))
    return len(shape) == len(actual) and known


@pytest.mark.parametrize(("library", "message"), CASES)
def test_a_message_of_a_library_is_read(library: Any, message: Any) -> None:
    """R25: what it tells of the call is so; one that tells too little leads to the page."""
    for module in library["needs"]:
        pytest.importorskip(module)
    names = GENERATOR["names_of"](library)
    for name in ("logits", "labels"):
        names[name] = eval(message[name], names)  # noqa: S307 (our own file)
    error = GENERATOR["native_error"](message.get("call", library["call"]), names)
    told = read(f"{type(error).__name__}: {error}")
    if told is None:
        return
    assert agrees(told.logits, names["logits"])
    assert agrees(told.labels, names["labels"])
    report = explain(str(error))
    if "?" not in told.logits + told.labels and "rank" not in message["words"]:
        ours = explain(np.zeros(names["logits"].shape), names["labels"])
        assert report.valid is ours.valid


def test_most_messages_with_sizes_are_read() -> None:
    """Those of the page, as it shows them, and those of other releases."""
    page = (DOCS / "messages.md").read_text(encoding="utf-8").split("\n### ")[1:]
    lines = [section.partition("  ...\n")[2].partition("\n")[0] for section in page]
    assert sum(read(line) is not None for line in lines if line) >= READ
    for earlier in EARLIER:
        assert read(earlier) is not None, earlier


REPORTS = {
    "Expected input batch_size (32) to match target batch_size (28).": "last_batch_smaller",
    "RuntimeError: Expected target size [32, 10], got [32]": "per_step_logits_single_label",
    "0D or 1D target tensor expected, multi-target not supported": "unknown_shape",
    "index 10 is out of bounds for axis 1 with size 10": "too_few_output_units",
    "index -1 is out of bounds for axis 1 with size 10": "label_out_of_range_negative_sentinel",
    "Target size (torch.Size([8])) must be the same as input size (torch.Size([8, 1]))": (
        "binary_trailing_axis_broadcast"
    ),
}


@pytest.mark.parametrize("text", REPORTS)
def test_a_message_has_its_cause(text: str) -> None:
    """R25: in the words of its library; `framework` wins."""
    report = explain(text)
    assert not report.valid
    assert report.error.cause == REPORTS[text]
    assert "jax" in str(explain(text, framework="jax"))


def test_transposed_logits_need_no_transpose_here() -> None:
    """R3: what PyTorch refuses may be valid."""
    report = explain("Expected target size [8, 50], got [8, 20]")
    assert (report.valid, report.axis, report.num_classes) == (True, 2, 50)
    assert str(report).startswith(
        "valid: logits torch float32[8, ?, 50], labels torch int64[8, 20]"
    )


def test_an_error_of_ours_is_read_whole() -> None:
    """R25: the same cause by its line of facts, of ids by their range, too."""
    calls: list[tuple[Any, ...]] = [
        (cross_entropy, np.zeros((4, 10)), np.array([1, 10, 3, 7])),
        (cross_entropy, np.zeros((4, 10)), np.array([1, -1, 3, 7])),
        (cross_entropy, np.zeros((448, 10), np.float32), np.zeros(28, int)),
        (linear_cross_entropy, np.zeros((4, 3)), np.zeros((3, 7)), [0, 1, 2, 3]),
    ]
    for function, *arrays in calls:
        with pytest.raises(LossInputError) as caught:
            function(*arrays)
        again = explain(f"Traceback (most recent call last):\n  ...\n{caught.value}").error
        assert (type(again), again.cause) == (type(caught.value), caught.value.cause)


def test_arguments_beside_a_message_win() -> None:
    """What is given is not what the message tells."""
    text = (
        "weight tensor should be defined either for all 10 classes or no classes but got weight "
        "tensor of shape: [9]"
    )
    assert isinstance(explain(text).error, ShapeError)
    assert explain(text, class_weight=np.ones(10, np.float32), framework="numpy").valid


@pytest.mark.parametrize(
    "text",
    [
        "logits: torch.Size([448, 10])",
        "logits torch.Size([448, 10])",
        "x.shape = torch.Size([448, 10])",
        'batch["x"].shape: torch.Size([448, 10])',
        "torch.Size([448, 10]), dtype=torch.float32",
        "a tensor of shape torch.Size([448, 10])",
    ],
)
def test_what_is_around_a_shape_is_no_matter(text: str) -> None:
    """As people copy it."""
    assert str(explain(text, (448,))) == str(explain("torch float32[448, 10]", (448,)))


@pytest.mark.parametrize(
    "text", ["448x10", "448 x 10", "448\N{MULTIPLICATION SIGN}10", "[448 x 10]", "size: 448x10",
             "logits 448x10", "Shape (448, 10)"]
)  # fmt: skip
def test_sizes_may_have_a_sign_between_them(text: str) -> None:
    """As people write it."""
    assert str(explain(text, (448,))) == str(explain((448, 10), (448,)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("torch.Size([448, 10]) torch.Size([448])", "torch float32[448, 10]"),
        ("(448, 10) (448,)", "numpy float32[448, 10]"),
        ("[448, 10], [448]", "numpy float32[448, 10]"),
        ("TensorShape([448, 10]), TensorShape([448])", "tensorflow float32[448, 10]"),
    ],
)
def test_two_shapes_are_those_of_logits_and_labels(text: str, told: str) -> None:
    """R25: as ``print(logits.shape, labels.shape)`` prints them."""
    call = call_in(text)
    logits, labels = (texts.shaped("logits", one) for one in (call.logits, call.labels))
    assert (logits.shape, labels.shape) == ((448, 10), (448,))
    assert logits.library == (None if "numpy" in told else told.split(maxsplit=1)[0])
    assert call_in("(448, 10)") is None


def test_numbers_with_commas_are_no_sizes_by_themselves() -> None:
    """R25: 1,000 is one size beside a sign, and elsewhere neither one nor 1 and 0."""
    assert texts.shaped("logits", "1,000 x 10").shape == (1000, 10)
    assert texts.shaped("logits", "TensorShape([1000, 10])").shape == (1000, 10)
    for text in ("1,000", "[1,000]", "(1,000, 10)"):
        with pytest.raises(OptionError):
            texts.shaped("logits", text)


def test_a_size_of_torch_speaks_of_torch() -> None:
    """As text does that is printed of it; `framework` wins. Nothing takes it for an array."""
    torch = pytest.importorskip("torch")
    logits, labels = torch.zeros(640, 20), torch.zeros(640, 1, 1)
    error = explain(logits.shape, labels.shape).error
    assert error is not None
    assert error.fixes[0].code == "labels = labels.reshape(640)"
    assert str(error) == str(explain((640, 20), (640, 1, 1), framework="torch").error)
    assert "jax float32" in str(explain(logits.shape, labels.shape, framework="jax"))
    for report in (explain(logits, logits.shape[:1]), explain((640, 20), logits.shape[:1])):
        assert report.valid
        assert "labels torch int64[640]" in str(report)
    assert explain(torch.Size([5]), torch.Size([])).valid


def test_a_shape_of_tensorflow_speaks_of_tensorflow() -> None:
    """The same, with sizes or a rank that are not known."""
    tensorflow = pytest.importorskip("tensorflow")
    shape = tensorflow.TensorShape
    report = explain(shape([None, 20]), shape([None]))
    assert str(report).startswith("valid: logits tensorflow float32[?, 20]")
    assert explain(shape(None), shape([3]), axis=-1).batch_shape is None
    assert explain(tensorflow.zeros((3, 2)), shape([3])).valid
    assert "numpy float32" in str(explain(shape([3, 2]), shape([3]), framework="numpy"))


def test_a_message_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In place of both shapes; exit status 1 for a call that is refused."""
    assert main(["explain", "Expected input batch_size (32) to match target batch_size (28)."]) == 1
    assert "last_batch_smaller" in capsys.readouterr().out
    for arguments, told in (
        (["Target 10 is out of bounds."], texts.NO_SIZES),
        (["Target 10 is out of bounds.", "[32]"], texts.ALONE),
        (["448x10"], "one of which is missing"),
    ):
        assert main(["explain", *arguments]) == 2
        assert told in capsys.readouterr().err


def test_a_shape_alone_is_no_message() -> None:
    """R8: the labels are missing."""
    with pytest.raises(ArgumentError, match=r"labels .* is missing"):
        explain("[448, 10]")
    with pytest.raises(OptionError, match="must be an array, or a shape") as caught:
        explain("nothing")
    assert "docs" not in str(caught.value)
