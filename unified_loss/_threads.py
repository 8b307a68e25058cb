"""A small pool of threads for kernels that release the interpreter's lock.

The number of threads is that of ``UNIFIED_LOSS_NUM_THREADS``, else of ``OMP_NUM_THREADS``, else of
the processor cores that the process may use. It changes no result: every block is computed alone.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from functools import cache
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")


def number_of_threads() -> int:
    """How many threads share the work."""
    for name in ("UNIFIED_LOSS_NUM_THREADS", "OMP_NUM_THREADS"):
        # OpenMP allows a list, one number for each level of nesting.
        first = os.environ.get(name, "").partition(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            return int(first)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover (systems without affinities)


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, "unified_loss")


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child inherits no threads


def for_each(
    work: Callable[[Item], None],
    items: Iterable[Item],
    *,
    threads: int,
    around: Callable[[], AbstractContextManager[object]],
) -> None:
    """Do `work` for each item, in this thread and in others, each of them `around` its share."""
    helpers = threads - 1
    remaining = iter(items)
    lock = Lock()
    nothing = object()

    def take_part() -> None:
        with around():
            while True:
                with lock:
                    item = next(remaining, nothing)
                if item is nothing:
                    return
                work(item)  # type: ignore[arg-type]

    if helpers < 1:
        take_part()
        return
    futures = []
    with suppress(RuntimeError):  # the interpreter is shutting down
        futures = [_pool(helpers).submit(take_part) for _ in range(helpers)]
    try:
        take_part()
    finally:
        # One that has not begun, in a pool that others keep busy, has nothing left to do.
        wait([future for future in futures if not future.cancel()])
    for future in futures:
        if not future.cancelled():
            future.result()
