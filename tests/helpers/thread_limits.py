"""What happens to a loss in threads under limits of the system, and under interrupts.

A process of its own: ``python -m tests.helpers.thread_limits WHAT numpy|torch``.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unified_loss import _threads as threads
from unified_loss import cross_entropy_with_grad

THREADS = 6
INTERRUPTS = 300
STACK = 2**30  # what a thread reserves: far more than all blocks take


def loss_of(library: str) -> Callable[[], list[bytes]]:
    """The bits of a loss and its gradient, in many blocks."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((60, 100)).astype(np.float32)
    labels = rng.integers(0, 100, 60)
    sizes = {"SMALL": 50, "PARALLEL": 50, "BLOCK": 200, "TRANSPOSED_BLOCK": 200}
    backend: Any
    if library == "torch":
        import torch

        from unified_loss._backends import _torch_blocks as backend

        sizes |= {"AT_ONCE": 50, "KEPT": 0}
        torch.set_num_threads(THREADS)
        logits, labels = torch.tensor(logits), torch.tensor(labels)
    else:
        from unified_loss._backends import numpy as backend

        sizes |= {"SHORT": 0}
        os.environ["UNIFIED_LOSS_NUM_THREADS"] = str(THREADS)
    for name, size in sizes.items():
        setattr(backend, name, size)
    return lambda: [
        np.asarray(part).tobytes() for part in cross_entropy_with_grad(logits, labels, axis=-1)
    ]


def size_of_memory() -> int:
    """What RLIMIT_AS counts."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()


def limit(kind: int, value: int) -> None:
    """Set the soft limit."""
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def limits_of_memory() -> Iterator[int]:
    """Address space for 0, 1, ... helpers."""
    threading.stack_size(STACK)
    unlimited = resource.getrlimit(resource.RLIMIT_AS)[0]
    for number in range(THREADS):
        limit(resource.RLIMIT_AS, size_of_memory() + number * STACK + STACK // 2)
        yield number
        limit(resource.RLIMIT_AS, unlimited)


def limits_of_processes() -> Iterator[int]:
    """As many processes as there are and 0, 1, ... helpers."""
    numbers = range(1)
    if os.getuid() == 0:  # whom no such limit binds
        os.setuid(2**30 + os.getpid())  # somebody without any other process
        numbers = range(THREADS)
    for number in numbers:
        limit(resource.RLIMIT_NPROC, len([*Path("/proc/self/task").iterdir()]) + number)
        yield number


def limited(library: str, limits: Callable[[], Iterator[int]]) -> None:
    """Compare bits under each limit."""
    loss = loss_of(library)
    expected = loss()
    for number in limits():
        threads._pool.cache_clear()
        for _ in range(20):
            assert loss() == expected, number
        print(len(threads._pool().helpers), end=" ")  # noqa: T201


def interrupted(library: str) -> None:
    """Interrupt a loss at hundreds of moments, and look at what is left behind."""
    loss = loss_of(library)
    expected = loss()
    state = state_of(library)
    before = state()
    rng = np.random.default_rng(1)
    start = time.perf_counter()
    for _ in range(20):
        loss()
    duration = (time.perf_counter() - start) / 20
    number = 0
    while number < INTERRUPTS:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.05, 1) * duration)
            loss()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            number += 1
        assert state() == before, number
        if number % 50 == 0:
            assert loss() == expected
    print(number)  # noqa: T201


def state_of(library: str) -> Callable[[], Any]:
    """What belongs to this thread, and is changed in a walk."""
    if library == "numpy":
        return np.geterr
    import torch

    return lambda: (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def main(what: str, library: str) -> None:
    """Run one of them."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    if what == "interrupts":
        interrupted(library)
    else:
        limited(library, {"memory": limits_of_memory, "processes": limits_of_processes}[what])


if __name__ == "__main__":
    main(*sys.argv[1:])
