"""What people may rely on: names, signatures and documentation."""

import inspect
import re
import types
from pathlib import Path
from typing import Any

import pytest

import unified_loss
from unified_loss import _names as names

PARAMETERS = {
    "axis": None,
    "class_weight": None,
    "sample_weight": None,
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "reduction": "mean",
    "normalizer": None,
    "check": "auto",
    "class_group": None,
}
DIVISION = {"reduction", "normalizer", "class_group"}  # and who holds the classes
CALLS = (unified_loss.cross_entropy, unified_loss.cross_entropy_with_grad)
LINEAR_CALLS = (unified_loss.linear_cross_entropy, unified_loss.linear_cross_entropy_with_grad)
NUMPYDOC_SECTIONS = ("Parameters", "Returns", "Raises", "See Also", "Examples")


def public() -> dict[str, Any]:
    """Every public object by its name."""
    return {name: getattr(unified_loss, name) for name in unified_loss.__all__}


def test_all_lists_every_public_name() -> None:
    """R27: `__all__` is sorted, and nothing public is outside it."""
    names = {
        name
        for name, value in vars(unified_loss).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "") != "typing"
    } - {"TYPE_CHECKING"}
    later = {"Fix", "Reading", "Report", "RunningCrossEntropy"}  # imported when they are asked for
    assert unified_loss.__all__ == sorted({*names, *later, "__version__"})


def test_public_names_are_the_documented_ones() -> None:
    """R25, R27: the calls, their results, the errors and the warnings; a new one is a deed."""
    assert set(unified_loss.__all__) == {
        "AmbiguousAxisError",
        "ArgumentError",
        "BackendError",
        "DTypeError",
        "Evaluation",
        "Fix",
        "LabelError",
        "LinearGradients",
        "LossInputError",
        "LossInputWarning",
        "OptionError",
        "Reading",
        "Report",
        "RunningCrossEntropy",
        "ShapeError",
        "SingleClassWarning",
        "Totals",
        "__version__",
        "cross_entropy",
        "cross_entropy_totals",
        "cross_entropy_with_grad",
        "explain",
        "linear_cross_entropy",
        "linear_cross_entropy_totals",
        "linear_cross_entropy_with_grad",
    }


def test_every_public_name_is_on_the_page() -> None:
    """R27: of the package, and of the integrations, each under the module that it lives in."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    found = set(re.findall(r"^\.\. auto\w+:: (\w+)", page, re.MULTILINE))
    assert found == {*unified_loss.__all__} - {"__version__"}
    for name, home in names.LOSSES.items():
        assert f"<unified_loss.integrations.{home}.{name}>`" in page


def test_other_modules_are_private() -> None:
    """R27: only `exceptions` and `integrations` are public beside the package itself."""
    folder = Path(unified_loss.__file__).parent
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in found if name[0] != "_"} == {"exceptions", "integrations"}
    assert (folder / "py.typed").is_file()


@pytest.mark.parametrize("function", CALLS)
def test_signature_is_the_contract(function: Any) -> None:
    """R27: logits and labels by position or name, then keywords with these defaults."""
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["logits", "labels"]
    for name in ("logits", "labels"):
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters[name].default is inspect.Parameter.empty
    options = {name: one.default for name, one in parameters.items() if name in PARAMETERS}
    assert options == PARAMETERS
    assert len(parameters) == 2 + len(PARAMETERS)
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in PARAMETERS)


def test_both_calls_have_the_same_parameters() -> None:
    """R27: names, kinds, defaults and annotations; only what they return differs."""
    one, other = (inspect.signature(function).parameters for function in CALLS)
    assert list(one.values()) == list(other.values())


@pytest.mark.parametrize("function", LINEAR_CALLS)
def test_signature_of_the_linear_form_is_the_contract(function: Any) -> None:
    """R27, R28: three arrays, then the options of the calls but the axis, and two more."""
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:3] == ["hidden", "weight", "labels"]
    wanted = {"bias": None, "softcap": None, **PARAMETERS}
    for name in ("axis",):
        wanted.pop(name)
    options = {name: one.default for name, one in list(parameters.items())[3:]}
    assert options == wanted
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert all(parameters[name].kind is keyword for name in wanted)


def test_totals_have_the_parameters_of_the_calls() -> None:
    """R27, R35: but those of the division, which they have not done."""
    called = inspect.signature(unified_loss.cross_entropy).parameters
    shared = [(name, one) for name, one in called.items() if name not in DIVISION]
    totals = inspect.signature(unified_loss.cross_entropy_totals).parameters
    assert list(totals.items()) == shared
    linear = inspect.signature(unified_loss.linear_cross_entropy).parameters
    totals = inspect.signature(unified_loss.linear_cross_entropy_totals).parameters
    assert list(totals.items()) == [pair for pair in linear.items() if pair[0] not in DIVISION]
    update = inspect.signature(unified_loss.RunningCrossEntropy.update_linear).parameters
    of_head = ("hidden", "weight", "labels", "bias", "softcap", "sample_weight")
    assert list(update.items())[1:] == [(name, linear[name]) for name in of_head]
    running = inspect.signature(unified_loss.RunningCrossEntropy).parameters
    arrays = {"logits", "labels", "sample_weight"}
    assert list(running.items()) == [pair for pair in shared if pair[0] not in arrays]


def test_explain_has_the_parameters_of_the_calls() -> None:
    """R27: and one more, for shapes, and those of a last layer."""
    explained = inspect.signature(unified_loss.explain).parameters
    called = inspect.signature(unified_loss.cross_entropy).parameters
    kinds = {name: (one.kind, one.default) for name, one in explained.items()}
    for name in ("framework", "weight", "bias", "softcap"):
        assert kinds.pop(name) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert list(kinds.items()) == [(name, (one.kind, one.default)) for name, one in called.items()]


@pytest.mark.parametrize("name", [name for name in unified_loss.__all__ if name != "__version__"])
def test_public_objects_are_documented(name: str) -> None:
    """R27: a docstring of their own, whose first line is a sentence."""
    value = public()[name]
    text = inspect.getdoc(value)
    assert text
    if inspect.isclass(value):
        assert text != inspect.getdoc(value.__base__)
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    "function",
    [
        *CALLS,
        *LINEAR_CALLS,
        unified_loss.cross_entropy_totals,
        unified_loss.linear_cross_entropy_totals,
        unified_loss.explain,
    ],
)
def test_docstrings_tell_all_parameters(function: Any) -> None:
    """R27: numpydoc sections in order, and each parameter among them."""
    text = inspect.getdoc(function) or ""
    found = re.findall(r"^(.+)\n-{3,}$", text, re.MULTILINE)
    assert [title for title in found if title in NUMPYDOC_SECTIONS] == list(NUMPYDOC_SECTIONS)
    told = text.partition("Parameters\n")[2].partition("Returns\n")[0]
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^(\w+, )*{name}\b", told, re.MULTILINE), name


def test_version_is_one_place() -> None:
    """R27: SemVer."""
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", unified_loss.__version__)
