"""Counts the stalls of the event loop by place, for the operator.

The metrics, which are public, have their number and length alone: a place tells what the broker was doing for
somebody. The log has a line for each place, and no other for that place within `LOG_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from tradepost_broker.operator.messages import StallView
from tradepost_broker.reporting.loop_watchdog import LIMIT_S, Stall

LOG_S: Final = 60.0
#: Places that are told apart; the stalls of further ones are counted together.
PLACES_MAX: Final = 256
ELSEWHERE: Final = "elsewhere"

log = logging.getLogger(__name__)


class LoopStalls:
    """The stalls since the start. `observe_stall` is told the seconds of each; `clock` gives Unix seconds."""

    def __init__(
        self,
        *,
        observe_stall: Callable[[float], None] = lambda _seconds: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe_stall = observe_stall
        self._clock = clock
        self._monotonic = monotonic
        self._by_place: dict[str, StallView] = {}
        self._logged_at: dict[str, float] = {}

    def note(self, stall: Stall) -> None:
        """Count a stall, and log it unless one at this place was logged just now."""
        self._observe_stall(stall.seconds)
        place = stall.place if stall.place in self._by_place or not self._is_full() else ELSEWHERE
        known = self._by_place.get(place) or StallView(
            place=place, count=0, total_s=0.0, longest_s=0.0, newest_at=0.0
        )
        self._by_place[place] = replace(
            known,
            count=known.count + 1,
            total_s=known.total_s + stall.seconds,
            longest_s=max(known.longest_s, stall.seconds),
            newest_at=self._clock(),
        )
        now = self._monotonic()
        if now - self._logged_at.get(place, -LOG_S) >= LOG_S:
            self._logged_at[place] = now
            log.warning(
                "The event loop stood still for %.0f ms (at most %.0f are allowed) at %s: %d times so far",
                stall.seconds * 1000,
                LIMIT_S * 1000,
                place,
                known.count + 1,
                extra={"action": "loop_stalled"},
            )

    def all(self) -> list[StallView]:
        """The stalls by place, the longest first."""
        return sorted(self._by_place.values(), key=lambda one: -one.longest_s)

    def _is_full(self) -> bool:
        return len(self._by_place) >= PLACES_MAX
