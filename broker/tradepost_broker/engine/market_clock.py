"""The market's time: Unix seconds that neither jump nor run back, whatever the machine's clock does.

Time passes by a steady clock, which nobody sets. It is brought near the machine's clock by running at most
`SLEW_MAX` faster or slower, so small errors wear off, and a jump of the machine's clock moves no deadline, no
lease and no token. While the market can decide nothing, its time stands still, so that nobody is late for
that. After a restart it goes on where the journal ends, or with the machine's clock if that is
later. Events carry this time, so a replay needs no clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

#: How much faster or slower than a second a second of the market may be, to come near the machine's clock.
SLEW_MAX: Final = 0.005
#: A change of the machine's clock against the steady one that is logged.
JUMP_S_MIN: Final = 1.0

log = logging.getLogger(__name__)


def steady_s() -> float:
    """Seconds since some moment, by a clock that nobody sets, and that goes on while the machine sleeps."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux has it
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class MarketClock:
    """Gives the market's time when called. `not_before` is where the journal ends.

    `wall` is the machine's clock in Unix seconds, `steady` one that never jumps.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_s,
        not_before: float = 0.0,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._wall_seen, self._steady_seen = wall(), steady()
        self._at = max(self._wall_seen, not_before)
        self._is_still = False
        if self._at - self._wall_seen >= JUMP_S_MIN:
            log.warning(
                "The journal ends %.1f s after this machine's time, and the market goes on from there",
                self._at - self._wall_seen,
                extra={"action": "clock_behind_journal", "seconds": self._at - self._wall_seen},
            )

    def __call__(self) -> float:
        """The time now."""
        wall, steady = self._wall(), self._steady()
        passed_s = max(0.0, steady - self._steady_seen)
        jump_s = wall - self._wall_seen - passed_s
        self._wall_seen, self._steady_seen = wall, steady
        if not self._is_still:
            self._at += passed_s
            slew_s = SLEW_MAX * passed_s
            self._at += min(slew_s, max(-slew_s, wall - self._at))
        if abs(jump_s) >= JUMP_S_MIN:
            log.warning(
                "This machine's clock jumped by %+.1f s, but not the market's, which is %+.1f s from it",
                jump_s,
                self._at - wall,
                extra={"action": "clock_jumped", "seconds": jump_s},
            )
        return self._at

    def stand_still(self, is_still: bool) -> None:
        """Stop the time, or let it go on from where it is."""
        self()
        self._is_still = is_still
