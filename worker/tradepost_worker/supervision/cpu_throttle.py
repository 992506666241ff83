"""Limits all runners together to a share of the processor, by measuring their use and stopping them.

A budget of processor time grows with the clock, at `cpu_percent` of all cores, and shrinks by what the
runners are measured to have used. While it is overdrawn every runner's process group is stopped (SIGSTOP);
when a little of it is there again they go on (SIGCONT). What is overdrawn is carried over, so the mean over
time holds whatever the tick. No privilege is needed, which cgroups would, and macOS has the signals too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from tradepost_worker.device.process_use import cpu_s

#: How often the budget is looked at while runners are held to a share.
TICK_S: Final = 0.02
#: How much the runners may save up while they are idle, and how much there must be before they go on.
_SAVED_S: Final = 0.1
_RESUME_S: Final = 0.02


class Suspendable(Protocol):
    """A runner's process group."""

    @property
    def pid(self) -> int:
        """Its leader."""
        ...

    def suspend(self) -> None:
        """Stop it."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...


class CpuThrottle:
    """Holds `runners()` to `percent` of `cores`. `measure` gives the processor seconds of a process."""

    def __init__(
        self,
        *,
        cores: int,
        runners: Callable[[], Iterable[Suspendable]],
        measure: Callable[[int], float] = cpu_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.percent = 100
        self._cores = cores
        self._runners = runners
        self._measure = measure
        self._monotonic = monotonic
        self._used_s: dict[int, float] = {}
        self._suspended: set[Suspendable] = set()
        self._looked_s = monotonic()
        self._budget_s = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the runners may not use everything."""
        return self.percent < 100

    async def keep(self) -> None:
        """Hold the share until cancelled; then nothing is left stopped."""
        try:
            while True:
                self.tick()
                await asyncio.sleep(TICK_S if self.is_held else 10 * TICK_S)
        finally:
            self._resume()

    def tick(self) -> None:
        """Measure, then stop the runners or let them go on."""
        runners = tuple(self._runners())
        rate = self._cores * self.percent / 100
        now_s = self._monotonic()
        self._budget_s += rate * (now_s - self._looked_s) - self._spent_s(runners)
        self._budget_s = min(self._budget_s, rate * _SAVED_S)
        self._looked_s = now_s
        self._suspended.intersection_update(runners)
        if not self.is_held:
            self._budget_s = 0.0
            self._resume()
        elif self._budget_s < 0:
            for runner in runners:
                if runner not in self._suspended:
                    runner.suspend()
                    self._suspended.add(runner)
        elif self._budget_s >= rate * _RESUME_S:
            self._resume()

    def _spent_s(self, runners: Iterable[Suspendable]) -> float:
        used_s = {runner.pid: self._measure(runner.pid) for runner in runners}
        # A runner starts (loads its engines, compiles) on the same budget: its first reading counts whole.
        spent_s = sum(max(0.0, used - self._used_s.get(pid, 0.0)) for pid, used in used_s.items())
        self._used_s = used_s
        return spent_s

    def _resume(self) -> None:
        for runner in self._suspended:
            runner.resume()
        self._suspended.clear()
