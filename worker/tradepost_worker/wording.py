"""Formats counts and times for sentences."""

from __future__ import annotations

import time


def counted(number: int, one: str, many: str = "") -> str:
    """`1 lease`, `2 leases`, `1,000 leases`; `many` where the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def lasting(seconds: int) -> str:
    """`90 s`, `5 min`."""
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"


def local_time(at: float) -> str:
    """`2026-11-21 08:02`, of Unix seconds."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
