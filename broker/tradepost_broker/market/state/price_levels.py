"""What owners ask where they win, so that a bidder's own bid does not move what its rivals are worth.

Costs beyond a bid are stated in typical bids. Were the typical bid the median of the bids at hand, one who
asks more would make rivals look dearer and so raise its own price. It is the median of what the latest
winners asked instead, one bid an owner, by capability class.

Memory is bounded: so many owners of each class, the newest. After a restart it follows from the leases of the
last minutes and their workers' offers.
"""

from __future__ import annotations

from typing import Final

from tradepost_broker.market.model.median import median

_OWNERS_MAX: Final = 64


class PriceLevels:
    """The last winning bid of each owner by capability class, in microcredits per work unit."""

    def __init__(self) -> None:
        self._bids_microcredits: dict[str, dict[str, int]] = {}

    def note(self, capability: str, owner: str, price_per_unit_microcredits: int) -> None:
        """Take in that an owner has won an auction with this bid."""
        bids_microcredits = self._bids_microcredits.setdefault(capability, {})
        bids_microcredits.pop(owner, None)
        bids_microcredits[owner] = price_per_unit_microcredits  # the newest last
        if len(bids_microcredits) > _OWNERS_MAX:
            del bids_microcredits[next(iter(bids_microcredits))]

    def typical_microcredits(self, capability: str) -> int | None:
        """The lower median over the owners, per work unit; `None` if nobody has won an auction yet."""
        bids_microcredits = self._bids_microcredits.get(capability)
        return median(bids_microcredits.values()) if bids_microcredits else None

    def clear(self) -> None:
        """Forget everything."""
        self._bids_microcredits.clear()
