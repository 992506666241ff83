"""One admitted connection of a worker: handles its frames."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

import msgspec

from tradepost.errors import (
    BrokerDefect,
    BrokerUnavailable,
    Fault,
    LeaseGone,
    TradepostError,
    UnknownPipeline,
)
from tradepost.protocol import Acknowledged, Deliver, GiveBack, GiveBackReason, Heartbeat, Offer, UpdateOffer
from tradepost.receipts import Receipt
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.engine.engine import Engine, Moment, Outcome, Reply
from tradepost_broker.engine.work import EventWork
from tradepost_broker.jobs.lease_returns import LeaseReturn
from tradepost_broker.jobs.receipt_checks import ReceiptChecks
from tradepost_broker.market import Market
from tradepost_broker.market.model.events import Event, LeaseProgressed, OfferUpdated
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.streams.frame_queue import FrameQueue
from tradepost_broker.streams.pace import paced
from tradepost_broker.streams.sockets import StreamCodec, unknown_frame

#: Offers that follow each other faster than this are merged into the newest.
OFFER_S_MIN: Final = 0.1
#: What an event takes beside the offer in it, roughly.
_EVENT_BYTES: Final = 200

log = logging.getLogger(__name__)
#: For the device's owner; the error's own hint is for those who check a receipt that the broker gave them.
_RECEIPT_HINT: Final = (
    "Update tradepost on this device. If it is up to date, report the detail to the market's operator."
)


class WorkerSession:
    """Takes messages; what is to be told goes to `queue`.

    `journal_bytes` bounds what offers add to the journal: when it is spent, the newest offer waits.
    """

    def __init__(
        self,
        worker: str,
        *,
        codec: StreamCodec,
        market: Market,
        engine: Engine,
        receipts: ReceiptChecks,
        devices: DeviceReadings,
        journal_bytes: RateLimit,
    ) -> None:
        self._journal_bytes = journal_bytes
        self.worker = worker
        self.queue = FrameQueue(codec)
        self._codec = codec
        self._market = market
        self._engine = engine
        self._receipts = receipts
        self._devices = devices
        self._offer: Offer | None = None
        #: The newest offer that the engine was given.
        self._submitted: Offer | None = None
        self._offering: asyncio.TimerHandle | None = None

    async def take(self, message: bytes) -> None:
        """Do what the frames of a message ask, in slices. Raises `ProtocolError`."""
        async for frame in paced(self._codec.decode(message)):
            match frame:
                case Deliver():
                    await self._deliver(frame)
                case GiveBack():
                    self._take_back(frame)
                case UpdateOffer(offer=offer):
                    self._update_offer(offer)
                case Heartbeat():  # the connection itself is kept alive by pings
                    self._devices.note(self.worker, frame)
                    self._note_progress(frame)
                case _:
                    raise unknown_frame(frame)
        await self._engine.ready()

    def close(self) -> None:
        """Forget an offer that was not taken over yet."""
        if self._offering is not None:
            self._offering.cancel()
            self._offering = None

    async def _deliver(self, frame: Deliver) -> None:
        try:
            work = await self._receipts.check(self.worker, frame)
        except LeaseGone as error:
            self.queue.post(Acknowledged(frame.lease, error.to_problem()))
        except OSError:  # no disk space, for example: not the worker's fault, so it delivers again
            log.exception("A delivery could not be checked", extra={"action": "defect"})
            self.queue.end()
        except Exception as error:
            if isinstance(error, TradepostError) and not _is_ours(error):
                self._refuse(frame, error)
            else:
                self._set_aside(frame.lease, error)
        else:
            self._engine.submit(work, partial(self._end_delivery, frame.lease))

    def _refuse(self, frame: Deliver, error: TradepostError) -> None:
        failed = GiveBack(lease=frame.lease, reason=GiveBackReason.FAILED, problem=error.to_problem())
        self._give_back(failed, None, self._refusing(frame.lease, error), forged=True)

    def _set_aside(self, lease: str, error: Exception) -> None:
        log.error("A delivery could not be checked", exc_info=error, extra={"action": "defect"})
        self._engine.set_aside_delivery(lease, error, partial(self._end_delivery, lease))

    def _end_delivery(self, lease: str, outcome: Outcome) -> None:
        self._receipts.decided(lease)
        if isinstance(outcome, BrokerDefect):
            self.queue.post(Acknowledged(lease, outcome.to_problem()))
        elif isinstance(outcome, BrokerUnavailable):
            # It could not be compared, for lack of disk space for example, which is not the worker's fault:
            # it reconnects, and delivers again.
            self.queue.end()

    def _take_back(self, frame: GiveBack) -> None:
        """Take a lease back; a receipt that does not hold is as good as none."""
        receipt = None
        reply: Reply = ignore_outcome
        try:
            receipt = self._receipts.check_stages_done(self.worker, frame)
        except LeaseGone:
            pass  # the market acknowledges what it does not know
        except TradepostError as error:
            reply = self._refusing(frame.lease, error)
        self._give_back(frame, receipt, reply)

    def _refusing(self, lease: str, error: TradepostError) -> Reply:
        """Note an invalid receipt; the reply tells the worker."""
        log.warning(
            "Worker %s sent an invalid receipt: %s",
            self.worker,
            error,
            extra={"action": "invalid_receipt"},
        )
        refusal = Acknowledged(lease, msgspec.structs.replace(error.to_problem(), hint=_RECEIPT_HINT))
        return lambda _: self.queue.post(refusal)

    def _give_back(
        self, frame: GiveBack, receipt: Receipt | None, reply: Reply, *, forged: bool = False
    ) -> None:
        frame = msgspec.structs.replace(frame, problem=frame.problem.of_a_stranger())
        work = LeaseReturn(
            market=self._market, worker=self.worker, frame=frame, receipt=receipt, forged=forged
        )
        self._engine.submit(work, partial(self._end_return, frame.lease, reply))

    def _end_return(self, lease: str, reply: Reply, outcome: Outcome) -> None:
        if isinstance(outcome, BrokerDefect):
            self.queue.post(Acknowledged(lease, outcome.to_problem()))
        else:
            reply(outcome)

    def _note_progress(self, frame: Heartbeat) -> None:
        for lease, stages_done in frame.stages_done.items():
            known = self._market.stages_done(self.worker, lease)
            if known is not None and stages_done > known:
                self._engine.submit(
                    EventWork(partial(self._progress_event, lease, stages_done)), ignore_outcome
                )

    def _progress_event(self, lease: str, stages_done: int, moment: Moment) -> Event:
        return LeaseProgressed(at=moment.at, worker=self.worker, lease=lease, stages_done=stages_done)

    def _update_offer(self, offer: Offer) -> None:
        self._offer = offer
        standing = self._standing_offer()
        if standing is not None and standing.capacity and not offer.capacity:
            # At once: what comes next may be leases that are given back, which must not come here again. It
            # is no larger than the offer that it withdraws, and that one waited.
            self._submit_offer(msgspec.structs.replace(standing, capacity=0))
        if self._offering is None and offer != self._standing_offer():
            wait_s = max(OFFER_S_MIN, self._journal_bytes.wait_s(self.worker))
            self._offering = asyncio.get_running_loop().call_later(wait_s, self._submit_newest)

    def _standing_offer(self) -> Offer | None:
        """The worker's offer as the market has it, or will have it when it comes to what it was given."""
        known = self._market.worker(self.worker)
        return self._submitted or (known.offer if known is not None else None)

    def _submit_newest(self) -> None:
        self._offering = None
        if self._offer is not None and self._offer != self._standing_offer():
            self._submit_offer(self._offer)

    def _submit_offer(self, offer: Offer) -> None:
        self._submitted = offer
        self._journal_bytes.spend(self.worker, journal_bytes_of(offer))
        self._engine.submit(EventWork(partial(self._offer_event, offer)), self._end_offer)

    def _end_offer(self, outcome: Outcome) -> None:
        if isinstance(outcome, TradepostError):
            self._submitted = None  # the market has not taken it over

    def _offer_event(self, offer: Offer, moment: Moment) -> Event:
        return OfferUpdated(at=moment.at, worker=self.worker, offer=offer, seed=moment.seed)


def journal_bytes_of(offer: Offer) -> int:
    """About what an event with this offer adds to the journal."""
    return _EVENT_BYTES + len(msgspec.msgpack.encode(offer))


def _is_ours(error: TradepostError) -> bool:
    """Whether it is the broker that cannot check a delivery: its catalog or its content lacks something."""
    return isinstance(error, UnknownPipeline) or error.fault is Fault.BROKER


def ignore_outcome(outcome: Outcome) -> None:
    """Ignore the outcome: the market's instructions carry the replies."""
