"""The number of open jobs of each account, and its limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sqlalchemy import func, select

from tradepost.errors import QuotaExceeded
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import (
    Event,
    Instruction,
    JobSubmitted,
    NotifyFinished,
    ReplySubmitted,
)
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader


class OpenJobs:
    """Counts open jobs by account, as the market has them; at most `jobs_max` each.

    `find_job` gives a job that has just ended. Jobs are counted before they are durable, so
    that the submissions of one batch count for each other.
    """

    def __init__(self, *, store: Reader, jobs_max: int, find_job: Callable[[str], Job | None]) -> None:
        self._jobs_max = jobs_max
        self._find_job = find_job
        self._store = store
        self._open: Counter[str] = Counter()
        self.recount()

    def recount(self) -> None:
        """Count anew what is durable: the market was restored from it."""
        jobs = CODECS[Job].table.c
        is_open = select(jobs.account, func.count()).where(jobs.finished_at.is_(None))
        self._open = Counter(dict(map(tuple, self._store.query(is_open.group_by(jobs.account)))))

    def check(self, account: str) -> None:
        """Raise `QuotaExceeded` if the account can open no more."""
        if self._open[account] >= self._jobs_max:
            raise QuotaExceeded(
                f"account {account} has {self._open[account]:,} open jobs", limit=self._jobs_max
            )

    def observe(self, event: Event, instructions: Sequence[Instruction]) -> None:
        """Count what the core has just decided: one more for a new job, one less for each that ended."""
        for instruction in instructions:
            match event, instruction:
                case JobSubmitted(job=fresh, account=account), ReplySubmitted(job=named) if named == fresh:
                    self._open[account] += 1
                case _, NotifyFinished(job=ended):
                    if (job := self._find_job(ended)) is not None:
                        self._open[job.account] -= 1
                case _:
                    pass
