"""Credits for people, microcredits for machines: 1 credit is 1,000,000 microcredits, always an integer."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from tradepost.errors import InvalidRequest

MICROCREDITS_PER_CREDIT: Final = 1_000_000
#: The most that one amount may be: integers are exact in every JSON reader up to here.
MICROCREDITS_MAX: Final = 1 << 53

#: What people may write for an amount of credits. A float is read as its shortest decimal text.
Credits = Decimal | int | str | float


def to_microcredits(amount: Credits) -> int:
    """`amount` credits in microcredits. Raises `InvalidRequest` unless that is a whole number >= 0."""
    try:
        microcredits = Decimal(str(amount)) * MICROCREDITS_PER_CREDIT
        # Compared before it is made an integer: "1e999999" would be one of a million digits.
        whole = 0 <= microcredits <= MICROCREDITS_MAX and microcredits == int(microcredits)
    except ArithmeticError:
        raise InvalidRequest(f"{amount!r} is not an amount of credits") from None
    if not whole:
        raise InvalidRequest(f"{amount} credits: give 0 or more, with at most 6 decimal places")
    return int(microcredits)


def to_credits(microcredits: int) -> Decimal:
    """An amount in credits, exactly."""
    return Decimal(microcredits) / MICROCREDITS_PER_CREDIT


def format_credits(microcredits: int) -> str:
    """An amount for people, such as `0.0125`, without trailing zeros."""
    text = f"{to_credits(microcredits):,.6f}".rstrip("0").rstrip(".")
    return text or "0"
