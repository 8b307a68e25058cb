"""The walks on calls of a few logits."""

import pytest

from unified_loss._linear import _walks as walks


@pytest.fixture(autouse=True)
def _thresholds_may_change(nothing_is_familiar: None) -> None:
    """Each test may set its own."""


@pytest.fixture(params=["two_steps", "rows", "classes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of a call, in blocks of two rows or tiles of two rows and two classes."""
    name: str = request.param
    if name == "rows" and "backend" in request.fixturenames:
        backend = request.getfixturevalue("backend")
        if backend.name not in {"numpy", "torch"}:
            pytest.skip("the library does not walk by rows")
    if name != "two_steps":
        by_rows(monkeypatch) if name == "rows" else by_classes(monkeypatch)
    return name


def by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk by rows wherever that can be."""
    for name in ("TWO_STEPS", "FEW_FEATURES", "ROW_BLOCK"):
        monkeypatch.setattr(walks, name, 0)
    monkeypatch.setattr(walks, "ROWS_AT_LEAST", 2)
    by_classes(monkeypatch, few_features=0)


def by_classes(monkeypatch: pytest.MonkeyPatch, few_features: int = 2**20) -> None:
    """Walk by classes."""
    monkeypatch.setattr(walks, "TWO_STEPS", 0)
    monkeypatch.setattr(walks, "FEW_FEATURES", few_features)
    monkeypatch.setattr(walks, "TILE_ROWS", 2)
    monkeypatch.setattr(walks, "TILE", 4)
