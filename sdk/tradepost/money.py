"""Credits for people, microcredits for machines: 1 credit is 1,000,000 microcredits, always an integer."""

from __future__ import annotations

import numbers
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from tradepost.errors import InvalidCall
from tradepost.plurals import noun
from tradepost.short_repr import shown

MICROCREDITS_PER_CREDIT: Final = 1_000_000
#: The most that one amount may be: integers are exact in every JSON reader up to here.
MICROCREDITS_MAX: Final = 1 << 53

#: What people may write for an amount of credits. A float is read as its shortest decimal text.
Credits = Decimal | int | str | float

#: `Decimal` reads more: the digits of every script, blanks around and underscores within.
_NUMBER: Final = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def to_microcredits(amount: Credits, *, name: str = "the amount", microcredits_min: int = 0) -> int:
    """`amount` credits in microcredits.

    Raises `InvalidCall`, which names it `name`, unless it is a whole number of at least `microcredits_min`.
    """
    try:
        microcredits = _decimal(amount) * MICROCREDITS_PER_CREDIT
        # Compared before it is made an integer: "1e999999" would be one of a million digits.
        if microcredits_min <= microcredits <= MICROCREDITS_MAX and microcredits == int(microcredits):
            return int(microcredits)
    except (ArithmeticError, ValueError):
        pass
    least = format_credits(microcredits_min)
    raise InvalidCall(
        f"{name} is {shown(amount)}; it must be a number of credits from {least} to "
        f"{format_credits(MICROCREDITS_MAX)}, with at most 6 decimal places"
    )


def _decimal(amount: Any) -> Decimal:
    """The amount as it is written. Raises `ValueError` or `ArithmeticError` for what is not a number."""
    if isinstance(amount, Fraction):
        return Decimal(amount.numerator) / Decimal(amount.denominator)
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real | Decimal | str):
        raise ValueError
    text = str(amount)
    if _NUMBER.fullmatch(text) is None:
        raise ValueError
    return Decimal(text)


def to_credits(microcredits: int) -> Decimal:
    """An amount in credits, exactly."""
    return Decimal(microcredits) / MICROCREDITS_PER_CREDIT


def format_credits(microcredits: int) -> str:
    """An amount for people, such as `0.0125`, without trailing zeros."""
    text = f"{to_credits(microcredits):,.6f}".rstrip("0").rstrip(".")
    return text or "0"


def with_unit(amount: Decimal) -> str:
    """An exact amount in credits for a sentence, without separators: `1234.5 credits`, `1 credit`."""
    return f"{amount:f} {noun(amount, 'credit')}"


def counted_credits(microcredits: int) -> str:
    """An amount for a sentence: `0.0125 credits`, `1 credit`."""
    return f"{format_credits(microcredits)} {noun(to_credits(microcredits), 'credit')}"
