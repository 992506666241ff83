"""The device stays its owner's: what they say to a running worker happens, with real runners, at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tradepost.errors import InvalidDuration, InvalidSettings, LeaseTimeout, WrongMoment
from tradepost.protocol import Deliver, GiveBack, GiveBackReason, Heartbeat, Recall, UpdateOffer
from tradepost_worker.device import last_input, sensors
from tradepost_worker.settings import FILE_NAME, LiveLimits, load_settings, save_settings
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.keyboard import Keyboard
from tradepost_worker.testing.lent_device import FOREVER, NOOP, LentDevice, lent_device, runners, until
from tradepost_worker.testing.samples import sample_input


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[LentDevice]:
    async with lent_device(tmp_path / "state") as device:
        yield device


async def test_pausing_returns_what_runs_and_resuming_offers_again(home: LentDevice) -> None:
    async with home.worker():
        grant, _ = await home.forever()
        assert "paused until `tradepost worker resume`" in await home.say("pause")
        end = await home.broker.next(GiveBack)
        assert (end.lease, end.reason) == (grant.lease, GiveBackReason.PREEMPTED)
        assert "paused" in end.problem.detail
        withdrawal, returned = [one for one in home.broker.arrived if not isinstance(one, Heartbeat)][-2:]
        assert isinstance(withdrawal, UpdateOffer), "first, or the broker would grant the same job again"
        assert (withdrawal.offer.capacity, returned) == (0, end)
        await home.capacity(0)
        await until(lambda: not runners())
        assert "Paused: the owner paused the worker" in await home.say("status")
        # What the broker granted before it knew is given back too, and the job's attempts are not used up.
        late = home.broker.grant(NOOP, sample_input())
        await home.broker.send(late)
        assert (await home.broker.next(GiveBack)).reason is GiveBackReason.PREEMPTED

        await home.say("resume")
        await home.capacity(2)
        await home.broker.send(home.broker.grant(NOOP, sample_input()))
        assert (await home.broker.next(Deliver)).output is not None


async def test_a_paused_worker_starts_paused_until_its_time_is_over(home: LentDevice) -> None:
    assert "No worker is running; the next one starts paused until" in await home.say("pause", "--for", "1h")
    async with home.worker():
        assert home.broker.hellos[-1].offer.capacity == 0
        assert "Paused until 2" in await home.say("status")
    assert "paused when it starts again" in await home.say("status")
    with pytest.raises(InvalidDuration, match="not a duration"):
        await home.say("pause", "--for", "soon")


async def test_draining_finishes_what_runs_and_stops(home: LentDevice) -> None:
    with pytest.raises(WrongMoment, match="no worker is running"):
        await home.say("drain")
    async with home.worker() as running:
        grant, _ = await home.forever()
        await home.say("drain")
        await home.capacity(0)
        late = home.broker.grant(NOOP, sample_input())
        await home.broker.send(late)
        assert (await home.broker.next(GiveBack)).lease == late.lease
        assert not running.done()
        await home.broker.send(Recall(grant.lease))
        async with asyncio.timeout(180):
            await asyncio.shield(running)
    async with home.worker():  # the word is obeyed once
        assert home.broker.hellos[-1].offer.capacity == 2


async def test_a_clock_that_was_never_set_withdraws_the_offer_until_it_is_set(home: LentDevice) -> None:
    home.settle_s = 0.0
    home.broker.clock_ahead_s = 3 * 86400.0
    async with home.worker():
        await home.capacity(0)
        status = await home.say("status")
        assert "Paused: this device's clock is 3.0 days behind the broker's clock" in status
        home.broker.clock_ahead_s = 3600.0
        await home.broker.drop()
        await home.capacity(2)
        await home.broker.send(home.broker.grant(NOOP, sample_input()))
        assert (await home.broker.next(Deliver)).output is not None
        assert "; this device's clock is 60 min behind the broker's clock." in await home.say("status")


async def test_a_limit_that_changes_holds_at_once(home: LentDevice) -> None:
    async with home.worker():
        await home.forever()
        away = (time.localtime().tm_hour + 2) % 24
        span = f"{away:02}:00-{(away + 1) % 24:02}:00"
        assert span in await home.say("limits", "set", "hours", span)
        assert (await home.broker.next(GiveBack)).reason is GiveBackReason.PREEMPTED
        assert f"outside working hours ({span})" in await home.say("status")
        await home.say("limits", "set", "hours", "")
        await home.capacity(2)
        await home.say("limits", "set", "cpu_percent", "50")
        await home.capacity(1)


async def test_who_uses_the_device_has_it_alone(home: LentDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard = Keyboard()
    monkeypatch.setattr(last_input, "terminals", lambda: [keyboard.path])
    monkeypatch.setattr(last_input, "ask_desktops", lambda **_: [])
    home.settle_s = 0.0
    keyboard.rest(3600)
    save_settings(home.folder / FILE_NAME, {"idle_load_percent_max": 100, "idle_input_s_min": 600})
    async with home.worker():
        grant, _ = await home.forever()
        keyboard.type()
        await home.say("limits", "set", "idle_only", "true")
        end = await home.broker.next(GiveBack)
        assert (end.lease, end.reason) == (grant.lease, GiveBackReason.PREEMPTED)
        assert (
            end.problem.detail == "the device is in use"
        )  # where somebody types is not the broker's business
        await home.capacity(0)
        said = await home.say("status")
        where = keyboard.path.relative_to("/dev")
        assert re.match(rf"Paused: terminal {where} was used \d+ s ago; work resumes after 10 min", said)
        keyboard.rest(600)
        keyboard.print()
        await home.capacity(2)
        await home.forever()
        keyboard.type()
        assert (await home.broker.next(GiveBack)).reason is GiveBackReason.PREEMPTED
        await home.say("limits", "set", "idle_input_s_min", "0")
        await home.capacity(2)
    keyboard.close()


async def test_runners_start_within_the_limits(home: LentDevice) -> None:
    save_settings(home.folder / FILE_NAME, {"nice": 15, "cores_max": 1})
    async with home.worker():
        (runner,) = runners()
        assert runner.nice() == 15
        if hasattr(runner, "cpu_affinity"):
            assert len(runner.cpu_affinity()) == 1
        await home.say("limits", "set", "nice", "17")
        await until(lambda: runner.nice() == 17)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no niceness of sessions here")
async def test_runners_give_way_to_other_sessions(home: LentDevice) -> None:
    """Each has a session to itself, in which its own niceness counts against nobody."""
    save_settings(home.folder / FILE_NAME, {"nice": 10})
    async with home.worker():
        (runner,) = runners()
        session = Path(f"/proc/{runner.pid}/autogroup")
        await until(lambda: session.read_text().endswith(" nice 10\n"))
        for nice in (17, 3):
            await home.say("limits", "set", "nice", str(nice))
            await until(lambda nice=nice: session.read_text().endswith(f" nice {nice}\n"))


async def test_a_deadline_does_not_count_the_time_that_a_runner_is_stopped() -> None:
    runner = await RunnerProcess.start()
    try:
        await runner.load(
            FOREVER.manifest, FOREVER.artifacts, memory_bytes_max=1 << 28, output_bytes_max=1 << 20
        )
        runner.wall_stretch = 20.0  # what remains is the deadline out here
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        loop.call_later(0.2, runner.suspend)
        loop.call_later(1.2, runner.resume)
        with pytest.raises(LeaseTimeout):
            await runner.run(sample_input(), wall_s_max=0.5)
        assert runner.suspended_s > 0.9  # a second, less what a busy loop was late
        assert loop.time() - started_s >= 0.5 + runner.suspended_s
    finally:
        await runner.close()


async def test_limits_are_shown_with_those_that_cannot_be_held(
    home: LentDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Not enforceable here: gpu_percent" in await home.say("limits", "set", "gpu_percent", "50")
    monkeypatch.setattr(sensors, "unseen_input", lambda: "only terminals")
    said = await home.say("limits", "set", "idle_only", "true")
    assert "Not enforceable here: idle_input_s_min: only terminals." in said
    assert await home.say("limits", "set", "hours", "") == 'hours = ""\n'
    shown = await home.say("limits", "show")
    assert re.search(r"(?m)^idle_only +true$", shown)  # as the settings file has it
    assert "gpu_percent" in shown
    assert "not enforceable here" in shown
    for key, value in (("cpu_percent", "0"), ("hours", "always"), ("colour", "red"), ("capacity", "3")):
        with pytest.raises(InvalidSettings):
            await home.say("limits", "set", key, value)


def test_a_settings_file_that_makes_no_sense_changes_no_limit(home: LentDevice) -> None:
    live = LiveLimits(load_settings({"state_dir": home.folder}))
    before = live.read()
    save_settings(home.folder / FILE_NAME, {"cpu_percent": 0})
    assert live.read() == before
    save_settings(home.folder / FILE_NAME, {"cpu_percent": 10})
    assert live.read().cpu_percent == 10
