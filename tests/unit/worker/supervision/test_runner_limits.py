"""Runners are held to their owner's limits from their first moment on."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial

import pytest

from tradepost.errors import RunnerFailed
from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.supervision.runner_limits import RunnerLimits
from tradepost_worker.supervision.runner_policy import RunnerPolicy
from tradepost_worker.supervision.runner_process import RunnerProcess

#: Ends once it is nice and bound to one core, before it could say that it is ready.
RESTRAINED = """
import os, sys
while os.nice(0) != 15 or len(os.sched_getaffinity(0)) != 1:
    pass
sys.exit("restrained")
"""
#: A process as nice as these gets little of a busy machine.
PATIENT = RunnerPolicy(start_s_max=300.0)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to cores on Linux alone")
async def test_a_runner_is_restrained_while_it_starts() -> None:
    limits = DeviceLimits(memory_bytes_max=1 << 30, nice=15, cores_max=1)
    start = partial(RunnerProcess.start, boot=RESTRAINED, policy=PATIENT)
    with pytest.raises(RunnerFailed, match="restrained"):
        await RunnerLimits(limits=limits, start_runner=start).start()


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to cores on Linux alone")
async def test_a_limit_that_changes_holds_for_a_runner_that_starts() -> None:
    before = DeviceLimits(memory_bytes_max=1 << 30, nice=os.nice(0))
    spawned = asyncio.Event()

    async def start(*, on_spawn: Callable[[RunnerProcess], None]) -> RunnerProcess:
        def spawn(runner: RunnerProcess) -> None:
            spawned.set()
            on_spawn(runner)

        return await RunnerProcess.start(boot=RESTRAINED, on_spawn=spawn, policy=PATIENT)

    group = RunnerLimits(limits=before, start_runner=start)
    starting = asyncio.create_task(group.start())
    await spawned.wait()
    group.apply(DeviceLimits(memory_bytes_max=1 << 30, nice=15, cores_max=1))
    with pytest.raises(RunnerFailed, match="restrained"):
        await starting
    assert group.pids() == ()
