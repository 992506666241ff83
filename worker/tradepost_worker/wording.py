"""How counts and times read in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """`1 lease`, `2 leases`, `1,000 leases`; `many` where the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def lasting(seconds: int) -> str:
    """`90 s`, `5 min`."""
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"
