"""Which results of other owners confirm a result, and how much that proves.

A pair of results counts only if one of the two workers was drawn at random: bidders choose who wins an
auction. A draw from the offers of n owners finds one given accomplice with probability 1/n, so an agreement
counts `1 - 1/n`: nothing if there was no choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tradepost_broker.market.trust.hands import Hands


class Party(NamedTuple):
    """The owner of an agreeing result; `drawn_from` is how many owners it was drawn from, 0 if it was not."""

    owner: str
    drawn_from: int


def independent_partners(own: Party, others: Iterable[Party], hands: Hands) -> dict[str, float]:
    """The share of a check that agreeing with each owner is worth; those under one hand with `own` are left
    out, and so are those that nothing speaks for."""
    shares: dict[str, float] = {}
    for other in others:
        drawn_from = max(own.drawn_from, other.drawn_from)
        if drawn_from > 1 and not hands.are_one(own.owner, other.owner):
            shares[other.owner] = max(shares.get(other.owner, 0.0), 1 - 1 / drawn_from)
    return shares
