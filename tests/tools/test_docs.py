"""What the pages under `docs` claim in tables holds."""

import importlib.util
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
TABLES = sorted((DOCS / "moving").glob("*.toml"))


def rows():
    """Every row of every table, with the names that its calls need."""
    for path in TABLES:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for row in table["row"]:
            yield pytest.param(path.stem, table, row, id=f"{path.stem}: {row['what']}")


@pytest.fixture(scope="module")
def names_of():
    """The names that the set-up of a table makes, once for each table."""
    made = {}

    def names(stem, table):
        for module in table["needs"]:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed")
        if stem not in made:
            made[stem] = {}
            exec(table["setup"], made[stem])  # noqa: S102 (our own table)
        return made[stem]

    return names


def result_of(call, names):
    """What a call returns, or the name of the error that it raises."""
    try:
        return eval(call, names)  # noqa: S307 (our own table)
    except Exception as error:  # noqa: BLE001 (any error is an answer)
        return type(error).__name__


def told(result):
    """A result as the tables write it: four digits, and the name of all that is no number."""
    if isinstance(result, tuple):
        return str(tuple(result))
    try:
        values = np.asarray(result, np.float64)
    except (TypeError, ValueError):
        return str(result)
    written = [f"{value:.4g}" for value in values.ravel()]
    return f"[{', '.join(written)}]" if values.ndim else written[0]


@pytest.mark.parametrize(("stem", "table", "row"), list(rows()))
def test_moving(stem, table, row, names_of):
    """Both calls of a row agree, or give what the row says."""
    names = names_of(stem, table)
    theirs, ours = result_of(row["theirs"], names), result_of(row["ours"], names)
    if "ours_gives" in row:
        assert (told(theirs), told(ours)) == (row["theirs_gives"], row["ours_gives"])
    else:
        np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=1e-5)


def test_every_table_has_a_page():
    """Each table is shown on the page of its name."""
    for path in TABLES:
        page = path.with_suffix(".md").read_text(encoding="utf-8")
        assert f"```{{moving}} {path.stem}\n```" in page


def test_contract_is_complete():
    """The page of the contract has R1 to R32 and those of totals, in order, each once."""
    page = (DOCS / "contract.md").read_text(encoding="utf-8")
    rules = [int(rule) for rule in re.findall(r"^### R(\d+) ", page, re.MULTILINE)]
    assert rules == sorted(set(rules))
    assert {*range(1, 33), 34, 35, 36} <= set(rules)
