"""How often each owner's results agree with whose: two who agree with each other and hardly with others.

Who confirms a result is drawn at random, so an owner's agreements spread over all owners that could be drawn.
Two that hold much more of each other's agreements than a draw explains have perhaps chosen their jobs, or let
others lose them. It proves nothing, since what they agree on may be right. So their common results are
checked more often, and that is all.

It follows from the newest agreements of each owner, and is not in the records: a restart begins anew.
"""

from __future__ import annotations

import math
from typing import Final

#: At this many agreements of an owner, older ones are made to count half.
_KEPT_MAX: Final = 64
#: Fewer agreements of either show nothing.
_AGREEMENTS_MIN: Final = 6
#: How many standard deviations of a share are chance.
_DEVIATIONS: Final = 3.0


class AgreeingPairs:
    """Weighted counts of agreements, by owner and partner."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._counts.clear()

    def add(self, owner: str, other: str) -> None:
        """Note that results of two owners agreed."""
        for one, partner in ((owner, other), (other, owner)):
            counts = self._counts.setdefault(one, {})
            counts[partner] = counts.get(partner, 0.0) + 1.0
            if math.fsum(counts.values()) >= _KEPT_MAX:
                self._counts[one] = {name: count / 2 for name, count in counts.items() if count >= 1.0}

    def excess(self, owner: str, other: str, *, drawn_from: int) -> float:
        """How much of their agreements two owners have with each other beyond chance, from 0 to 1.

        The one that has more other partners decides. `drawn_from` is from how many owners one was drawn.
        """
        together = min(
            self._counts.get(owner, {}).get(other, 0.0), self._counts.get(other, {}).get(owner, 0.0)
        )
        agreements = [math.fsum(self._counts.get(one, {}).values()) for one in (owner, other)]
        if min(agreements) < _AGREEMENTS_MIN or drawn_from < 2:
            return 0.0
        chance = 1 / drawn_from
        deviation = math.sqrt(chance * (1 - chance) / min(agreements))
        explained = min(1.0, chance + _DEVIATIONS * deviation)
        share = together / max(agreements)
        return max(0.0, (share - explained) / (1 - chance))
