"""`docs/extending.md` keeps its word."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TRIED = ("values", "gradients", "labels", "masked", "wrong_shapes", "dispatch", "diagnosis_causes",
         "linear_values")  # fmt: skip


@pytest.mark.parametrize("name", TRIED)
def test_a_new_library_passes_what_every_library_passes(name: str) -> None:
    """R2, R27: a backend, a file in `_libraries` and the registry are all that Pico needed."""
    # A fresh interpreter, in which a test looks at what loads, knows nothing of Pico.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.pico.plugin", "--backend", "pico", "-k", "pico and not loads"]
    found = subprocess.run(
        [*command, *map(str, TESTS.rglob(f"test_{name}.py"))],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
