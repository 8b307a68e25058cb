"""The peak of a process's memory."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def host_peak(step: Callable[[], Any]) -> int:
    """The bytes by which a step raises the resident set of this process at its peak.

    Pages that earlier work has freed go back to the system before, so that using them again
    counts. Linux only.
    """
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # the high-water mark becomes what is resident now
    before = _kilobytes("VmRSS")
    result = step()
    peak = _kilobytes("VmHWM")
    del result
    return max(0, peak - before) * 1024


def available() -> int:
    """The bytes that the machine can still give, as far as it says."""
    meminfo = Path("/proc/meminfo")
    return _kilobytes("MemAvailable", meminfo) * 1024 if meminfo.exists() else sys.maxsize


def is_measurable() -> bool:
    """Whether the system keeps a high-water mark that can be reset."""
    return RESET.exists()


def _kilobytes(name: str, file: Path = STATUS) -> int:
    line = next(line for line in file.read_text("utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1])
