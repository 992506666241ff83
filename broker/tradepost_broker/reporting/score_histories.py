"""How a worker's score came about, from its evidence on jobs that have ended.

A history is read again only when there is another finding, or on another day: a page that is open asks often.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from cachetools import LRUCache
from sqlalchemy import select

from tradepost_broker.market.model.entities import Evidence, EvidenceKind, Job
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.worker_state import weights
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader
from tradepost_reputation import Weight
from tradepost_reputation.dashboard import ScoreHistoryView, ScorePointView
from tradepost_reputation.history import Scored, score_history
from tradepost_reputation.score import DAY_S

#: The newest findings that a history is made of.
FINDINGS_MAX: Final = 2_000
_WORKERS_KEPT: Final = 64
_WITHDRAWN: Final = f":{EvidenceKind.WITHDRAWN.value}"


class ScoreHistories:
    """Histories of scores, as of today's `policy`: an older one may have weighed evidence otherwise."""

    def __init__(self, *, store: Reader, policy: MarketPolicy) -> None:
        self._store = store
        self._policy = policy
        self._weights = weights(policy)
        self._known: LRUCache[str, tuple[tuple[int, int], tuple[ScoreHistoryView, ...]]] = LRUCache(
            _WORKERS_KEPT
        )

    def of(self, worker: str, *, findings: int, day: int) -> tuple[ScoreHistoryView, ...]:
        """A worker's histories up to the beginning of `day`, one for each capability class.

        `findings` is how many there are of it, a number that changes with each.
        """
        state = (findings, day)
        known = self._known.get(worker)
        if known is None or known[0] != state:
            known = self._known[worker] = (state, self._read(worker, day))
        return known[1]

    def _read(self, worker: str, day: int) -> tuple[ScoreHistoryView, ...]:
        evidence, jobs = CODECS[Evidence].table, CODECS[Job].table
        newest = (
            select(evidence)
            .join(jobs, jobs.c.id == evidence.c.job)
            .where(evidence.c.worker == worker, jobs.c.finished_at.is_not(None))
            .order_by(evidence.c.at.desc())
            .limit(FINDINGS_MAX + 1)
        )
        found = list(self._store.find_readable(Evidence, newest))
        is_cut = len(found) > FINDINGS_MAX
        by_id = {one.id: one for one in found[:FINDINGS_MAX]}
        classes: defaultdict[str, list[Scored]] = defaultdict(list)
        for one in reversed(by_id.values()):
            original = by_id.get(one.id.removesuffix(_WITHDRAWN)) if _is_withdrawal(one) else None
            classes[one.capability].append(self._scored(one, original))
        return tuple(
            ScoreHistoryView(
                capability=capability, points=self._points(scored, until=day * DAY_S), is_cut=is_cut
            )
            for capability, scored in sorted(classes.items())
        )

    def _scored(self, one: Evidence, original: Evidence | None) -> Scored:
        withdraws: tuple[float, str, Weight] | None = None
        if original is not None:
            withdraws = (original.at, original.kind.value, self._weights[original.kind])
        return Scored(one.at, one.kind.value, self._weights[one.kind], withdraws)

    def _points(self, scored: list[Scored], *, until: float) -> tuple[ScorePointView, ...]:
        points = score_history(
            scored, half_life_days=self._policy.half_life_days, until=max(until, scored[-1].at)
        )
        return tuple(ScorePointView(at=one.at, score=one.score, high=one.high) for one in points)


def _is_withdrawal(evidence: Evidence) -> bool:
    return evidence.kind is EvidenceKind.WITHDRAWN
