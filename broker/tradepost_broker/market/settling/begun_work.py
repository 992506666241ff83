"""Says what work costs the submitter whose job ended without a result of it.

Nothing that a job causes is free: else results could be read and not paid, workers be kept busy for nothing,
and scores be lowered for nothing. A result that was delivered before its job is cancelled costs its price. A
lease that was still open costs the share of its price that its time has run, `begun_share` at least. A result
that waits at the deadline costs `begun_share`: the submitter chose the deadline, but nobody has confirmed the
result. A lease that is open at the deadline costs nothing, or holding leases would pay.

Where the job's pipeline is in quarantine, because it fails on everybody, the leases that it failed on are due
the share of their time that their runs took, and its results that agree with none are due `begun_share`. An
unconfirmed failure costs nothing.

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


#: The reason of a payment to those whose run failed.
_AT_FAULT: Final = "the job failed by its own doing; what was begun is paid"


def due(lease: Lease, *, cause: Cause, at: float, connected: bool, at_fault: bool, begun_share: float) -> int:
    """What a lease is due in microcredits, now that its job ends without a result because of `cause`.

    It is at most its price. `connected` says whether its worker's stream is open: one that is away has
    perhaps never learned of the lease. `at_fault` says that the job's pipeline is in quarantine.
    """
    if lease.purpose is LeasePurpose.AUDIT or not begun_share:
        return 0
    is_cancelled = cause is Cause.CANCELLED
    match lease.state:
        case LeaseState.RETURNED if lease.run_failed and at_fault:
            return time_share(lease, until=lease.settled_at or at, begun_share=begun_share)
        case LeaseState.DELIVERED if is_cancelled:
            return lease.price_microcredits
        case LeaseState.DELIVERED if at_fault or cause is Cause.DEADLINE:
            return share_of_price(lease, begun_share)
        case LeaseState.OPEN if is_cancelled and connected:
            return time_share(lease, until=at, begun_share=begun_share)
        case _:
            return 0


def reason(lease: Lease, cause: Cause) -> str:
    """What a worker is told about a payment for begun work."""
    return _AT_FAULT if lease.state is LeaseState.RETURNED or cause is Cause.OTHER else cause.value


def time_share(lease: Lease, *, until: float, begun_share: float) -> int:
    """The share of its price, in microcredits, that a lease's time had run by `until`.

    `begun_share` of it at least.
    """
    run = (until - lease.granted_at) / max(lease.expires_at - lease.granted_at, 1.0)
    return share_of_price(lease, max(begun_share, min(run, 1.0)))


def share_of_price(lease: Lease, share: float) -> int:
    """This share of a lease's price in microcredits, rounded up."""
    return -(-lease.price_microcredits * round(share * _WHOLE) // _WHOLE)
