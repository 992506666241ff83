"""Notices a process that works although nobody asked it to.

A runner with nothing to do waits on its pipe. One that was taken over could wait for that, and then use the
device for its own ends, where no deadline runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import psutil

#: How long each look back is, and how much processor time is no work: freeing what a run took, for example.
WINDOW_S: Final = 2.0
IDLE_CPU_S_MAX: Final = 0.5


class IdleWatch:
    """Watches the process `pid`."""

    def __init__(self, pid: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pid = pid
        self._monotonic = monotonic
        self._since_s: float | None = None
        self._used_s = 0.0

    def excess(self, *, is_idle: bool) -> str | None:
        """What it did while it was idle, in words, if that was work. Call it from time to time."""
        if not is_idle:
            self._since_s = None
            return None
        now_s = self._monotonic()
        if self._since_s is not None and now_s - self._since_s < WINDOW_S:
            return None
        try:
            times = psutil.Process(self._pid).cpu_times()
        except psutil.NoSuchProcess:
            return None
        was_idle, before_s = self._since_s is not None, self._used_s
        self._since_s, self._used_s = now_s, times.user + times.system
        worked_s = self._used_s - before_s
        if was_idle and worked_s > IDLE_CPU_S_MAX:
            return f"{worked_s:.1f} s of processor time without a request"
        return None
