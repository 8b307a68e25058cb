"""Blocks of PyTorch so small that a hundred logits are several."""

from typing import Any

from unified_loss._backends import _torch_blocks as blocks

SIZES = {"SMALL": 40, "WHOLE": 40, "PARALLEL": 300}
SIZES |= {"TURNED_BLOCK": 40, "BLOCK": 40, "SHARED_BLOCK": 40}


def cut_small(monkeypatch: Any) -> list[int]:
    """Set the thresholds; returns the numbers of the blocks that will have been looked at."""
    numbers: list[int] = []

    class Watched(blocks.Blocks):
        def _look_at(self, item: Any) -> None:
            numbers.append(item[0])
            super()._look_at(item)

    for name, size in SIZES.items():
        monkeypatch.setattr(blocks, name, size)
    monkeypatch.setattr(blocks, "Blocks", Watched)
    return numbers


def keep_whole(monkeypatch: Any) -> None:
    """Cut nothing."""
    for name in ("SMALL", "WHOLE"):
        monkeypatch.setattr(blocks, name, 10**9)
