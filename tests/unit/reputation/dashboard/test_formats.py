"""Figures of a column line up, times have an exact form, and a stranger's name is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.money import format_credits
from tradepost_reputation.dashboard.formats import credits_text, cut, datetime_text, moment, places

AMOUNTS = st.integers(min_value=-(1 << 53), max_value=1 << 53)


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ([2_500, 12_000_000, 5_732_747], ["0.002500", "12.000000", "5.732747"]),
        ([5_000_000, 0], ["5", "0"]),
        ([-2_500, 1_000_000], ["-0.0025", "1.0000"]),
        ([1_234_567_890_000], ["1,234,567.89"]),
    ],
)
def test_a_column_has_one_number_of_decimals(column: list[int], shown: list[str]) -> None:
    assert [credits_text(amount, places(column)) for amount in column] == shown


@given(st.lists(AMOUNTS, min_size=1))
def test_no_amount_is_rounded(column: list[int]) -> None:
    decimals = places(column)
    assert {len(credits_text(amount, decimals).partition(".")[2]) for amount in column} == {decimals}
    for amount in column:
        exact = credits_text(amount, decimals)
        assert (exact.rstrip("0").rstrip(".") if "." in exact else exact) == format_credits(amount)


def test_a_time_is_exact_for_people_and_for_the_script() -> None:
    assert moment(0.0) == "1970-01-01 00:00:00 UTC"
    assert datetime_text(1_800_000_000.9) == "2027-01-15T08:00:00Z"


def test_a_name_is_cut_and_shows_that_it_was() -> None:
    assert cut("laptop") == "laptop"
    assert cut("W" * 256) == "W" * 39 + "…"
    assert cut("W" * 40) == "W" * 40
