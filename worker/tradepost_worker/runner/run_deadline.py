"""Calls an interrupt when a run is still running at its deadline.

One thread sleeps until a deadline and is woken only by an earlier one, so guarding a run that ends in time
costs no context switch. The interrupt is called under the lock that ends a run: it never hits the next one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_IDLE_S: Final = 5.0


class RunDeadline:
    """Watches one run at a time. `monotonic` gives seconds on which deadlines are counted."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._due_s: float | None = None
        self._interrupt: Callable[[], None] | None = None
        self._wakes_s = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, wall_s_max: float, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` from another thread if the block still runs after `wall_s_max` seconds.

        Without a limit (`math.inf`) no thread is started.
        """
        if wall_s_max == math.inf:
            yield
            return
        with self._changed:
            self._due_s, self._interrupt = self._monotonic() + wall_s_max, interrupt
            if self._thread is None:
                self._wakes_s = self._due_s
                self._thread = threading.Thread(target=self._watch, name="run-deadline", daemon=True)
                self._thread.start()
            elif self._due_s < self._wakes_s:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due_s = self._interrupt = None

    def _watch(self) -> None:
        with self._changed:
            idle_turns = 0
            # A run may begin in the last idle turn, and must be watched.
            while self._due_s is not None or idle_turns < 2:
                idle_turns = 0 if self._due_s is not None else idle_turns + 1
                self._wakes_s = self._monotonic() + _IDLE_S if self._due_s is None else self._due_s
                self._changed.wait(max(0.0, self._wakes_s - self._monotonic()))
                if (
                    self._due_s is not None
                    and self._interrupt is not None
                    and self._monotonic() >= self._due_s
                ):
                    self._interrupt()
                    self._due_s = None
            self._thread = None
