"""The version, the changelog and the bounds of the frameworks tell the same."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import unified_loss

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = SETTINGS["project"], SETTINGS["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
FRAMEWORKS = [name for name in EXTRAS if name != "demo"]


def bounds() -> list[Requirement]:
    """What the package, the extra of each framework, and the reference of the standard ask for."""
    asked = [*PROJECT["dependencies"], *(each for name in FRAMEWORKS for each in EXTRAS[name])]
    asked += [each for each in GROUPS["runner"] if each.startswith("array-api-strict")]
    return [Requirement(each) for each in asked if not each.startswith("unified_loss")]


def pins(name: str) -> dict[str, Version]:
    """The versions of a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = (line.split("==") for line in lines if not line.startswith("#"))
    return {package.replace("_", "-"): Version(version) for package, version in found}


@pytest.mark.parametrize("bound", bounds(), ids=str)
def test_oldest_pins_are_the_lower_bounds(bound: Requirement) -> None:
    """R2: `make test-oldest` tests what pyproject.toml allows, to the patch release."""
    (lowest,) = bound.specifier
    assert lowest.operator == ">="
    assert pins("constraints-oldest.txt")[bound.name] == Version(lowest.version)


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
