"""How a device is timed: one object for each kind of device."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

Call = Callable[[], Any]


class WallTimer(NamedTuple):
    """By the clock; each call is waited for.

    Examples
    --------
    >>> WallTimer(wait=lambda result: None).seconds(lambda: 1, number=2) > 0
    True
    """

    wait: Callable[[Any], None]

    def seconds(self, call: Call, number: int) -> float:
        """The time of one call, over `number` of them one after the other."""
        start = perf_counter()
        for _ in range(number):
            self.wait(call())
        return (perf_counter() - start) / number


class EventTimer(NamedTuple):
    """By two events in the queue of a device, which works on while Python goes on."""

    event: Callable[[], Any]  # makes one that knows `record`, `synchronize` and `elapsed_time`
    wait: Callable[[Any], None]

    def seconds(self, call: Call, number: int) -> float:
        """The time of one call on the device, over `number` of them one after the other."""
        start, end = self.event(), self.event()
        self.wait(None)
        start.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / number
