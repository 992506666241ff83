"""Virtual time: actions in the order of their times, and of their scheduling where the times are equal."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

Action = Callable[..., None]


def seeded(seed: int, *purpose: str) -> Random:
    """A source of random numbers that follows from a seed and a purpose alone."""
    return Random(":".join((str(seed), *purpose)))  # noqa: S311 - a simulation must repeat, not surprise


class Schedule:
    """Actions to come. `at` is the time now, in Unix seconds; `step` moves it to the next action."""

    def __init__(self, at: float) -> None:
        self.at = at
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, action: Action, *arguments: Any) -> None:
        """Call `action` after `delay_s`."""
        self.when(self.at + delay_s, action, *arguments)

    def when(self, at: float, action: Action, *arguments: Any) -> None:
        """Call `action` at a time that has not passed."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, action, arguments))

    def step(self) -> bool:
        """Do the next action, if there is one."""
        if not self._heap:
            return False
        self.at, _, action, arguments = heapq.heappop(self._heap)
        action(*arguments)
        return True
