"""Public data of a broker about its market and this worker. It is shown, and not used for any decision."""

from __future__ import annotations

import statistics

import msgspec

from tradepost.bounded import Microcredits
from tradepost.errors import TradepostError
from tradepost_worker.link.broker_api import BrokerApi

_ANSWER_S_MAX = 3.0


class MarketStanding(msgspec.Struct, frozen=True, kw_only=True):
    """This worker's standing. Earnings that are held have not matured; `score` is its reputation."""

    standing: str
    score: float
    accepted: int
    stake_microcredits: Microcredits
    held_microcredits: Microcredits
    earned_microcredits: Microcredits
    slashed_microcredits: Microcredits


class _Candidate(msgspec.Struct, frozen=True, kw_only=True):
    worker: str
    bid_microcredits: int
    lost_because: str


class _Lease(msgspec.Struct, frozen=True, kw_only=True):
    worker: str
    state: str
    granted_at: float
    price_microcredits: Microcredits
    paid_microcredits: Microcredits
    candidates: tuple[_Candidate, ...]


class _Market(msgspec.Struct, frozen=True, kw_only=True):
    leases: tuple[_Lease, ...]


class Competition(msgspec.Struct, frozen=True, kw_only=True):
    """How this worker fared in the newest `matches` that the broker shows.

    `price_ratio` is the median of the winner's price over this worker's bid where it lost.
    """

    matches: int
    lost: int
    reason: str = ""
    price_ratio: float | None = None


class PriceRange(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest leases that the broker shows were paid, one with another."""

    leases: int
    low_microcredits: int
    median_microcredits: int
    high_microcredits: int


class MarketView(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's data; a part is `None` if the broker did not send it."""

    account: MarketStanding | None
    competition: Competition | None
    prices: PriceRange | None


async def look_at_market(broker: BrokerApi, worker: str) -> MarketView | None:
    """The market as `worker` sees it; `None` if the broker does not answer in time."""
    try:
        account = await broker.public(f"v1/workers/{worker}", MarketStanding, s_max=_ANSWER_S_MAX)
        market = await broker.public("v1/dashboard.json", _Market, s_max=_ANSWER_S_MAX)
    except TradepostError:
        return None
    return MarketView(
        account=account,
        competition=_competition(market.leases, worker),
        prices=_prices(market.leases),
    )


def _competition(leases: tuple[_Lease, ...], worker: str) -> Competition | None:
    lost = [
        (lease, candidate)
        for lease in leases
        for candidate in lease.candidates
        if candidate.worker == worker and candidate.lost_because
    ]
    if not leases:
        return None
    ratios = [
        lease.price_microcredits / own.bid_microcredits for lease, own in lost if own.bid_microcredits > 0
    ]
    reasons = [own.lost_because for _, own in lost]
    return Competition(
        matches=len(leases),
        lost=len(lost),
        reason=statistics.mode(reasons) if reasons else "",
        price_ratio=round(statistics.median(ratios), 2) if ratios else None,
    )


def _prices(leases: tuple[_Lease, ...]) -> PriceRange | None:
    whole = (lease for lease in leases if lease.state == "accepted")  # a part says little about prices
    paid = sorted(lease.paid_microcredits for lease in whole if lease.paid_microcredits)
    if not paid:
        return None
    return PriceRange(
        leases=len(paid),
        low_microcredits=paid[0],
        median_microcredits=round(statistics.median(paid)),
        high_microcredits=paid[-1],
    )
