"""Detects a process that uses the processor without a request.

A runner with nothing to do waits on its pipe. One that was taken over could wait for that, and then use the
device for its own ends, where no deadline runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tradepost_worker.device.process_use import cpu_s

#: How long each look back is, and how much processor time is no work: freeing what a run took, for example.
WINDOW_S: Final = 2.0
IDLE_CPU_S_MAX: Final = 0.5


class IdleWatch:
    """Watches the process `pid`: more than `cpu_s_max` seconds of processor time in `window_s` idle seconds
    is an excess. `measure` gives the processor seconds of a process."""

    def __init__(
        self,
        pid: int,
        *,
        window_s: float = WINDOW_S,
        cpu_s_max: float = IDLE_CPU_S_MAX,
        measure: Callable[[int], float] = cpu_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = pid
        self._window_s = window_s
        self._cpu_s_max = cpu_s_max
        self._measure = measure
        self._monotonic = monotonic
        self._since_s: float | None = None
        self._used_s = 0.0

    def excess(self, *, is_idle: bool) -> str | None:
        """What it did while it was idle, in words, if that was work. Call it from time to time."""
        if not is_idle:
            self._since_s = None
            return None
        now_s = self._monotonic()
        if self._since_s is not None and now_s - self._since_s < self._window_s:
            return None
        was_idle, before_s = self._since_s is not None, self._used_s
        self._since_s, self._used_s = now_s, self._measure(self._pid)
        worked_s = self._used_s - before_s
        if was_idle and worked_s > self._cpu_s_max:
            return f"{worked_s:.1f} s of processor time without a request"
        return None
