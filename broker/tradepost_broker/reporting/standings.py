"""Public views of workers: standing, score, money, and the evidence behind the score."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import select

from tradepost_broker.market import Market
from tradepost_broker.market.ledger import earned_of, held_of, stake_of
from tradepost_broker.market.model.entities import Account, Worker
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting.explanations import FindingPlace, newest_evidence, page_of_evidence
from tradepost_broker.reporting.running_counts import RunningCounts
from tradepost_broker.reporting.score_histories import ScoreHistories
from tradepost_broker.reporting.standing_sentences import why_standing
from tradepost_broker.reporting.worker_lists import page_of_workers
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_reputation import score
from tradepost_reputation.dashboard import EvidenceView, ReputationView, ScoreHistoryView, WorkerView

#: The newest findings that are shown of one worker, of jobs that have ended; all are kept, and all count.
EVIDENCE_SHOWN_MAX: Final = 200
#: How old a list of all workers may be.
CACHE_S: Final = 1.0
NEWCOMER_SCORE: Final = score(good=0, bad=0)


class ListedWorkers(NamedTuple):
    """A page of workers, how many match in all, and the cursor of the next page."""

    workers: tuple[WorkerView, ...]
    found: int
    after: str


class ExplainedWorker(NamedTuple):
    """A worker with a page of its evidence; `before` is the last finding's place if older ones follow."""

    worker: WorkerView
    why: str
    history: tuple[ScoreHistoryView, ...]
    before: FindingPlace | None


class Standings:
    """Reads standings from what is durable; scores are the market's."""

    def __init__(
        self,
        *,
        store: Store,
        market: Market,
        sessions: Sessions,
        counts: RunningCounts,
        policy: MarketPolicy,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._market = market
        self._sessions = sessions
        self._counts = counts
        self._policy = policy
        self._histories = ScoreHistories(store=store, policy=policy)
        self._monotonic = monotonic
        self._all: tuple[float, list[WorkerView]] | None = None

    def all(self) -> list[WorkerView]:
        """Every worker, without the single pieces of evidence; up to `CACHE_S` old."""
        now = self._monotonic()
        if self._all is None or now - self._all[0] >= CACHE_S:
            self._all = (now, [self._view(worker, ()) for worker in self._store.find_readable(Worker)])
        return self._all[1]

    def has(self, worker_id: str) -> bool:
        """Whether there is such a worker."""
        return self._store.get(Worker, worker_id) is not None

    def page(self, *, find: str, standing: str, sort: str, after: str, count: int) -> ListedWorkers:
        """A page of workers, as `page_of_workers` finds them."""
        page = page_of_workers(self._store, find=find, standing=standing, sort=sort, after=after, count=count)
        table = CODECS[Worker].table
        found = self._store.find_readable(Worker, select(table).where(table.c.id.in_(page.ids)))
        views = {worker.id: self._view(worker, ()) for worker in found}
        return ListedWorkers(
            workers=tuple(views[id_] for id_ in page.ids if id_ in views), found=page.found, after=page.after
        )

    def explained(self, worker_id: str, *, before: FindingPlace | None, count: int) -> ExplainedWorker | None:
        """One worker with a page of its evidence, why it is in its state, and how its score came about."""
        worker = self._store.get(Worker, worker_id)
        if worker is None:
            return None
        evidence, older = page_of_evidence(self._store, worker_id, count=count, before=before)
        view = self._view(worker, evidence)
        return ExplainedWorker(
            worker=view,
            why=why_standing(view, capacity=self._market.capacity_of(worker_id), policy=self._policy),
            history=self._histories.of(
                worker_id, findings=sum(view.evidence_counts.values()), day=self._market.day
            ),
            before=older,
        )

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
