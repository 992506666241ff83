"""The order in which limits are enforced: the owner's status first, then the offer, then the leases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tradepost_worker.device.device_monitor import DeviceMonitor
from tradepost_worker.device.governor import Cause, Governor, Readings
from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.leases.limits_enforcer import LimitsEnforcer
from tradepost_worker.supervision.cpu_throttle import CpuThrottle

AT = 1_800_000_000.0
CAPACITY = 4


class StillDevice:
    """A device on which nothing changes."""

    def read(self, runners: Iterable[int] = (), *, with_input: bool = False) -> Readings:
        return Readings(at=AT, minute_of_day=0)


class Bench:
    """An enforcer that enforces nothing: `happened` is what it did, in order."""

    unfinished = 0

    def __init__(self, folder: Path) -> None:
        self.happened: list[tuple[str, object]] = []
        self.limits = DeviceLimits(memory_bytes_max=1 << 30)
        self.command = OwnerCommandFile(folder / "owner.json")
        self.monitor = DeviceMonitor(
            command_file=self.command,
            read_limits=lambda: self.limits,
            device=StillDevice(),
            governor=Governor(capacity=CAPACITY),
            runner_pids=lambda: (),
        )
        self.enforcer = LimitsEnforcer(
            monitor=self.monitor,
            leases=cast("HeldLeases", self),
            throttle=CpuThrottle(cores=1, runners=lambda: ()),
            apply_limits=lambda limits: self.note("limits", limits.cpu_percent),
            offer_capacity=lambda capacity: self.note("offer", capacity),
            end_runners=self.end_runners,
            on_change=self.show,
        )

    def note(self, what: str, value: object) -> None:
        self.happened.append((what, value))

    def show(self) -> None:
        self.note("status", (self.monitor.decision.cause, self.monitor.limits.cpu_percent))

    async def end_runners(self) -> None:
        self.note("runners", "ended")

    async def pause(self, why: str, *, finish: bool) -> None:
        self.note("leases", "finish" if finish else "stop")

    def resume(self) -> None:
        self.note("leases", "resume")

    async def after(self, command: OwnerCommand | None = None, **limits: object) -> list[tuple[str, object]]:
        """What enforcing does after a command of the owner and changed limits."""
        if command is None:
            self.command.clear()
        else:
            self.command.write(command)
        self.limits = msgspec.structs.replace(self.limits, **limits)
        self.happened.clear()
        await self.enforcer.enforce()
        return self.happened


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    await bench.enforcer.enforce()
    return bench


async def test_the_status_gives_the_reason_before_the_broker_gets_the_offer(bench: Bench) -> None:
    paused, working = ("status", (Cause.OWNER, 100)), ("status", (None, 100))
    assert await bench.after(OwnerCommand(mode=Mode.PAUSE)) == [
        *(paused, ("offer", 0)),
        *(("leases", "stop"), ("runners", "ended"), paused),
    ]
    assert await bench.after() == [working, ("offer", CAPACITY), ("leases", "resume"), working]


async def test_the_status_names_changed_limits_before_they_are_applied(bench: Bench) -> None:
    changed = ("status", (None, 50))
    assert await bench.after(cpu_percent=50) == [
        *(changed, ("limits", 50), ("offer", CAPACITY // 2)),
        *(("leases", "resume"), changed),
    ]
    assert await bench.after(nice=15) == [changed, ("limits", 50)]


async def test_where_nothing_changes_nothing_happens(bench: Bench) -> None:
    assert await bench.after() == []
