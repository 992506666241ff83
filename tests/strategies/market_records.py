"""What a broker holds against the workers of a local market."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradepost.testing import LocalMarket
from tradepost_broker.market.model.entities import Evidence, Job, Lease, Worker
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader

#: Scores by worker and class of capability: the first good result of a class has a low one of its own.
Scores = Mapping[tuple[str, str], float]

#: Good evidence fades while a test runs; one finding takes far more.
_FADED = 0.001


@dataclass(frozen=True, kw_only=True)
class MarketRecords:
    """What a broker has recorded, and what it showed everyone of its workers, by id, at the end."""

    jobs: Mapping[str, Job]
    leases: Sequence[Lease]
    evidence: Sequence[Evidence]
    workers: Mapping[str, Worker]
    views: Mapping[str, dict[str, Any]]
    books: dict[str, Any]

    @classmethod
    def of(cls, market: LocalMarket) -> MarketRecords:
        """The records of a market that runs, and what verifying its books gives."""
        views = {worker.id: market.view(worker) for worker in market.running}
        folder = market.folder_in_use / "broker"
        books = market.run(["broker", "verify-books", "--data-dir", str(folder), "--json"])
        reader = Reader(database.open_snapshot(folder / "broker.sqlite3"))
        try:
            return cls(
                jobs={job.id: job for job in reader.find(Job)},
                leases=list(reader.find(Lease)),
                evidence=list(reader.find(Evidence)),
                workers={worker.id: worker for worker in reader.find(Worker)},
                views=views,
                books=books,
            )
        finally:
            reader.close()

    def check_nobody_is_blamed(self, scores: Scores) -> None:
        """Raise `AssertionError` if anything lowers, or may yet lower, a score below those in `scores`."""
        bad = [one for one in self.evidence if one.kind.lowers_score]
        assert bad == [], bad
        pending = [one for one in self.leases if one.blame_at is not None or one.pending_evidence]
        assert pending == [], pending
        for worker, view in self.views.items():
            assert view["standing"] == "active", view
            for one in view["reputations"]:
                before = scores.get((worker, one["capability"]), 0.0)
                assert one["score"] >= before - _FADED, view
        assert self.books["differences"] == [], self.books


def scores_of(market: LocalMarket) -> Scores:
    """The scores of a market's workers now."""
    return {
        (worker.id, one["capability"]): one["score"]
        for worker in market.running
        for one in market.view(worker)["reputations"]
    }
