"""Blocks of PyTorch so small that a hundred logits are several."""

from typing import Any

from unified_loss import _blocks
from unified_loss._backends import _torch_blocks as blocks
from unified_loss._blocks import cuts

SIZES = {"SMALL": 40, "AT_ONCE": 40, "KEPT": 0, "PARALLEL": 300}
SIZES |= {"TRANSPOSED_BLOCK": 40, "BLOCK": 40, "SHARED_BLOCK": 40}


def cut_small(monkeypatch: Any) -> list[int]:
    """Set the thresholds; returns the numbers of the blocks that will have been looked at."""
    numbers: list[int] = []

    def watched(shape: Any, size: int) -> Any:
        for number, cut in enumerate(cuts(shape, size)):
            numbers.append(number)
            yield cut

    for name, size in SIZES.items():
        monkeypatch.setattr(blocks, name, size)
    monkeypatch.setattr(_blocks, "COLUMNS", 1)
    monkeypatch.setattr(_blocks, "cuts", watched)
    return numbers


def keep_whole(monkeypatch: Any) -> None:
    """Cut nothing."""
    for name in ("SMALL", "AT_ONCE", "KEPT"):
        monkeypatch.setattr(blocks, name, 10**9)
