"""The market core: `handle(event) -> list[Instruction]`, and nothing else changes it.

No clock, no randomness, no I/O: time and seeds come in events, so the same events give the same state and the
same instructions, and the journal can be replayed. Handlers are small functions found by the event's type; a
handler that refuses raises before it changes anything. `docs/market.md` describes the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from tradepost.errors import InvariantBroken, StateBroken, TradepostError, invariant
from tradepost.protocol import EstimateRequest, EstimateView
from tradepost_broker.market import recovery
from tradepost_broker.market.handlers import connections, defects, receipts, submissions, timer
from tradepost_broker.market.matching import advance_job, estimates, lateness
from tradepost_broker.market.model.entities import (
    Account,
    Job,
    Lease,
    Pipeline,
    Record,
    Worker,
)
from tradepost_broker.market.model.events import (
    CancelRequested,
    DefectFound,
    Event,
    Funded,
    Instruction,
    JobSubmitted,
    LeaseGivenBack,
    LeaseProgressed,
    MatchingEvent,
    OfferUpdated,
    PipelinePublished,
    QuarantineLifted,
    ReceiptDelivered,
    ReplyRefused,
    Restarted,
    RevocationsIssued,
    Tick,
    WorkerConnected,
    WorkerDisconnected,
    WorkerJoined,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.settling import reference_runs, revocation, settlement
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import Reputation

_HANDLERS: Final[dict[type[Any], Callable[[MarketState, Any], None]]] = {
    Funded: submissions.fund,
    PipelinePublished: submissions.publish,
    JobSubmitted: submissions.submit,
    CancelRequested: submissions.cancel,
    WorkerJoined: connections.join,
    WorkerConnected: connections.connect,
    OfferUpdated: connections.update_offer,
    WorkerDisconnected: connections.disconnect,
    Restarted: connections.restart,
    ReceiptDelivered: receipts.deliver,
    LeaseGivenBack: receipts.give_back,
    QuarantineLifted: submissions.lift_quarantine,
    LeaseProgressed: lateness.note_progress,
    RevocationsIssued: revocation.enforce,
    DefectFound: defects.end,
    Tick: timer.tick,
}


class Market:
    """One market. Only `handle` changes it; what the other methods return is read-only."""

    def __init__(self, *, policy: MarketPolicy) -> None:
        self._state = MarketState(policy=policy)
        self._changed = True

    @classmethod
    def restore(
        cls, records: Iterable[Record], policy: MarketPolicy, *, left_out: Iterable[tuple[str, str]] = ()
    ) -> Market:
        """The market that these records describe; `recovery.needed` says which there must be.

        `left_out` are records (kind and id) that it goes on without. The first event after it must be
        `Restarted`.
        """
        market = cls(policy=policy)
        market.recover(records, left_out=left_out)
        return market

    def recover(self, records: Iterable[Record], *, left_out: Iterable[tuple[str, str]] = ()) -> None:
        """Become the market that these records describe, as `restore` gives it. The policy stays.

        Raises `InvariantBroken`, and then nothing has changed.
        """
        self._state = recovery.restore(records, self._state.policy, left_out=left_out)

    def handle(self, event: Event) -> list[Instruction]:
        """Decide what an event means. A refusal is one `ReplyRefused`, and then nothing has changed.

        Whatever else it raises is a defect, which may have left it half changed: it must then be restored.
        """
        state = self._state
        state.begin(event.at, event.seed if isinstance(event, MatchingEvent) else 0)
        has_more_to_do = state.has_more_to_do
        refusal = _refusal(state, event)
        if refusal is not None:
            self._changed = False
            return [ReplyRefused(refusal.to_problem())]
        if isinstance(event, MatchingEvent):
            advance_job.advance_all(state)
        if isinstance(event, Tick):
            state.note_progress()
        is_news = has_more_to_do or not state.is_repeated
        answer = state.drain()
        self._changed = is_news and (bool(answer) or not isinstance(event, Tick))
        return answer

    def estimate(self, account: str, request: EstimateRequest) -> EstimateView:
        """What a job of `account` would cost now, and how long it would take: `matching.estimates`.

        Raises what a submission would be refused with.
        """
        return estimates.estimate(self._state, account, request)

    @property
    def changed(self) -> bool:
        """Whether the newest event may have changed anything, so that the journal must have it.

        One that did not was rejected, is a repeated frame, with which anyone who can repeat it could fill the
        journal for nothing, or is a tick at which nothing was due.
        """
        return self._changed

    @property
    def job_at_hand(self) -> str:
        """The job that was looked at last in the newest event; "" if it was the event itself."""
        return self._state.job_at_hand

    def job(self, job: str) -> Job | None:
        """A job that is open, or has finished and not left memory yet."""
        return self._state.jobs.get(job)

    def knows_key(self, account: str, idempotency_key: str) -> bool:
        """Whether a submission under this key may be a repeated one."""
        return (account, idempotency_key) in self._state.idempotency_keys

    def lease(self, lease: str) -> Lease | None:
        """A lease of such a job."""
        return self._state.leases.get(lease)

    def leases_of(self, job: str) -> list[Lease]:
        """All leases of such a job, in the order in which they were granted."""
        state = self._state
        return [*state.earlier_leases_of.get(job, ()), *state.leases_of.get(job, ())]

    def stages_done(self, worker: str, lease: str) -> int | None:
        """How many stages of this worker's open lease are known to be done; `None` without such a lease."""
        return lateness.stages_done(self._state, worker, lease)

    def results_of(self, job: str) -> list[Lease]:
        """Its leases that a new result is to be compared with: those whose outcome is in.

        Reference runs are among them only while they have to be confirmed by others.
        """
        accused = job in self._state.jobs and bool(self._state.jobs[job].accused)
        return [
            lease
            for lease in self._state.leases_of.get(job, ())
            if settlement.is_result(lease) or (accused and reference_runs.is_reference(lease))
        ]

    def open_leases_of(self, worker: str) -> list[Lease]:
        """The leases that a worker is expected to work on."""
        known = self._state.workers.get(worker)
        return list(known.open.values()) if known else []

    def worker(self, worker: str) -> Worker | None:
        """A worker that joined."""
        known = self._state.workers.get(worker)
        return known.record if known else None

    def workers(self) -> list[Worker]:
        """All workers that joined."""
        return [worker.record for worker in self._state.workers.values()]

    def is_connected(self, worker: str) -> bool:
        """Whether a worker's stream is open."""
        known = self._state.workers.get(worker)
        return known is not None and known.connected

    def reputation_of(self, worker: str) -> dict[str, Reputation]:
        """A worker's reputation by capability class, as of the last event; empty without evidence."""
        known = self._state.workers.get(worker)
        return known.reputations(self._state.day) if known else {}

    @property
    def day(self) -> int:
        """The day of the last event, as scores count days: since the epoch."""
        return self._state.day

    def capacity_of(self, worker: str) -> int:
        """How many leases it may have open at once, as of the last event; few if it is unproven."""
        known = self._state.workers.get(worker)
        return known.capacity(self._state.day) if known else 0

    def pipeline(self, pipeline: str) -> Pipeline | None:
        """A published pipeline."""
        return self._state.pipelines.get(pipeline)

    def account(self, account: str) -> Account:
        """A ledger account by its full name, such as `credits:alice`; one that never moved is empty."""
        return self._state.ledger.account(account)

    def accounts(self) -> list[Account]:
        """Every account that ever moved."""
        return list(self._state.ledger.accounts())


def _refusal(state: MarketState, event: Event) -> TradepostError | None:
    """Let the event's handler decide; why it refuses the event, if it does."""
    try:
        _HANDLERS[type(event)](state, event)
    except InvariantBroken:
        raise
    except TradepostError as refusal:
        invariant(
            not state.drain(), f"{type(event).__name__} was rejected after it changed the state", StateBroken
        )
        return refusal
    return None
