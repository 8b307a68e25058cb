"""Processes of one machine that meet over gloo."""

import datetime as dt

from torch import distributed


def join(rank: str, world: str, folder: str) -> None:
    """Wait for the other processes, in a file of their common folder."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=int(rank),
        world_size=int(world),
        timeout=dt.timedelta(minutes=10),  # to end a hang
    )
