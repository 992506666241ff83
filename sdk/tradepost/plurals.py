"""Counts for sentences, with their nouns in the singular or the plural."""

from __future__ import annotations

from decimal import Decimal


def counted(number: int, one: str, many: str = "") -> str:
    """`1 lease`, `2 leases`, `1,000 leases`; `many` where the plural is not `one` with an s."""
    return f"{number:,} {noun(number, one, many)}"


def noun(number: int | Decimal, one: str, many: str = "") -> str:
    """`lease` for 1, else `leases`; `many` where the plural is not `one` with an s."""
    return one if number == 1 else many or f"{one}s"
