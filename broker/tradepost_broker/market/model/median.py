"""The lower median: of an even number of values it is one of them, so that an amount stays a whole number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def median(values: Iterable[Number]) -> Number:
    """The lower median of at least one value."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
