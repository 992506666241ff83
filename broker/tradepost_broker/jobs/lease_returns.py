"""A lease that its worker returns without a result, with a receipt for the stages that were done, if any."""

from __future__ import annotations

from tradepost.protocol import GiveBack
from tradepost.receipts import Receipt
from tradepost_broker.engine.engine import Decision, Moment
from tradepost_broker.jobs.receipt_delivery import delivery_of, stage_hashes
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import LeaseState
from tradepost_broker.market.model.events import LeaseGivenBack


class LeaseReturn:
    """Work that gives a lease back. `receipt` is that of the frame, checked, or `None`.

    `forged` says that it is given back because the worker sent a receipt that is not valid."""

    def __init__(
        self, *, market: Market, worker: str, frame: GiveBack, receipt: Receipt | None, forged: bool = False
    ) -> None:
        self._market = market
        self._worker = worker
        self._frame = frame
        self._receipt = receipt
        self._forged = forged

    def decide(self, moment: Moment) -> Decision:
        """The lease's return and what was done of it; and the receipt, unless the lease had ended before."""
        lease = self._market.lease(self._frame.lease)
        is_open = lease is not None and lease.state is LeaseState.OPEN
        given_back = LeaseGivenBack(
            at=moment.at,
            worker=self._worker,
            lease=self._frame.lease,
            reason=self._frame.reason,
            problem=self._frame.problem,
            stage_hashes=() if self._receipt is None else stage_hashes(self._receipt),
            forged=self._forged,
            seed=moment.seed,
        )
        signed = self._frame.receipt
        if self._receipt is None or signed is None or not is_open:
            return Decision(event=given_back)
        return Decision(event=given_back, records=(delivery_of(self._frame.lease, signed),))
