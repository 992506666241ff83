"""Starts runners within the owner's limits, and applies changed limits to running ones.

Niceness and cores are set from outside, by thread, as soon as there is a process; threads that it starts
later inherit both.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.supervision.niceness import Niceness, threads_of
from tradepost_worker.supervision.runner_process import RunnerProcess

#: A share is a mean over all cores and all runners; by its own clock one of them may be slower than that.
_STRETCH_MARGIN: Final = 2.0


class StartRunner(Protocol):
    """Starts a runner, and tells `on_spawn` of its process first; `RunnerProcess.start` does."""

    def __call__(self, *, on_spawn: Callable[[RunnerProcess], None]) -> Awaitable[RunnerProcess]:
        """The runner that is ready."""
        ...


class RunnerLimits:
    """The runners of a device, made by `start_runner` and kept within `limits`."""

    def __init__(self, *, limits: DeviceLimits, start_runner: StartRunner = RunnerProcess.start) -> None:
        self._limits = limits
        self._start_runner = start_runner
        self._niceness: dict[RunnerProcess, Niceness] = {}

    def alive(self) -> tuple[RunnerProcess, ...]:
        """The runners that were spawned and have not ended."""
        return tuple(runner for runner in self._niceness if runner.is_alive)

    def pids(self) -> tuple[int, ...]:
        """The process ids of those."""
        return tuple(runner.pid for runner in self.alive())

    async def start(self) -> RunnerProcess:
        """A new runner within the limits. Raises what starting one raises."""
        return await self._start_runner(on_spawn=self._include)

    def apply(self, limits: DeviceLimits) -> None:
        """Keep all runners within other limits from now on."""
        self._limits = limits
        for runner in self.alive():
            self._restrain(runner)

    def _include(self, runner: RunnerProcess) -> None:
        self._niceness[runner] = Niceness(runner.pid)
        self._restrain(runner)
        runner.call_at_end(lambda: self._niceness.pop(runner).close())

    def _restrain(self, runner: RunnerProcess) -> None:
        share = self._limits.cpu_percent / 100
        runner.wall_stretch = 1.0 if share == 1 else _STRETCH_MARGIN / share
        self._niceness[runner].set(self._limits.nice)
        if (cores := allowed_cores(self._limits.cores_max)) is None:
            return
        for thread in threads_of(runner.pid):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def allowed_cores(cores_max: int) -> set[int] | None:
    """The cores that runners are bound to: the last ones, since systems tend to keep busy with the first.
    `None` where processes cannot be bound."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return set(sorted(os.sched_getaffinity(0))[-cores_max:])
