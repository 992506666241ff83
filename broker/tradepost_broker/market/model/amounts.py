"""Bounds for the amounts that the market computes from numbers that strangers choose.

A price per unit, a pipeline's work units and a cap are each bounded, but their products are not: an amount
beyond `AMOUNT_MAX_MICROCREDITS` would fit neither a database column nor a message. Amounts saturate there. As
no account can hold more, a saturated bid is one that nobody can pay.
"""

from __future__ import annotations

from typing import Final

#: All the microcredits that there are: a million million credits. Fits a signed 64-bit column.
AMOUNT_MAX_MICROCREDITS: Final = 10**18


def saturated(amount: float) -> int:
    """`amount` as a whole number (toward zero), within plus or minus `AMOUNT_MAX_MICROCREDITS`."""
    return int(max(-AMOUNT_MAX_MICROCREDITS, min(AMOUNT_MAX_MICROCREDITS, amount)))


def bid_for(price_per_unit_microcredits: int, units: int) -> int:
    """What `units` work units cost in microcredits at this price, saturated."""
    return saturated(price_per_unit_microcredits * units)
