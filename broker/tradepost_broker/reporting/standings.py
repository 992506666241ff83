"""Public views of workers: standing, score, money, and the evidence behind the score."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tradepost_broker.market import Market
from tradepost_broker.market.ledger import earned_of, held_of, stake_of
from tradepost_broker.market.model.entities import Account, Worker
from tradepost_broker.reporting.explanations import newest_evidence
from tradepost_broker.reporting.running_counts import RunningCounts
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_reputation import score
from tradepost_reputation.dashboard import EvidenceView, ReputationView, WorkerView

#: The newest findings that are shown of one worker, of jobs that have ended; all are kept, and all count.
EVIDENCE_SHOWN_MAX: Final = 200
#: How old a list of all workers may be.
CACHE_S: Final = 1.0
NEWCOMER_SCORE: Final = score(good=0, bad=0)


class Standings:
    """Reads standings from what is durable; scores are the market's."""

    def __init__(
        self,
        *,
        store: Store,
        market: Market,
        sessions: Sessions,
        counts: RunningCounts,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._market = market
        self._sessions = sessions
        self._counts = counts
        self._monotonic = monotonic
        self._all: tuple[float, list[WorkerView]] | None = None

    def all(self) -> list[WorkerView]:
        """Every worker, without the single pieces of evidence; up to `CACHE_S` old."""
        now = self._monotonic()
        if self._all is None or now - self._all[0] >= CACHE_S:
            self._all = (now, [self._view(worker, ()) for worker in self._store.find_readable(Worker)])
        return self._all[1]

    def one(self, worker_id: str) -> WorkerView | None:
        """One worker, with its newest evidence."""
        worker = self._store.get(Worker, worker_id)
        if worker is None:
            return None
        return self._view(worker, newest_evidence(self._store, worker_id, count=EVIDENCE_SHOWN_MAX))

    def _view(self, worker: Worker, evidence: tuple[EvidenceView, ...]) -> WorkerView:
        reputations = self._market.reputation_of(worker.id).values()
        offer = worker.offer
        return WorkerView(
            worker=worker.id,
            owner=worker.owner,
            device=worker.device,
            auditor=worker.auditor,
            standing=worker.standing.value,
            connected=self._sessions.is_connected(worker.id),
            joined_at=worker.joined_at,
            price_per_unit_microcredits=None if offer is None else offer.price_per_unit_microcredits,
            capacity=0 if offer is None else offer.capacity,
            score=min((one.score for one in reputations), default=NEWCOMER_SCORE),
            accepted=self._counts.paid_leases_of(worker.id),
            stake_microcredits=self._available(stake_of(worker.id)),
            held_microcredits=self._available(held_of(worker.id)),
            earned_microcredits=self._available(earned_of(worker.id)),
            slashed_microcredits=self._counts.slashed_of(worker.id),
            evidence_counts=self._counts.evidence_of(worker.id),
            reputations=tuple(
                ReputationView(
                    capability=one.capability,
                    score=one.score,
                    credibility=one.credibility,
                    explanation=one.explanation,
                )
                for one in reputations
            ),
            evidence=evidence,
        )

    def _available(self, account: str) -> int:
        entry = self._store.get(Account, account)
        return 0 if entry is None else entry.available_microcredits
