"""The memory of a process, and of the machine."""

import sys
from pathlib import Path

from unified_loss._demo.memory import host_peak, is_measurable, kilobytes

__all__ = ["available", "host_peak", "is_measurable"]


def available() -> int:
    """The bytes that the machine can still give, as far as it says."""
    meminfo = Path("/proc/meminfo")
    return kilobytes("MemAvailable", meminfo) * 1024 if meminfo.exists() else sys.maxsize
