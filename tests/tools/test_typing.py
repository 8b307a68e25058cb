"""The annotations mean what they say, to mypy and to pyright."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "typing"
FRAMEWORKS = ("jax", "keras", "tensorflow", "torch")

# As for people, who do not have this project's configuration, where all frameworks are `Any`.
MYPY = ("mypy", "--strict", "--config-file=", "--follow-imports=silent")
PYRIGHT = ("pyright", "--pythonpath", sys.executable)
WRONG = """
import numpy as np
from unified_loss import cross_entropy
cross_entropy(np.zeros(2), 0, reduction="none").no_such_method()
"""


def report(*command: str) -> tuple[str, int]:
    """What a type checker prints, and its exit status."""
    pytest.importorskip(command[0], reason="the type checkers come with the test extra")
    found = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # of its newer releases
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip(), found.returncode


def need_frameworks() -> None:
    """Without them, their types are unknown, and nothing can be asserted."""
    absent = [name for name in FRAMEWORKS if find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")


@pytest.mark.parametrize("name", ["calls", pytest.param("frameworks", marks=pytest.mark.slow)])
def test_mypy_agrees(name: str) -> None:
    """R27: types in and out, and mistakes found before the call, in strict mode."""
    if name == "frameworks":
        need_frameworks()
    found = report(*MYPY, str(FOLDER / f"{name}.py"))
    assert found == ("Success: no issues found in 1 source file", 0)


def test_pyright_agrees() -> None:
    """R27: the same of all files, that of TensorFlow included, which has no types for mypy."""
    need_frameworks()
    assert report(*PYRIGHT) == ("0 errors, 0 warnings, 0 informations", 0)


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=lambda checker: checker[0])
def test_a_wrong_type_is_seen(checker: tuple[str, ...], tmp_path: Path) -> None:
    """R27: the checkers read the package's annotations; nothing is `Any` that should not be."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    text, status = report(*checker, str(wrong))
    assert status == 1
    assert "no_such_method" in text
    assert "1 error" in text
