"""Credits and microcredits: exact, never negative, never rounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import InvalidCall
from tradepost.money import format_credits, to_credits, to_microcredits


@given(st.integers(0, 1 << 53))
def test_round_trip(microcredits: int) -> None:
    assert to_microcredits(to_credits(microcredits)) == microcredits
    assert to_microcredits(format_credits(microcredits).replace(",", "")) == microcredits


@pytest.mark.parametrize(
    ("text", "microcredits"), [("1", 1_000_000), ("0.000001", 1), (0.1, 100_000), ("1e-3", 1000), (0, 0)]
)
def test_amounts_are_exact(text: str | float, microcredits: int) -> None:
    assert to_microcredits(text) == microcredits


@pytest.mark.parametrize(
    "text",
    [
        "0.0000001",
        "-1",
        "nan",
        "inf",
        "ten",
        "",
        "1e400",
        "1e999999",
        "-inf",
        "٣",
        "\uff11",
        " 1",
        "1\n",
        "1_0",
        "1,5",
        "0x1",
        "1e-7",
        "1e",
    ],
)
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(InvalidCall):
        to_microcredits(text)
