"""Evaluation on workers whose memory does not hold the data, one of which dies meanwhile."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.larger_than_memory import chunks, labels_of, made
from unified_loss import Totals, cross_entropy_totals, linear_cross_entropy_totals

LIMIT = 320 * 2**20  # of a worker, who needs half of it to have its libraries loaded
SIZE = 2**14  # rows of a chunk
ROWS = 28 * SIZE
CLASSES = 200
FEATURES = 200


@pytest.fixture
def client(installed: list[Backend]) -> Iterator[Any]:
    """Two processes with a limit each."""
    if BACKENDS["dask"] not in installed:
        pytest.skip("dask is not under test")
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.worker.memory.spill": False}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def of_logits(client: Any, folder: Path, rows: int) -> Totals:
    """The totals of logits in chunks."""
    return cross_entropy_totals(
        chunks(folder, rows, SIZE, CLASSES), labels_of(rows, SIZE, CLASSES), label_smoothing=0.1
    )


def of_hidden(client: Any, folder: Path, rows: int) -> Totals:
    """The totals of hidden states in chunks, and a weight that each worker receives once."""
    import dask.array as da
    from dask import delayed

    weight = np.random.default_rng(1).standard_normal((CLASSES, FEATURES), np.float32) / 16
    known = weight if client is None else client.scatter(weight, broadcast=True)
    weight = da.from_delayed(delayed(known), weight.shape, weight.dtype)
    hidden = chunks(folder, rows, SIZE, FEATURES)
    return linear_cross_entropy_totals(hidden, weight, labels_of(rows, SIZE, CLASSES))


@pytest.mark.slow
def test_a_worker_that_dies_changes_no_bit(client: Any, tmp_path: Path) -> None:
    """R35, R36: the sums are those of one thread; the graph grows with the data."""
    import dask

    for evaluation in (of_logits, of_hidden):
        assert ROWS * CLASSES * 4 > LIMIT
        number = ROWS // SIZE
        folders = [tmp_path / f"{evaluation.__name__}-{name}" for name in ("calm", "killed", "no")]
        for folder in folders:
            folder.mkdir()
        whole = evaluation(None, folders[0], ROWS)
        truth = list(dask.compute(*whole, scheduler="synchronous"))
        assert made(folders[0]) == number
        assert truth[-1] == ROWS - -(-ROWS // 10)

        found = client.compute(list(evaluation(client, folders[1], ROWS)))
        while made(folders[1]) < number // 4:
            time.sleep(0.01)
        assert not all(each.done() for each in found)
        victim = min(client.run(os.getpid).values())
        os.kill(victim, signal.SIGKILL)
        assert client.gather(found) == truth
        assert made(folders[1]) > number
        assert victim not in client.run(os.getpid).values()

        assert tasks(evaluation(client, folders[2], ROWS)) <= 2 * tasks(
            evaluation(client, folders[2], ROWS // 2)
        )
        assert not made(folders[2])


def tasks(totals: Totals) -> int:
    """The size of the graph."""
    return len({key for each in totals for key in each.__dask_graph__()})
