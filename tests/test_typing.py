"""The annotations mean what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "typing").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_a_type_checker_agrees(path: Path) -> None:
    """R27: types in and out, and mistakes found before the call, by mypy in strict mode."""
    pytest.importorskip("mypy", reason="the type checker comes with the lint extra")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("Success: no issues found in 1 source file\n", 0)
