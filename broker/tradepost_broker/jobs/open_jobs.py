"""How many jobs each account has open, and the bound on it."""

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

    `account_of` gives the account of a job that has just ended. Jobs are counted before they are durable, so
    that the submissions of one batch count for each other.
    """

    def __init__(self, *, store: Reader, jobs_max: int, account_of: Callable[[str], str | None]) -> None:
        self._jobs_max = jobs_max
        self._account_of = account_of
        jobs = CODECS[Job].table.c
        is_open = select(jobs.account, func.count()).where(jobs.finished_at.is_(None))
        self._open = Counter(dict(map(tuple, store.query(is_open.group_by(jobs.account)))))

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
                case JobSubmitted(job=fresh, account=account), ReplySubmitted(job=job) if job == fresh:
                    self._open[account] += 1
                case _, NotifyFinished(job=job):
                    owner = self._account_of(job)
                    if owner is not None:
                        self._open[owner] -= 1
                case _:
                    pass
