"""What requests are answered with while the database cannot be written.

A request that was decided before that was known is `begun`: its transaction is kept, and written later.
"""

from __future__ import annotations

from typing import Protocol

from tradepost.errors import BrokerUnavailable, DiskFull, TradepostError


class BlockedReason(Protocol):
    """Makes the error for one request."""

    def __call__(self, *, begun: bool) -> TradepostError:
        """The error; a request that is `begun` may still be carried out."""
        ...


def locked_out(*, begun: bool) -> BrokerUnavailable:
    """Another process has the lock of the database."""
    what = "the request may still be carried out" if begun else "nothing was done"
    return BrokerUnavailable(f"another process has locked the broker's database; {what}")


def no_room(*, begun: bool) -> DiskFull:
    """There is no room for the transaction."""
    free = "Free space on the disk of the broker's data folder; the broker then goes on by itself."
    if begun:
        return DiskFull(
            "the disk is full; the request may still be carried out, once there is room",
            hint=f"{free} Check whether the request was carried out before you try again.",
        )
    return DiskFull("the disk is full; nothing was done", hint=f"{free} Then try again.")
