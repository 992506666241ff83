"""The geometry of charts: what holds until the next value is a step, and nothing leaves the plane."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tradepost_reputation.dashboard import ScorePointView
from tradepost_reputation.dashboard.charts import HEIGHT, WIDTH, Axis, band, bars, score_chart, step_line

UNIT = Axis(low=0.0, high=1.0)
SHARES = st.floats(min_value=0.0, max_value=1.0)


def test_a_step_line_holds_each_value_until_the_next() -> None:
    assert step_line([(0.0, 1.0), (0.5, 0.0), (1.0, 0.5)], UNIT, UNIT) == ("M0.0 0.0H500.0V100.0H1000.0V50.0")
    assert step_line([], UNIT, UNIT) == ""


def test_a_band_goes_there_above_and_back_below() -> None:
    assert band([(0.0, 0.2, 0.8), (1.0, 0.4, 0.6)], UNIT, UNIT) == (
        "M0.0 20.0H1000.0V40.0V60.0H1000.0V80.0H0.0Z"
    )
    assert band([], UNIT, UNIT) == ""


def test_one_moment_is_in_the_middle() -> None:
    assert Axis(low=5.0, high=5.0).place(5.0, WIDTH) == WIDTH / 2


@given(st.lists(st.tuples(st.floats(0, 2e9), SHARES, SHARES), min_size=1, max_size=30))
def test_a_chart_stays_in_its_plane(values: list[tuple[float, float, float]]) -> None:
    points = [ScorePointView(at=at, score=low, high=high) for at, low, high in sorted(values)]
    for path in score_chart(points):
        for move, first, second in re.findall(r"([MHV])([-0-9.e]+)(?: ([-0-9.e]+))?", path):
            across = [first] if move == "H" else [] if move == "V" else [first]
            down = [first] if move == "V" else [second] if move == "M" else []
            assert all(0 <= float(value) <= WIDTH for value in across)
            assert all(0 <= float(value) <= HEIGHT for value in down)


def test_bars_stand_on_the_ground_side_by_side() -> None:
    low, none, high = bars([1, 0, 4])
    assert (low.height, none.height, high.height) == (25.0, 0.0, HEIGHT)
    assert all(bar.y + bar.height == HEIGHT for bar in (low, none, high))
    assert low.x + low.width < none.x < none.x + none.width < high.x
    assert [bar.height for bar in bars([0, 0])] == [0.0, 0.0]
    assert bars([]) == []
