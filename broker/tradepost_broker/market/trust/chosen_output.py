"""Which of several results that agree is handed to the submitter.

Results that agree differ by up to the tolerance, and the first to arrive could be at its edge on purpose. So
it is the one that is nearest to all others: the discrete counterpart of their median.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: What counts for two results of a group that do not agree with each other: agreeing is not transitive.
_BEYOND: Final = 2.0


@dataclass(frozen=True, slots=True)
class Member:
    """One result of a group.

    `shares` gives, by lease, how much of the tolerance its difference from earlier results takes, where these
    agree with it. `log_odds` are its worker's.
    """

    lease: str
    outcome: str
    shares: Mapping[str, float]
    log_odds: float


def nearest_to_median(members: Sequence[Member]) -> str:
    """The lease of the member that is nearest to all others; of equals, of the more credible worker's.

    There must be one member at least.
    """

    def rank(member: Member) -> tuple[float, float]:
        return sum(_share(member, other) for other in members), -member.log_odds

    return min(members, key=rank).lease


def _share(one: Member, other: Member) -> float:
    if one.outcome == other.outcome:
        return 0.0
    return one.shares.get(other.lease, other.shares.get(one.lease, _BEYOND))
