"""What is typical of a pipeline's runs: one time for each owner, and bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.market.state import run_times
from tradepost_broker.market.state.run_times import RunTimes


def test_too_few_owners_say_nothing() -> None:
    times = RunTimes()
    for _ in range(10):
        times.note("digits", "a", 1.0)
        times.note("digits", "b", 1.0)
    assert times.typical_s_per_unit("digits") is None
    times.note("digits", "c", 1.0)
    assert times.typical_s_per_unit("digits") == 1.0
    assert times.typical_s_per_unit("other") is None


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=50))
def test_an_owner_with_many_runs_is_one_of_the_owners(made_up: list[float]) -> None:
    times = RunTimes()
    for owner in "abc":
        times.note("digits", owner, 1.0)
    for one in made_up:
        times.note("digits", "liar", one)
    typical = times.typical_s_per_unit("digits")
    assert typical is not None
    assert typical <= 1.0
    for owner in "ab":
        times.note("digits", f"{owner}{owner}", 1.0)
    assert times.typical_s_per_unit("digits") == 1.0


def test_the_longest_time_fades() -> None:
    times = RunTimes()
    times.note("digits", "a", 10.0)
    times.note("digits", "a", 1.0)
    assert times.own_s_per_unit("digits", "a") == 9.0
    for _ in range(30):
        times.note("digits", "a", 1.0)
    assert times.own_s_per_unit("digits", "a") == 1.0


def test_memory_is_bounded_and_keeps_the_newest() -> None:
    times = RunTimes()
    for number in range(5_000):
        times.note(f"pipeline{number}", "a", 1.0)
    for number in range(5_000):
        times.note("digits", f"owner{number}", 1.0)
    assert len(times._times) == run_times._PIPELINES_MAX
    assert len(times._times["digits"]) == run_times._OWNERS_MAX
    assert times.own_s_per_unit("digits", "owner4999") == 1.0
    assert times.own_s_per_unit("digits", "owner0") == 0.0
