"""Says what work costs the submitter whose job ended without a result of it.

Nothing that a job causes is free: else results could be read and not paid, workers be kept busy for nothing,
and scores be lowered for nothing. A result that was delivered before its job is cancelled costs its price. A
lease that was still open costs the share of its price that its time has run, `begun_share` at least. A result
that waits at the deadline costs `begun_share`: the submitter chose the deadline, but nobody has confirmed the
result. A lease that is open at the deadline costs nothing, or holding leases would pay.

The functions here only say what is due; nothing is changed.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from tradepost_broker.market.model.entities import Lease, LeasePurpose, LeaseState

#: Shares are taken in millionths, so that no float touches an amount of money.
_WHOLE: Final = 1_000_000


class Cause(Enum):
    """Why a job ends without a result, in words for those whose work it had caused."""

    CANCELLED = "the submitter cancelled the job; what was begun is paid"
    DEADLINE = "the job's deadline passed before its results were verified; a part is paid"
    OTHER = "the job ended before its results were verified"


def due(lease: Lease, *, cause: Cause, at: float, connected: bool, begun_share: float) -> int:
    """What a live lease is due in microcredits, now that its job ends because of `cause`.

    It is at most its price. `connected` says whether its worker's stream is open: one that is away has perhaps
    never learned of the lease.
    """
    if lease.purpose is LeasePurpose.AUDIT or not begun_share or cause is Cause.OTHER:
        return 0
    if lease.state is LeaseState.DELIVERED:
        if cause is Cause.CANCELLED:
            return lease.price_microcredits
        return share_of_price(lease, begun_share)
    if cause is Cause.CANCELLED and connected:
        return time_share(lease, until=at, begun_share=begun_share)
    return 0


def time_share(lease: Lease, *, until: float, begun_share: float) -> int:
    """The share of its price that a lease's time had run by `until`, in microcredits; `begun_share` at least."""
    run = (until - lease.granted_at) / max(lease.expires_at - lease.granted_at, 1.0)
    return share_of_price(lease, max(begun_share, min(run, 1.0)))


def share_of_price(lease: Lease, share: float) -> int:
    """This share of a lease's price in microcredits, rounded up."""
    return -(-lease.price_microcredits * round(share * _WHOLE) // _WHOLE)
