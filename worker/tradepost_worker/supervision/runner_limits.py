"""Starts runners within the owner's limits, and knows which ones are alive, so that limits can be held.

Niceness and cores are set from outside, by thread, as soon as there is a process; threads that it starts
later inherit both.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from tradepost_worker.device.limits import Limits
from tradepost_worker.supervision.background_runner import NicedRunner

#: A share is a mean over all cores and all runners; by its own clock one of them may be slower than that.
_STRETCH_MARGIN: Final = 2.0


class StartRunner(Protocol):
    """Starts a runner, and tells `on_spawn` of its process first; `NicedRunner.start` does."""

    def __call__(self, *, on_spawn: Callable[[NicedRunner], None]) -> Awaitable[NicedRunner]:
        """The runner that is ready."""
        ...


class RunnerGroup:
    """The runners of a device, made by `start_runner`, held to `limits`."""

    def __init__(self, *, limits: Limits, start_runner: StartRunner = NicedRunner.start) -> None:
        self._limits = limits
        self._start_runner = start_runner
        self._alive: list[NicedRunner] = []

    def alive(self) -> tuple[NicedRunner, ...]:
        """The runners that were spawned and have not ended."""
        self._alive = [runner for runner in self._alive if runner.is_alive]
        return tuple(self._alive)

    def pids(self) -> tuple[int, ...]:
        """The process ids of those."""
        return tuple(runner.pid for runner in self.alive())

    async def start(self) -> NicedRunner:
        """A new runner within the limits. Raises what starting one raises."""
        return await self._start_runner(on_spawn=self._take_in)

    def hold(self, limits: Limits) -> None:
        """Hold all runners to other limits."""
        self._limits = limits
        for runner in self.alive():
            self._restrain(runner)

    def _take_in(self, runner: NicedRunner) -> None:
        self._restrain(runner)
        self._alive.append(runner)

    def _restrain(self, runner: NicedRunner) -> None:
        share = self._limits.cpu_percent / 100
        runner.wall_stretch = 1.0 if share == 1 else _STRETCH_MARGIN / share
        runner.give_way(self._limits.nice)
        if (cores := allowed_cores(self._limits.cores_max)) is None:
            return
        for thread in runner.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def allowed_cores(cores_max: int) -> set[int] | None:
    """The cores that runners are bound to: the last ones, since systems tend to keep busy with the first.
    `None` where processes cannot be bound."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return set(sorted(os.sched_getaffinity(0))[-cores_max:])
