"""The table of what each library supports, in the docs, is what the libraries do."""

import re

import numpy as np
import pytest
from packaging.version import Version

from tests.helpers import support
from tests.helpers.backends import BACKENDS, Backend


def written() -> list[list[str]]:
    """The cells of the first table of the page, by lines."""
    lines = support.PAGE.read_text(encoding="utf-8").partition("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.processor(reason="the page is of arrays on the processor")
def test_support_table_is_current(backend: Backend) -> None:
    """R1, R4, R17, R22, R23: each cell of the page is tried again."""
    head, _, *rows = written()
    place = head.index(backend.name)
    assert [row[place] for row in rows] == support.column(backend)


def test_support_table_is_complete() -> None:
    """R2: a row for each question, a column for each backend, and the text around."""
    head, _, *rows = written()
    assert head == ["", *BACKENDS]
    assert [row[0] for row in rows] == list(support.ROWS)
    text = support.PAGE.read_text(encoding="utf-8")
    assert text.startswith(support.HEAD)
    assert text.endswith(support.FOOT + support.versions())


def test_every_version_is_told() -> None:
    """R2: of each Python and each framework, and the pins of what is tested here."""
    text = support.versions()
    assert "Python 3.11, 3.12, 3.13" in text
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
    frameworks = {"numpy", "torch", "jax", "tensorflow", "keras", "mlx", "dask", "transformers"}
    assert frameworks <= {name for name, _, _ in rows}
    for name, oldest, newest in rows:
        assert Version(oldest) <= Version(newest), name


def test_a_table_shows_no_wrong_cell() -> None:
    """R17: what a library cannot do is told, and nothing is wrong."""
    assert "WRONG" not in support.PAGE.read_text(encoding="utf-8")


def test_array_api_strict_has_no_half_precision() -> None:
    """R1: the standard has none, so the library has none to accept."""
    xp = pytest.importorskip("array_api_strict")
    assert not hasattr(xp, "float16")
    assert not hasattr(xp, "bfloat16")


def test_bfloat16_of_numpy_is_that_of_ml_dtypes() -> None:
    """R1, R20: with that package NumPy has the dtype, and it is computed in float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from unified_loss import cross_entropy

    loss = cross_entropy(np.zeros((2, 4), ml_dtypes.bfloat16), [0, 1])
    assert loss.dtype == np.float32
    assert loss == np.float32(np.log(4))


def test_float64_of_mlx_has_single_precision_exponentials() -> None:
    """R20: which is why the table says no, and what it should say once that changes."""
    mx = pytest.importorskip("mlx.core")
    with mx.stream(mx.cpu):
        error = abs(np.array(mx.exp(mx.array(0.3, mx.float64))) - np.exp(0.3))
    assert error > 1e-12
