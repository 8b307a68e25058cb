"""The version, the changelog and the bounds of the frameworks tell the same."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import unified_loss
from tests.helpers.releases import BY_HAND, ROOT, bounds, pins


@pytest.mark.parametrize("bound", bounds(), ids=str)
def test_oldest_pins_are_the_lower_bounds(bound: Requirement) -> None:
    """R2: `make test-oldest` tests what pyproject.toml allows, to the patch release."""
    (lowest,) = bound.specifier
    assert lowest.operator == ">="
    tested = pins("constraints-oldest.txt") | BY_HAND
    assert tested[bound.name] == Version(lowest.version)


@pytest.mark.parametrize("bound", bounds(), ids=str)
def test_newest_pins_are_allowed(bound: Requirement) -> None:
    """R2: `make test` runs with a release that pyproject.toml allows."""
    assert pins("constraints.txt")[bound.name] in bound.specifier


def test_the_citation_is_of_a_release() -> None:
    """R27: the newest one that the changelog knows."""
    text = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S+) \((\d{4}-\d\d-\d\d)\)$", text, re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert newest
    assert f"\nversion: {newest[1]}\ndate-released: {newest[2]}\n" in cited


def test_changelog_tells_this_version() -> None:
    """R27: its newest section is of this version, with a date once it is released."""
    text = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    title = re.search(r"^## (.+) \((.+)\)$", text, re.MULTILINE)
    assert title
    version, date = title.groups()
    assert unified_loss.__version__.removesuffix(".dev0") == version
    is_released = re.fullmatch(r"\d{4}-\d\d-\d\d", date) is not None
    assert is_released is (version == unified_loss.__version__)
