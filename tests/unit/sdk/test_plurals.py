"""Counts agree with their nouns."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tradepost.money import counted_credits
from tradepost.plurals import counted, noun


@pytest.mark.parametrize(
    ("number", "many", "text"),
    [(0, "", "0 leases"), (1, "", "1 lease"), (1_000, "", "1,000 leases"), (2, "of them", "2 of them")],
)
def test_a_count(number: int, many: str, text: str) -> None:
    assert counted(number, "lease", many) == text


def test_a_noun_of_an_amount() -> None:
    assert noun(Decimal("1.000000"), "credit") == "credit"
    assert noun(Decimal("0.5"), "credit") == "credits"


@pytest.mark.parametrize(
    ("microcredits", "text"), [(0, "0 credits"), (1_000_000, "1 credit"), (12_500, "0.0125 credits")]
)
def test_credits_in_a_sentence(microcredits: int, text: str) -> None:
    assert counted_credits(microcredits) == text
