"""`explain` with NumPy alone: what is not installed is explained all the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unified_loss import explain
from unified_loss._dispatch import LOADERS, known_names

ROOT = Path(__file__).parents[2]
ABSENT = [name for name in known_names() if name != "numpy"]
PACKAGES = {*ABSENT, "jaxlib", "keras"}
CALLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "index": ((640, 20), (640,), {}),
    "channels first": ("float16[8, 5, 16, 16]", "uint8[8, 16, 16]", {"reduction": "none"}),
    "dense, with every weight": (
        "float32[?, 3, 5]",
        "float32[?, 3, 5]",
        {"axis": 1, "class_weight": (3,), "sample_weight": "bool[?]", "label_smoothing": 0.5},
    ),
    "labels of another batch": ((640, 20), (32,), {}),
    "labels of no dtype for ids": ("float32[32, 10]", "float32[32]", {}),
    "arguments swapped": ("int64[32]", "float32[32, 10]", {}),
    "labels of NumPy": ("float32[32, 10]", "numpy int64[32]", {}),
}
CHILD = """
import json, sys
from tests.tools.test_explain_alone import ABSENT, CALLS, PACKAGES, hide_frameworks

hide_frameworks()

from unified_loss import explain

found = {}
for framework in ABSENT:
    for name, (logits, labels, options) in CALLS.items():
        report = explain(logits, labels, framework=framework, **options)
        report._repr_html_()
        facts = dict(report.facts)
        found[f"{framework}, {name}"] = {
            "text": str(report),
            "valid": report.valid,
            "kernel": facts.get("kernel"),
            "cause": getattr(report.error, "cause", None),
            "fixes": len(getattr(report.error, "fixes", ())),
        }
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"found": found, "loaded": sorted(loaded & PACKAGES)}))
"""


class Without:
    """A finder of modules that knows no framework, as where none is installed."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *more: Any) -> Any:
        """What the finder finds, if it is no framework."""
        is_absent = name.partition(".")[0] in PACKAGES
        return None if is_absent else self.finder.find_spec(name, *more)


def hide_frameworks() -> None:
    """For the rest of the process."""
    sys.meta_path[:] = map(Without, sys.meta_path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process at the root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What every call came to where no framework can be imported."""
    done = run("-c", CHILD)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["loaded"] == []
    found: dict[str, Any] = told["found"]
    return found


@pytest.mark.parametrize("framework", ABSENT)
@pytest.mark.parametrize("name", CALLS)
def test_explain_needs_no_framework(framework: str, name: str, alone: dict[str, Any]) -> None:
    """R25: as with NumPy's arrays, but for the kernel that nobody knows."""
    logits, labels, options = CALLS[name]
    here = explain(logits, labels, framework="numpy", **options)
    told = alone[f"{framework}, {name}"]
    assert told["valid"] is here.valid
    assert framework in told["text"]
    if here.valid:  # one backend for all of the standard's libraries, which is ours
        unknown = f"not known: {framework} is not installed"
        assert (told["kernel"] == unknown) is (framework in LOADERS)
    else:
        assert told["cause"] == here.error.cause
        assert told["fixes"] == len(here.error.fixes)


@pytest.mark.parametrize(("labels", "status"), [("int64[640]", 0), ("int64[32]", 1)])
def test_the_command_needs_no_framework(labels: str, status: int) -> None:
    """Exit status 1 says that the call is not valid, and nothing else."""
    code = (
        "from tests.tools.test_explain_alone import hide_frameworks\n"
        "hide_frameworks()\n"
        "from unified_loss.__main__ import main\n"
        f"call = ['explain', 'float32[640,20]', {labels!r}, '--framework']\n"
        f"raise SystemExit(max(main([*call, name]) for name in {ABSENT!r}))"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.count("valid") >= len(ABSENT)
