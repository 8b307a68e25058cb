"""What an import, and a call, may load."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unified_loss._libraries import known_names

FRAMEWORKS = {*known_names(), "jaxlib", "keras"} - {"numpy"}


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after running `code`."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(found.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        "import unified_loss",
        "import unified_loss.exceptions",
        "import unified_loss\nunified_loss.cross_entropy, unified_loss.explain",
        "import unified_loss._rules, unified_loss._dispatch",
        "import unified_loss._statistics, unified_loss._messages, unified_loss._types",
    ],
)
def test_import_loads_no_array_library(code: str) -> None:
    """R2: neither NumPy nor any other, nor array-api-compat, before the first call."""
    assert not loaded_by(code) & {*FRAMEWORKS, "numpy", "array_api_compat"}


CALL = """
import numpy as np
from unified_loss import LossInputError, cross_entropy, cross_entropy_with_grad
cross_entropy(np.zeros((2, 3)), np.array([0, 1]), class_weight=[1, 2, 3], check=True)
cross_entropy_with_grad(np.zeros((2, 3)), np.eye(3)[:2])
for wrong in ([0], [0, 3], None, "ab"):
    try:
        cross_entropy(np.zeros((2, 3)), wrong)
    except LossInputError:
        continue
    raise AssertionError
try:
    cross_entropy([[0.0]], [0])
except LossInputError:
    pass
"""


def test_numpy_calls_load_no_framework() -> None:
    """R2: also where they fail, and where the error lists what is installed."""
    assert not loaded_by(CALL) & FRAMEWORKS


def test_runtime_needs_two_packages() -> None:
    """R2: NumPy and array-api-compat; all else is an extra."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    needed = tomllib.loads(text)["project"]["dependencies"]
    assert {re.split(r"[^\w.-]", one)[0] for one in needed} == {"numpy", "array-api-compat"}
