"""The governor's promises, measured on this machine over real time, beside others that keep it busy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tradepost.protocol import Deliver, GiveBack, GiveBackReason
from tradepost_worker.device import last_input
from tradepost_worker.settings import FILE_NAME, available_cores, save_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.testing.fair_clock import FairClock
from tradepost_worker.testing.keyboard import Keyboard
from tradepost_worker.testing.lent_device import LentDevice, lent_device, runners, spinning_kernel, until
from tradepost_worker.testing.samples import kernel_pipeline, sample_input

pytestmark = pytest.mark.acceptance

PERCENT, TOLERANCE = 25, 5
LOADED_S, NICE_S = 30.0, 8.0
#: As many as get more than a quarter of the processor when all programs get the same.
LEASES = 4
BUSY_PERCENT_MIN = 90
#: A machine that would give as many programs less than this if they wanted all of it says nothing of a share.
FAIR_PERCENT_MIN = 1.5 * PERCENT
PREEMPTIONS, PREEMPTION_S_MAX, HOUR_S = 12, 1.0, 3600.0
SPIN = kernel_pipeline(spinning_kernel(100_000_000), name="spin", fuel=1 << 50, wall_ms=600_000)


class Window(NamedTuple):
    """What was measured, in percent of all cores."""

    runners: float
    others: float
    device: float
    jobs: int

    def __str__(self) -> str:
        return (
            f"runners {self.runners:.2f}%, competitors {self.others:.2f}%, "
            f"device {self.device:.1f}% of {available_cores()} cores, {self.jobs} jobs"
        )


class Meter:
    """The processor time of all runners that this process has had, and of their competitors."""

    def __init__(self, delivered_s: list[float]) -> None:
        self._delivered_s = delivered_s
        self._runners_s: dict[int, float] = {}

    async def measure(self, wanted_s: float, others: Sequence[psutil.Process] = ()) -> Window:
        before, started_s = self._read(others), time.monotonic()
        await until(lambda: time.monotonic() - started_s >= wanted_s, s_max=2 * wanted_s)
        after, passed_s = self._read(others), time.monotonic() - started_s
        shares = [100 * (b - a) / (passed_s * available_cores()) for a, b in zip(before, after, strict=True)]
        return Window(*shares, jobs=sum(at > started_s for at in self._delivered_s))

    def _read(self, others: Sequence[psutil.Process]) -> tuple[float, float, float]:
        self._runners_s |= {runner.pid: used_s(runner) for runner in runners()}
        # Time that a virtual machine did not get is not idle either.
        busy_s = time.monotonic() * available_cores() - psutil.cpu_times().idle
        return sum(self._runners_s.values()), sum(map(used_s, others)), busy_s


def used_s(process: psutil.Process) -> float:
    """The processor time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def competitors() -> Iterator[list[psutil.Process]]:
    """Busy programs of the owner's, as many as there are cores, each in a terminal of its own, so to say."""
    command = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(command, start_new_session=True) for _ in range(available_cores())]
    try:
        yield [psutil.Process(one.pid) for one in started]
    finally:
        for one in started:
            one.kill()
            one.wait()


async def keep_busy(device: LentDevice, leases: int, delivered_s: list[float]) -> None:
    """Have this many leases open until cancelled, and note when results come; another grant follows each."""
    for number in range(leases):
        await device.broker.send(device.broker.grant(SPIN, sample_input(number)))
    while True:
        end = await device.broker.next(Deliver)
        assert end.output is not None
        delivered_s.append(time.monotonic())
        await device.broker.send(device.broker.grant(SPIN, sample_input(len(delivered_s))))


async def test_a_quarter_of_the_processor_is_a_quarter(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Beside as many busy programs as there are cores. What is left of it at nice 10 is up to the system's
    scheduler, and is reported."""
    delivered_s: list[float] = []
    async with lent_device(tmp_path / "state", SPIN) as device:
        settings = {"cpu_percent": PERCENT, "nice": 0, "capacity": 4 * LEASES, "runners_max": LEASES}
        save_settings(device.folder / FILE_NAME, settings)
        async with device.worker():
            busy = asyncio.create_task(keep_busy(device, LEASES, delivered_s))
            await until(lambda: len(delivered_s) >= 2 * LEASES)  # past the start of the runners
            meter = Meter(delivered_s)
            with competitors() as others:
                loaded = await meter.measure(LOADED_S, others)
                save_settings(device.folder / FILE_NAME, {"nice": 10})
                await until(lambda: all(runner.nice() == 10 for runner in runners()))
                nice = await meter.measure(NICE_S, others)
            assert not busy.done(), busy.exception()
            busy.cancel()
    for name, window in (("nice 0", loaded), ("nice 10", nice)):
        record_property(f"share_{name}_percent", round(window.runners, 2))
        print(f"\n{name}: {window}", end="")
    assert loaded.device >= BUSY_PERCENT_MIN
    assert max(loaded.runners, nice.runners) <= PERCENT + TOLERANCE
    if LEASES * loaded.others / available_cores() < FAIR_PERCENT_MIN:
        pytest.skip(f"this machine had too little left to give: {loaded}")
    assert loaded.runners >= PERCENT - TOLERANCE
    assert loaded.jobs >= 10


def have_ended(pids: Sequence[int], clock: FairClock) -> bool:
    """Whether these processes are gone; `clock` reads first how long they waited for the processor."""
    clock.look()
    return not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("how", ["pause", "typing"])
async def test_the_owner_has_the_device_back_within_a_second(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    keyboard = Keyboard()
    keyboard.rest(HOUR_S)
    monkeypatch.setattr(last_input, "terminals", lambda: [keyboard.path])
    monkeypatch.setattr(last_input, "ask_desktops", lambda **_: [])
    latencies_s = []
    async with lent_device(tmp_path / "state") as device:
        device.settle_s = 0.0
        save_settings(device.folder / FILE_NAME, {"idle_load_percent_max": 100})
        if how == "typing":
            await device.say("limits", "set", "idle_only", "true")
        folder = StateFolder(device.folder)
        begin, end = {
            "pause": (device.pause, device.resume),
            "typing": (keyboard.type, lambda: keyboard.rest(HOUR_S)),
        }[how]
        async with device.worker():
            if device.broker.hellos[-1].offer.capacity == 0:  # how busy others are was not known yet
                await device.capacity(2)
            for _ in range(PREEMPTIONS):
                grant, _ = await device.forever()
                pids = [runner.pid for runner in runners()]
                clock = FairClock(os.getpid(), *pids)
                begin()
                back = await device.broker.next(GiveBack)
                await until(partial(have_ended, pids, clock))
                latencies_s.append(clock.passed_s())
                assert (back.lease, back.reason) == (grant.lease, GiveBackReason.PREEMPTED)
                await device.capacity(0)
                end()
                await device.capacity(2)
            standing = folder.status()
    keyboard.close()
    latencies_s.sort()
    p50, p95 = latencies_s[PREEMPTIONS // 2], latencies_s[int(0.95 * PREEMPTIONS)]
    record_property(f"preemption_by_{how}_p95_s", round(p95, 3))
    p50_ms, p95_ms, worst_ms = (round(1000 * found_s) for found_s in (p50, p95, latencies_s[-1]))
    print(f"\npreemption by {how}: p50 {p50_ms} ms, p95 {p95_ms} ms, worst {worst_ms} ms")
    assert standing is not None
    assert standing.preemptions == PREEMPTIONS
    assert p95 < PREEMPTION_S_MAX
