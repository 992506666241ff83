"""Formats times for sentences."""

from __future__ import annotations

import time


def lasting(seconds: int) -> str:
    """`90 s`, `5 min`."""
    return f"{seconds} s" if seconds % 60 else f"{seconds // 60} min"


def about(seconds: float) -> str:
    """`45 s`, `59 min`, `3.5 h`, `2.5 days`."""
    for unit_s, unit, digits in ((24 * 3600, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def skewed(skew_s: float) -> str:
    """`59 min ahead of the broker's clock`, of how far a clock is ahead; negative if it is behind."""
    return f"{about(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} the broker's clock"


def local_time(at: float) -> str:
    """`2026-11-21 08:02`, of Unix seconds."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
