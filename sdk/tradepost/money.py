"""Credits for people, microcredits for machines: 1 credit is 1,000,000 microcredits, always an integer."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from tradepost.errors import InvalidRequest
from tradepost.protocol import MICROCREDITS_PER_CREDIT

#: What people may write for an amount of credits. A float is read as its shortest decimal text.
Credits = Decimal | int | str | float


def to_microcredits(amount: Credits) -> int:
    """`amount` credits in microcredits. Raises `InvalidRequest` unless that is a whole number >= 0."""
    try:
        microcredits = Decimal(str(amount)) * MICROCREDITS_PER_CREDIT
        whole = int(microcredits)
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidRequest(f"{amount!r} is not an amount of credits") from None
    if whole < 0 or whole != microcredits:
        raise InvalidRequest(f"{amount} credits: give 0 or more, with at most 6 decimal places")
    return whole


def to_credits(microcredits: int) -> Decimal:
    """An amount in credits, exactly."""
    return Decimal(microcredits) / MICROCREDITS_PER_CREDIT


def format_credits(microcredits: int) -> str:
    """An amount for people, such as `0.0125`, without trailing zeros."""
    text = f"{to_credits(microcredits):,.6f}".rstrip("0").rstrip(".")
    return text or "0"
