"""How long and how often the client tries to reach the broker before it gives up."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

_BACKOFF_S_MIN: Final = 0.05
_BACKOFF_S_MAX: Final = 2.0
#: The least time that the broker has for an answer, also where `give_up_s` is shorter or has almost passed.
ANSWER_S_MIN: Final = 1.0


class Retries:
    """A time without the broker: `give_up_s` from when it was last heard of.

    `clock` is the event loop's, in seconds; `jitter` gives 0 to 1, so that clients do not return all at once.
    """

    def __init__(
        self,
        *,
        give_up_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._give_up_s = give_up_s
        self._clock = clock
        self._jitter = jitter
        self._lost_at = clock()
        self._backoff_s = _BACKOFF_S_MIN

    def heard(self, at: float) -> None:
        """The broker was heard of at this time of the clock."""
        if at > self._lost_at:
            self._lost_at = at
            self._backoff_s = _BACKOFF_S_MIN

    @property
    def is_over(self) -> bool:
        """Whether it is time to give up."""
        return self._clock() - self._lost_at >= self._give_up_s

    def answer_s(self) -> float:
        """How long to wait for an answer to a request that is sent now."""
        return max(ANSWER_S_MIN, self._lost_at + self._give_up_s - self._clock())

    def pause_s(self) -> float:
        """How long to wait before the next try: twice as long each time, and not past the end."""
        pause_s = self._backoff_s * (0.5 + self._jitter())
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_S_MAX)
        return min(pause_s, max(0.0, self._lost_at + self._give_up_s - self._clock()))
