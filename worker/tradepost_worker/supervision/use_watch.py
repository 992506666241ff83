"""Checks regularly what a runner uses: memory, threads, and processor time while it has nothing to do.

It goes on between runs, since a runner that was taken over may wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tradepost_worker.supervision.idle_watch import IdleWatch
from tradepost_worker.supervision.memory_limit import MemoryLimit
from tradepost_worker.supervision.runner_policy import RunnerPolicy


class UseWatch:
    """Watches the process `pid` from now on, until `stop` or its first excess, of which `on_excess` is told
    in words. `is_idle` tells whether the runner has nothing to do.

    Raises `SandboxUnavailable` if its memory cannot be measured.
    """

    def __init__(
        self,
        pid: int,
        *,
        threads_max: int,
        policy: RunnerPolicy,
        is_idle: Callable[[], bool],
        on_excess: Callable[[str], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.memory = MemoryLimit(pid, threads_max=threads_max)
        self._idleness = IdleWatch(pid, window_s=policy.idle_window_s, cpu_s_max=policy.idle_cpu_s_max)
        self._interval_s = policy.look_s
        self._is_idle = is_idle
        self._on_excess = on_excess
        self._timer = self._loop.call_later(self._interval_s, self._check)

    def stop(self) -> None:
        """Check no more."""
        self._timer.cancel()

    def _check(self) -> None:
        if excess := self.memory.excess() or self._idleness.excess(is_idle=self._is_idle()):
            self._on_excess(excess)
        else:
            self._timer = self._loop.call_later(self._interval_s, self._check)
