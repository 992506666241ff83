"""The market's time passes steadily: no jump of the machine's clock moves it, and it never runs back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.engine.market_clock import SLEW_MAX, MarketClock
from tradepost_broker.testing import ManualClock

YEAR_S = 365 * 24 * 3600.0
START = 1_800_000_000.0


def clocks(*, not_before: float = 0.0) -> tuple[MarketClock, ManualClock, ManualClock]:
    wall, steady = ManualClock(START), ManualClock(50.0)
    return MarketClock(wall=wall, steady=steady, not_before=not_before), wall, steady


def test_it_begins_with_the_machines_clock() -> None:
    clock, wall, steady = clocks()
    assert clock() == START
    wall.advance(10)
    steady.advance(10)
    assert clock() == START + 10


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S, 5.0])
def test_a_jump_is_logged_with_its_size_and_moves_nothing(
    jump_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock, wall, steady = clocks()
    wall.advance(jump_s)
    assert clock() == START
    (record,) = caplog.records
    assert (record.__dict__["action"], record.__dict__["seconds"]) == ("clock_jumped", jump_s)
    wall.advance(100)
    steady.advance(100)
    assert clock() == pytest.approx(START + 100, abs=100 * SLEW_MAX)
    assert len(caplog.records) == 1  # once for each jump


def test_a_small_error_wears_off() -> None:
    clock, wall, steady = clocks()
    wall.advance(0.5)
    for _ in range(200):
        wall.advance(1)
        steady.advance(1)
        clock()
    assert clock() == pytest.approx(wall.now)


def test_it_stands_still_and_goes_on_from_there() -> None:
    clock, wall, steady = clocks()
    for is_still, passed_s in ((True, 3600), (False, 10)):
        clock.stand_still(is_still)
        wall.advance(passed_s)
        steady.advance(passed_s)
    assert clock() == pytest.approx(START + 10, abs=10 * SLEW_MAX)
    clock.stand_still(True)
    before = clock()
    steady.advance(5)
    assert clock() == before


def test_it_goes_on_where_the_journal_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock, wall, steady = clocks(not_before=START + YEAR_S)
    assert clock() == START + YEAR_S
    assert [one.__dict__["action"] for one in caplog.records] == ["clock_behind_journal"]
    wall.advance(100)
    steady.advance(100)
    assert START + YEAR_S < clock() <= START + YEAR_S + 100
    assert clocks(not_before=START - YEAR_S)[0]() == START


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 1e6)), max_size=30))
def test_it_never_runs_back_and_passes_steadily(steps: list[tuple[float, float]]) -> None:
    clock, wall, steady = clocks()
    before = clock()
    for jump_s, passed_s in steps:
        wall.advance(jump_s + passed_s)
        steady.advance(passed_s)
        after = clock()
        # Floats of this size have steps of less than a microsecond.
        assert before <= after
        assert abs(after - before - passed_s) <= SLEW_MAX * passed_s + 1e-5
        before = after
