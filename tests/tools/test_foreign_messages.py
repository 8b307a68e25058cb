"""`docs/messages.md`: each message of another library is raised there, and leads to a cause."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GENERATOR = runpy.run_path(str(DOCS / "generate_messages.py"))
PAGE = (DOCS / "messages.md").read_text(encoding="utf-8")
CASES = [
    pytest.param(library, message, id=f"{library['name']}: {message['words']}")
    for library in GENERATOR["libraries"]()
    for message in library["message"]
]


@pytest.fixture(scope="module")
def names_of() -> Any:
    """The names that the calls of a library use, made once."""
    made: dict[str, Any] = {}

    def names(library: dict[str, Any]) -> Any:
        absent = [module for module in library["needs"] if importlib.util.find_spec(module) is None]
        if absent:
            pytest.skip(f"{', '.join(absent)} is not installed")
        if library["name"] not in made:
            made[library["name"]] = GENERATOR["names_of"](library)
        return made[library["name"]]

    return names


@pytest.mark.parametrize(("library", "message"), CASES)
def test_the_page_tells_what_the_library_says(library: Any, message: Any, names_of: Any) -> None:
    """R25: the words, the whole message, the cause, and what is said here, as of today."""
    names = names_of(library)
    assert GENERATOR["section"](library, message, names) in PAGE
    if not message.get("needs_cuda"):
        names = dict(names)
        for name in ("logits", "labels"):
            names[name] = eval(message[name], names)  # noqa: S307 (our own file)
        error = GENERATOR["native_error"](message.get("call", library["call"]), names)
        assert GENERATOR["pattern_of"](message["words"]).search(str(error))


@pytest.mark.parametrize(
    ("library", "message"), [case for case in CASES if case.values[1].get("needs_cuda")]
)
def test_a_gpu_says_it_too(library: Any, message: Any) -> None:
    """R17, R25: in a process of its own, which has no GPU afterwards."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    code = "\n".join(
        [
            library["setup"],
            f"logits, labels = {message['logits']}, {message['labels']}",
            message["call"],
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert GENERATOR["pattern_of"](message["words"]).search(done.stderr)


def test_the_page_has_every_message_once() -> None:
    """Nothing else, and in the order of the file."""
    assert PAGE.startswith(GENERATOR["HEAD"])
    found = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert found == [GENERATOR["code"](case.values[1]["words"]) for case in CASES]
    assert len(set(found)) == len(found)


def test_every_cause_has_a_section() -> None:
    """The links to the page of causes, and most of the causes of shapes and dtypes among them."""
    causes = set(re.findall(r"\(errors\.md#(\w+)\)", PAGE))
    sections = set(
        re.findall(r"^## (\w+)$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert causes <= sections
    assert len(causes) > 10
