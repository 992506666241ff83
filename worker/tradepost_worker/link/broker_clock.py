"""How far this device's clock is from the broker's, which states its time when it admits the worker.

Leases do not depend on it: a grant states the time that is left, and that is counted by a monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: On Linux this clock counts while the device is suspended; others have none that does.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_s() -> float:
    """Seconds since some moment, unaffected by changes of the system's time."""
    return time.clock_gettime(_CLOCK)


class BrokerClock:
    """The broker's time, continued from when it was last stated. `clock` gives this device's Unix seconds,
    `elapsed` seconds since some moment."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed_s
    ) -> None:
        self._clock = clock
        self._elapsed = elapsed
        self._stated: tuple[float, float] | None = None

    def note(self, at: float | None) -> None:
        """The broker states its time (Unix seconds), or does not."""
        self._stated = None if at is None else (at, self._elapsed())

    def skew_s(self) -> float | None:
        """How far this device's clock is ahead of the broker's; negative if it is behind, `None` if unknown.

        A clock that is set right meanwhile is right at once.
        """
        if self._stated is None:
            return None
        at, then_s = self._stated
        return self._clock() - (at + self._elapsed() - then_s)
