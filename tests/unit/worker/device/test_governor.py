"""What the governor decides, as tables: readings, limits and the owner's command in, a decision out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import InvalidSettings
from tradepost_worker.device.governor import SETTLE_S, Allowance, Cause, Governor, LastInput, Readings
from tradepost_worker.device.limits import MINUTES_PER_DAY, DeviceLimits, is_within, parse_hours
from tradepost_worker.device.owner_command import WORK, Mode, OwnerCommand

FINE = {"at": 1000.0, "minute_of_day": 600}
PAUSE = OwnerCommand(mode=Mode.PAUSE)
DRAIN = OwnerCommand(mode=Mode.DRAIN)


def readings(**changes: Any) -> Readings:
    return Readings(**(FINE | changes))


def used(seconds_ago: float) -> LastInput:
    return LastInput(at=FINE["at"] - seconds_ago, where="terminal pts/3")


def limits(**changes: Any) -> DeviceLimits:
    return DeviceLimits(**({"memory_bytes_max": 1 << 30} | changes))


def decide(
    now: Readings, allowed: DeviceLimits, word: OwnerCommand = WORK, *, capacity: int = 8
) -> Allowance:
    return Governor(capacity=capacity).decide(now, allowed, word)


def test_a_device_without_sensors_works() -> None:
    assert decide(readings(), limits()) == Allowance(capacity=8, cpu_percent=100)


@pytest.mark.parametrize(("percent", "capacity"), [(100, 8), (50, 4), (30, 2), (1, 1)])
def test_less_processor_takes_fewer_leases(percent: int, capacity: int) -> None:
    assert decide(readings(), limits(cpu_percent=percent)).capacity == capacity


@pytest.mark.parametrize(
    ("reading", "limit", "cause", "number"),
    [
        ({"on_mains": False}, {}, Cause.MAINS, "battery"),
        ({"battery_percent": 29.0}, {"battery_percent_min": 30}, Cause.BATTERY, "29%"),
        ({"temperature_celsius": 81.0}, {"temperature_celsius_max": 80}, Cause.TEMPERATURE, "81 °C"),
        ({"memory_free_bytes": 100 << 20}, {}, Cause.MEMORY_FREE, "100 MiB"),
        ({"runners_memory_bytes": 2 << 30}, {}, Cause.MEMORY, "2,048 MiB"),
        ({"disk_free_bytes": 10 << 20}, {}, Cause.DISK, "10 MiB"),
        ({"clock_skew_s": 3 * 86400.0}, {}, Cause.CLOCK, "3.0 days ahead of the broker's clock"),
        ({"clock_skew_s": -50 * 3600.0}, {}, Cause.CLOCK, "2.1 days behind the broker's clock"),
        ({"others_load_percent": 60.0}, {"idle_only": True}, Cause.OTHERS, "60%"),
        ({}, {"idle_only": True}, Cause.OTHERS, "not known yet"),
        (
            {"others_load_percent": 0.0, "last_input": used(12)},
            {"idle_only": True},
            Cause.OTHERS,
            "terminal pts/3 was used 12 s ago; work resumes after 5 min without input",
        ),
        (
            {"last_input": used(89.9)},
            {"idle_only": True, "idle_input_s_min": 90},
            Cause.OTHERS,
            "after 90 s",
        ),
        # A clock that was set back: until it has caught up, the device counts as in use.
        ({"last_input": used(-3600)}, {"idle_only": True}, Cause.OTHERS, "0 s ago"),
        ({"minute_of_day": 900}, {"hours": "22:00-07:00"}, Cause.HOURS, "22:00-07:00"),
    ],
    ids=lambda value: value.value if isinstance(value, Cause) else "",
)
def test_each_limit_stops_work_and_says_why(
    reading: dict[str, Any], limit: dict[str, Any], cause: Cause, number: str
) -> None:
    decision = decide(readings(**reading), limits(**limit))
    assert (decision.cause, decision.capacity, decision.stops_work) == (cause, 0, True)
    assert number in decision.why


@pytest.mark.parametrize(
    ("reading", "limit"),
    [
        ({"on_mains": False}, {"mains_only": False}),
        ({"on_mains": True}, {}),
        ({"battery_percent": 30.0}, {"battery_percent_min": 30}),
        ({"temperature_celsius": 80.0}, {"temperature_celsius_max": 80}),
        ({"temperature_celsius": 120.0}, {}),
        ({"others_load_percent": 60.0}, {}),
        ({"others_load_percent": 0.0}, {"idle_only": True}),  # nothing tells of input
        ({"others_load_percent": 0.0, "last_input": used(300)}, {"idle_only": True}),
        ({"others_load_percent": 0.0, "last_input": used(1)}, {"idle_only": True, "idle_input_s_min": 0}),
        ({"last_input": used(1)}, {}),
        ({"minute_of_day": 60}, {"hours": "22:00-07:00"}),
    ],
)
def test_what_is_within_limits_works(reading: dict[str, Any], limit: dict[str, Any]) -> None:
    assert decide(readings(**reading), limits(**limit)).cause is None


def test_the_owners_word_comes_first() -> None:
    decision = decide(readings(on_mains=False), limits(), OwnerCommand(mode=Mode.PAUSE, until=2000.0))
    assert (decision.cause, decision.until) == (Cause.OWNER, 2000.0)
    assert decide(readings(at=2000.0), limits(), OwnerCommand(mode=Mode.PAUSE, until=2000.0)).cause is None
    broken = OwnerCommand(mode=Mode.PAUSE, problem="half a file")
    assert "half a file" in decide(readings(), limits(), broken).why


def test_a_drain_takes_nothing_and_stops_nothing() -> None:
    decision = decide(readings(), limits(), DRAIN)
    assert (decision.capacity, decision.cause, decision.stops_work) == (0, Cause.DRAIN, False)


def test_what_a_sensor_stopped_waits_until_readings_have_settled() -> None:
    governor = Governor(capacity=2)
    allowed = limits(temperature_celsius_max=80)
    hot = {"temperature_celsius": 90.0}
    assert governor.decide(readings(at=0.0, **hot), allowed, WORK).stops_work
    assert governor.decide(readings(at=SETTLE_S - 0.1), allowed, WORK).cause is Cause.TEMPERATURE
    assert governor.decide(readings(at=SETTLE_S), allowed, WORK).cause is None
    # The owner's pause has nothing to settle.
    assert governor.decide(readings(at=SETTLE_S + 1), allowed, PAUSE).stops_work
    assert governor.decide(readings(at=SETTLE_S + 1.1), allowed, WORK).cause is None


def test_a_clock_that_is_set_back_does_not_stop_work_for_ever() -> None:
    governor = Governor(capacity=2)
    assert governor.decide(readings(at=1e9, on_mains=False), limits(), WORK).stops_work
    assert governor.decide(readings(at=5.0), limits(), WORK).cause is None


@given(
    spans=st.lists(
        st.tuples(st.integers(0, MINUTES_PER_DAY - 1), st.integers(0, MINUTES_PER_DAY - 1)), max_size=4
    )
)
def test_hours_are_the_union_of_their_spans(spans: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{b // 60:02}:{b % 60:02}-{e // 60:02}:{e % 60:02}" for b, e in spans)
    assert parse_hours(text) == tuple(spans)
    allowed = set() if spans else set(range(MINUTES_PER_DAY))
    for begin, end in spans:
        minute = begin
        while True:
            allowed.add(minute)
            minute = (minute + 1) % MINUTES_PER_DAY
            if minute == end:
                break
    assert {minute for minute in range(MINUTES_PER_DAY) if is_within(text, minute)} == allowed


@pytest.mark.parametrize("text", ["22-7", "24:00-01:00", "22:00-07:60", "22:00", "always", "2٣:00-07:00"])
def test_hours_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="hours"):
        limits(hours=text)
