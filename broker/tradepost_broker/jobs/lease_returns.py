"""A lease that its worker returns without a result, with a receipt for the stages that were done, if any."""

from __future__ import annotations

from collections.abc import Sequence

from tradepost.protocol import GiveBack
from tradepost.receipts import Receipt
from tradepost_broker.engine.engine import Moment
from tradepost_broker.jobs.receipt_checks import delivery_of, stage_hashes
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import LeaseState
from tradepost_broker.market.model.events import Event, Instruction, LeaseGivenBack
from tradepost_broker.storage.shell_records import Delivery


class GivenBack:
    """Work that gives a lease back. `receipt` is that of the frame, checked, or `None`."""

    def __init__(self, *, market: Market, worker: str, frame: GiveBack, receipt: Receipt | None) -> None:
        self._market = market
        self._worker = worker
        self._frame = frame
        self._receipt = receipt
        self._was_open = False

    def event(self, moment: Moment) -> Event:
        """That the lease is back, and what was done of it."""
        lease = self._market.lease(self._frame.lease)
        self._was_open = lease is not None and lease.state is LeaseState.OPEN
        return LeaseGivenBack(
            at=moment.at,
            worker=self._worker,
            lease=self._frame.lease,
            reason=self._frame.reason,
            problem=self._frame.problem,
            stage_hashes=() if self._receipt is None else stage_hashes(self._receipt),
            seed=moment.seed,
        )

    def records(self, moment: Moment, instructions: Sequence[Instruction]) -> Sequence[Delivery]:
        """The receipt, unless the lease had ended before."""
        if self._receipt is None or self._frame.receipt is None or not self._was_open:
            return ()
        return (delivery_of(self._frame.lease, self._frame.receipt),)
