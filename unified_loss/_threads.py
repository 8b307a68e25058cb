"""A small pool of threads for kernels that release the interpreter's lock.

The number of threads is that of ``UNIFIED_LOSS_NUM_THREADS``, else of ``OMP_NUM_THREADS``, else of
the processor cores that the process may use. It changes no result: every block is computed alone.
"""

import os
import warnings
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import repeat
from queue import SimpleQueue
from threading import Lock
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")


class Around(Protocol):
    """Does the share of a thread in what the work needs there.

    An interrupt can come after any call. So what is changed is best restored by the one call of a
    ``finally``, or by leaving something that is not written in Python.
    """

    def __call__(self, share: Callable[[], None], /) -> None:
        """Do it, and restore whatever happens."""


def as_it_is(share: Callable[[], None]) -> None:
    """Do a share that needs nothing around it."""
    share()


def number_of_threads() -> int:
    """How many threads share the work."""
    for name in ("UNIFIED_LOSS_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        number = _positive(value.partition(",")[0])  # OpenMP has a list, one for each nesting
        if number:
            return number
        if value and name == "UNIFIED_LOSS_NUM_THREADS":
            message = f"{name} must be a number of threads, at least 1; ignored: {value[:40]!r}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover (systems without affinities)


def _positive(text: str) -> int:
    """The number that is written; 0 for anything else, or more digits than Python reads."""
    try:
        return max(0, int(text))
    except ValueError:
        return 0


class _Pool:
    """Threads that wait for shares: as many as one call has asked for.

    An interrupt can come between any two calls that Python makes, and those of its own pools and
    threads make many: it would leave their locks locked. So each step here is one call.
    """

    def __init__(self) -> None:
        self.shares: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.helpers: list[int] = []
        self.lock = Lock()

    def grow(self, number: int) -> int:
        """Start what is missing of a number of helpers; how many of them there are."""
        with self.lock, suppress(RuntimeError, MemoryError):  # at a limit, or at the end
            missing = number - len(self.helpers)
            self.helpers.extend(map(start_new_thread, repeat(self.serve, missing), repeat(())))
        return min(number, len(self.helpers))

    def serve(self) -> None:  # pragma: no cover (threads that are not traced)
        """Do shares for ever."""
        while True:
            self.shares.get()()


@cache
def _pool() -> _Pool:
    return _Pool()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child inherits no threads


class _Job:
    """Items that threads take until none remains.

    A helper holds its seat while it takes part. Once nothing remains, whoever finds all seats empty
    knows that all is done, whatever became of which helper. Who comes later does nothing and holds
    nothing: the interpreter may be ending, and torch aborts the process of a thread that is ended
    in one of its operations.
    """

    def __init__(self, work: Callable[[Any], None], items: Sequence[Any], helpers: int) -> None:
        self.remaining = deque(map(partial, repeat(work), items))
        self.seats = [Lock() for _ in range(helpers)]
        self.errors: list[BaseException | None] = [None] * helpers

    def take_part(self) -> None:
        while True:
            try:
                do_next = self.remaining.popleft()
            except IndexError:
                return
            do_next()

    def help_out(self, number: int, around: Around) -> None:  # pragma: no cover (not traced)
        with self.seats[number]:
            try:
                if self.remaining:
                    around(self.take_part)
            except BaseException as error:  # noqa: BLE001 (raised again, in the thread that called)
                self.errors[number] = error
                self.remaining.clear()

    def wait(self) -> None:
        for seat in self.seats:
            with seat:
                pass


def for_each(
    work: Callable[[Item], None], items: Sequence[Item], *, threads: int, around: Around
) -> None:
    """Do `work` for each item, in this thread and in others, each of them `around` its share.

    It returns when all of it is done. Where that fails, or is interrupted, items that have not
    begun are left, and those that have are waited for.
    """
    helpers = min(threads, len(items)) - 1
    job = _Job(work, items, max(0, helpers))
    if helpers < 1:
        around(job.take_part)
        return
    try:
        pool = _pool()
        for number in range(pool.grow(helpers)):
            pool.shares.put(partial(job.help_out, number, around))
        around(job.take_part)
    finally:
        job.remaining.clear()
        try:
            job.wait()
        finally:
            job.wait()  # if that was interrupted
    for error in job.errors:
        if error is not None:
            raise error
