"""Telemetry stays small and within the protocol's bounds, whatever runs and whatever sensors say."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import ProtocolError
from tradepost.protocol import (
    LATENCY_BUCKETS_MS,
    DeviceHealth,
    Heartbeat,
    broker_codec_for_workers,
    worker_codec,
)
from tradepost.receipts import StageReport
from tradepost_worker.device import sensors
from tradepost_worker.device.governor import Allowance, Cause, Readings
from tradepost_worker.device.last_input import InputSensor
from tradepost_worker.device.telemetry import STAGES_MAX, StageLatencies, device_health
from tradepost_worker.link.network_rate import NetworkRate

HEARTBEAT_BYTES_MAX = 8192


def report(stage: str, ms: float) -> StageReport:
    return StageReport(stage=stage, output="0" * 64, wall_us=round(1000 * ms))


def test_latencies_are_counted_in_their_buckets() -> None:
    latencies = StageLatencies()
    for ms in (0.5, 1, 1.001, 300, 1e6):
        latencies.note("digits", [report("scale", ms)])
    assert latencies.read() == {"digits/scale": (2, 1, 0, 0, 0, 1, 0, 0, 1)}
    assert len(LATENCY_BUCKETS_MS) + 1 == 9


def test_only_the_stages_that_ran_last_are_kept() -> None:
    latencies = StageLatencies()
    for number in range(3 * STAGES_MAX):
        latencies.note(f"p{number}", [report("s", 1)])
        latencies.note("always", [report("s", 1)])
        latencies.read()  # which keeps nothing: an old stage is not one that ran last
    kept = latencies.read()
    assert len(kept) == STAGES_MAX
    assert set(kept) == {
        "always/s",
        *(f"p{number}/s" for number in range(2 * STAGES_MAX + 1, 3 * STAGES_MAX)),
    }
    assert kept["always/s"][0] == 3 * STAGES_MAX


NUMBERS = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(
    load=NUMBERS,
    temperature=NUMBERS,
    battery=NUMBERS,
    names=st.lists(st.text("aé-_9", max_size=300), max_size=40),
    cause=st.none() | st.sampled_from(Cause),
)
def test_a_heartbeat_is_small_and_valid(
    load: float | None,
    temperature: float | None,
    battery: float | None,
    names: list[str],
    cause: Cause | None,
) -> None:
    latencies = StageLatencies()
    for name in names:
        latencies.note(name, [report("s" * 300, 5)])
    readings = Readings(
        at=0, minute_of_day=0, load_percent=load, temperature_celsius=temperature, battery_percent=battery
    )
    decision = Allowance(capacity=1, cpu_percent=100, cause=cause)
    health = device_health(readings, decision, latencies, queue=1, preemptions=2)
    message = worker_codec().encode([Heartbeat(running=1, health=health)])
    assert len(message) <= HEARTBEAT_BYTES_MAX + 4 * sum(len(name) for name in names)
    assert broker_codec_for_workers().decode(message) == [Heartbeat(running=1, health=health)]


@pytest.mark.parametrize(
    "health",
    [
        {"load_percent": 101},
        {"temperature_celsius": 1e9},
        {"queue": -1},
        {"paused_by": "x" * 300},
        {"stage_latency": {"s": [1]}},
        {"stage_latency": {str(n): [0] * 9 for n in range(17)}},
        {"mood": "good"},
    ],
)
def test_a_broker_refuses_what_is_out_of_bounds(health: dict[str, object]) -> None:
    message = msgspec.msgpack.encode([{"type": "heartbeat", "running": 1, "health": health}])
    with pytest.raises(ProtocolError):
        broker_codec_for_workers().decode(message)


def test_a_heartbeat_of_before_is_still_one() -> None:
    message = msgspec.msgpack.encode([{"type": "heartbeat", "running": 1}])
    assert broker_codec_for_workers().decode(message) == [Heartbeat(running=1, health=None)]
    assert msgspec.to_builtins(DeviceHealth()) == {}


def test_real_sensors_read_this_device(tmp_path) -> None:
    device = sensors.Sensors(tmp_path)
    device.read()
    readings = device.read([1])
    assert readings.memory_free_bytes
    assert readings.disk_free_bytes
    assert 0 <= readings.minute_of_day < 1440


@pytest.mark.parametrize("sensor", ["sensors_battery", "sensors_temperatures"])
def test_a_system_that_shows_no_sensors_has_none(tmp_path, monkeypatch, sensor) -> None:
    """In a bare container there is no /sys, where psutil looks."""

    def absent() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/sys/class/power_supply")

    monkeypatch.setattr(sensors.psutil, sensor, absent, raising=False)
    readings = sensors.Sensors(tmp_path).read()
    assert None in (readings.battery_percent, readings.temperature_celsius)
    wanted = {"battery_percent_min": 20, "temperature_celsius_max": 70}
    lacking = sensors.not_enforceable(wanted)
    assert lacking
    assert not sensors.not_enforceable({})


def test_no_battery_is_told_from_one_that_cannot_be_read(monkeypatch) -> None:
    def unreadable() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/sys/class/power_supply")

    monkeypatch.setattr(sensors.psutil, "sensors_battery", lambda: None, raising=False)
    assert not sensors.not_enforceable({"mains_only": True})
    monkeypatch.setattr(sensors.psutil, "sensors_battery", unreadable)
    assert set(sensors.not_enforceable({"mains_only": True})) == {"mains_only"}


def test_input_that_cannot_be_seen_is_said(monkeypatch) -> None:
    unseen = "only input in terminals can be detected (loginctl is not installed)"
    monkeypatch.setattr(sensors, "unseen_input", lambda: unseen)
    wanted = {"idle_only": True, "idle_input_s_min": 300}
    assert sensors.not_enforceable(wanted) == {"idle_input_s_min": unseen}
    monkeypatch.setattr(sensors, "unseen_input", lambda: "")
    assert sensors.not_enforceable(wanted) == {}


@pytest.mark.parametrize("limits", [{"idle_only": False, "idle_input_s_min": 300}, {"idle_only": True}])
def test_input_is_looked_for_only_if_a_limit_needs_it(monkeypatch, tmp_path, limits) -> None:
    monkeypatch.setattr(sensors, "unseen_input", pytest.fail)
    monkeypatch.setattr(InputSensor, "read", pytest.fail)
    assert sensors.not_enforceable(limits) == {}
    assert sensors.Sensors(tmp_path).read().last_input is None


def test_own_work_is_not_others_load(tmp_path, monkeypatch) -> None:
    """Two cores, one of them used by a runner for the whole time, half of the other by somebody else."""
    spent = {7: 0.0, os.getpid(): 0.0}
    times = {"user": 0.0, "idle": 0.0}
    monkeypatch.setattr(sensors.psutil, "cpu_times", lambda: FakeTimes(times["user"], times["idle"]))
    device = sensors.Sensors(tmp_path, measure=spent.__getitem__)
    device.read([7])
    spent[7], times["user"], times["idle"] = 10.0, 15.0, 5.0
    readings = device.read([7])
    assert readings.load_percent == pytest.approx(75)
    assert readings.others_load_percent == pytest.approx(25)
    # The runner ends: what it used before is not somebody else's now.
    times["user"], times["idle"] = 15.0, 25.0
    for _ in range(sensors.LOAD_READINGS):
        readings = device.read([])
    times["idle"] = 35.0
    assert device.read([]).others_load_percent == pytest.approx(0)


def test_a_load_is_a_mean_over_the_last_readings(tmp_path, monkeypatch) -> None:
    """So that a short burst of others does not stop work, and readings may be close to each other."""
    times = {"user": 0.0, "idle": 0.0}
    monkeypatch.setattr(sensors.psutil, "cpu_times", lambda: FakeTimes(times["user"], times["idle"]))
    device = sensors.Sensors(tmp_path, measure=lambda _: 0.0)
    assert device.read().load_percent is None
    loads = []
    for busy_s in (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0):
        times["user"] += busy_s
        times["idle"] += 1.0 - busy_s
        loads.append(device.read().others_load_percent)
    assert loads == [0, 0, 0, 25, 25, 25, 25, 0]


class FakeTimes(tuple[float, float]):
    """As psutil's named tuple: numbers that can be summed, with names."""

    __slots__ = ()

    def __new__(cls, user: float, idle: float) -> FakeTimes:
        return super().__new__(cls, (user, idle))

    @property
    def idle(self) -> float:
        return self[1]


async def test_the_network_rate_is_a_mean() -> None:
    slept: list[float] = []
    now = [0.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    rate = NetworkRate(1000, monotonic=lambda: now[0], sleep=sleep)
    for _ in range(5):
        await rate.take(500)
    assert now[0] == pytest.approx(2.5)
    now[0] += 100  # idle time saves nothing up
    await rate.take(500)
    assert slept[-1] == pytest.approx(0.5)
    rate.bytes_per_s_max = 0
    await rate.take(1 << 40)
    assert now[0] == pytest.approx(103.0)
