"""The peak of a process's memory."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def host_peak(step: Callable[[], Any], above: int | None = None) -> int:
    """The bytes by which a step raises the resident set of this process at its peak.

    Pages that earlier work has freed go back to the system before, so that using them again
    counts. Where a library keeps what it frees, the bytes that were resident before its first
    step, `above`, are what to count from. Linux only.
    """
    before = resident()
    RESET.write_text("5")  # the high-water mark becomes what is resident now
    result = step()
    peak = 1024 * kilobytes("VmHWM")
    del result
    return max(0, peak - (before if above is None else above))


def resident() -> int:
    """The bytes of this process that are resident, once what is freed has gone back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return 1024 * kilobytes("VmRSS")


def is_measurable() -> bool:
    """Whether the system keeps a high-water mark that can be reset."""
    return RESET.exists()


def kilobytes(name: str, file: Path = STATUS) -> int:
    """A number of the system's own."""
    line = next(line for line in file.read_text("utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1])
