"""One admitted connection of a worker: what each of its frames means."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tradepost.errors import LeaseGone, Problem, TradepostError
from tradepost.protocol import Acknowledged, Deliver, GiveBack, GiveBackReason, Heartbeat, Offer, UpdateOffer
from tradepost_broker.engine import Engine, Moment, Outcome, Reply
from tradepost_broker.events import Event, LeaseGivenBack, OfferUpdated
from tradepost_broker.outbox import Outbox
from tradepost_broker.receipt_checks import ReceiptChecks
from tradepost_broker.streams import StreamCodec, unknown_frame
from tradepost_broker.work import EventWork

#: Offers that follow each other faster than this are merged into the newest.
OFFER_S_MIN: Final = 0.1
_NAME_CHARS_MAX: Final = 64
_TEXT_CHARS_MAX: Final = 1024

log = logging.getLogger(__name__)


class WorkerSession:
    """Takes messages; what is to be told goes to `outbox`."""

    def __init__(self, worker: str, codec: StreamCodec, engine: Engine, receipts: ReceiptChecks) -> None:
        self.worker = worker
        self.outbox = Outbox(codec)
        self._codec = codec
        self._engine = engine
        self._receipts = receipts
        self._offer: Offer | None = None
        self._offering: asyncio.TimerHandle | None = None

    async def take(self, message: bytes) -> None:
        """Do what the frames of a message ask. Raises `ProtocolError`."""
        for frame in self._codec.decode(message):
            match frame:
                case Deliver():
                    await self._deliver(frame)
                case GiveBack():
                    self._give_back(frame, nobody)
                case UpdateOffer(offer=offer):
                    self._update_offer(offer)
                case Heartbeat():
                    pass  # the connection itself is kept alive by pings
                case _:
                    raise unknown_frame(frame)
        await self._engine.ready()

    def close(self) -> None:
        """Forget an offer that was not taken over yet."""
        if self._offering is not None:
            self._offering.cancel()

    async def _deliver(self, frame: Deliver) -> None:
        try:
            work = await self._receipts.check(self.worker, frame)
        except LeaseGone as error:
            self.outbox.post(Acknowledged(frame.lease, error.to_problem()))
        except TradepostError as error:
            log.warning(
                "Worker %s delivered what is no result: %s",
                self.worker,
                error,
                extra={"action": "invalid_receipt"},
            )
            refusal = Acknowledged(frame.lease, error.to_problem())
            self._give_back(
                GiveBack(lease=frame.lease, reason=GiveBackReason.FAILED, problem=error.to_problem()),
                lambda _: self.outbox.post(refusal),
            )
        else:
            self._engine.submit(work, nobody)

    def _give_back(self, frame: GiveBack, reply: Reply) -> None:
        problem = bounded(frame.problem)
        work = EventWork(
            lambda moment: LeaseGivenBack(
                at=moment.at,
                worker=self.worker,
                lease=frame.lease,
                reason=frame.reason,
                problem=problem,
                seed=moment.seed,
            )
        )
        self._engine.submit(work, reply)

    def _update_offer(self, offer: Offer) -> None:
        self._offer = offer
        if self._offering is None:
            self._offering = asyncio.get_running_loop().call_later(OFFER_S_MIN, self._submit_offer)

    def _submit_offer(self) -> None:
        self._offering = None
        self._engine.submit(EventWork(self._offer_event), nobody)

    def _offer_event(self, moment: Moment) -> Event:
        assert self._offer is not None
        return OfferUpdated(at=moment.at, worker=self.worker, offer=self._offer, seed=moment.seed)


def bounded(problem: Problem) -> Problem:
    """What a worker says went wrong, no longer than an error needs to be: it is kept, and shown to others."""
    return Problem(
        code=problem.code[:_NAME_CHARS_MAX],
        title=problem.title[:_TEXT_CHARS_MAX],
        detail=problem.detail[:_TEXT_CHARS_MAX],
        status=problem.status,
        fault=problem.fault[:_NAME_CHARS_MAX],
        stage=None if problem.stage is None else problem.stage[:_NAME_CHARS_MAX],
        hint=problem.hint[:_TEXT_CHARS_MAX],
    )


def nobody(outcome: Outcome) -> None:
    """Nobody waits for the outcome: the market's instructions say what is to be told."""
