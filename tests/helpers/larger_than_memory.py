"""Data that no worker can hold, made chunk by chunk where it is evaluated."""

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np


def chunks(folder: Path, rows: int, size: int, columns: int) -> Any:
    """A Dask array of numbers in [0, 1), each of whose chunks leaves a file when it is made."""
    import dask.array as da

    numbers = da.arange(0, rows, size, chunks=1)
    return numbers.map_blocks(
        _chunk,
        folder=str(folder),
        shape=(size, columns),
        dtype=np.float32,
        chunks=((size,) * (rows // size), (columns,)),
        new_axis=1,
        meta=np.zeros((0, 0), np.float32),
    )


def labels_of(rows: int, size: int, classes: int) -> Any:
    """Class ids, a tenth of them ignored."""
    import dask.array as da

    ids = np.random.default_rng(0).integers(classes, size=rows, dtype=np.int32)
    ids[::10] = -100
    return da.from_array(ids, chunks=size)


def made(folder: Path) -> int:
    """How many chunks were made until now."""
    return sum(1 for _ in folder.iterdir())


def _chunk(start: Any, folder: str, shape: tuple[int, int]) -> Any:
    Path(folder, f"{os.getpid()}-{uuid.uuid4()}").touch()
    return np.random.default_rng(int(start[0])).random(shape, np.float32)
