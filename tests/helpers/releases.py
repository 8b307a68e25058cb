"""Which releases are tested, by `pyproject.toml` and the files of constraints."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = SETTINGS["project"], SETTINGS["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
FRAMEWORKS = [name for name in EXTRAS if name != "demo"]
# Oldest releases that come with gigabytes of CUDA, and are tested by hand before a release.
BY_HAND = {"torch": Version("2.6.0")}


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


def pythons() -> list[str]:
    """The versions of Python, the oldest first."""
    found = (re.search(r"Python :: (3\.\d+)$", each) for each in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def table() -> list[tuple[str, str, str]]:
    """A package, and the oldest and the newest release of it that is tested."""
    oldest, newest = pins("constraints-oldest.txt") | BY_HAND, pins("constraints.txt")
    names = dict.fromkeys(bound.name for bound in bounds())
    return [(name, str(oldest[name]), str(newest[name])) for name in names]
