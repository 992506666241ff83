"""The number of open jobs of each account, and its limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import func, select

from tradepost.errors import QuotaExceeded
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import (
    Event,
    Instruction,
    JobSubmitted,
    NotifyFinished,
    NotifyVerdictChanged,
    ReplySubmitted,
)
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader

#: Jobs without a payment that every account may have at once.
UNPAID_JOBS_MIN: Final = 1_000


class OpenJobs:
    """Counts open jobs by account, as the market has them; at most `jobs_max` each.

    A job that ends without a payment leaves a record and its events for ever, so an account may have as many
    of these as it may have open jobs (but at least `UNPAID_JOBS_MIN`), and `unpaid_per_s` more every second.

    `find_job` gives a job that has just ended. Jobs are counted before they are durable, so
    that the submissions of one batch count for each other.
    """

    def __init__(
        self,
        *,
        store: Reader,
        jobs_max: int,
        unpaid_per_s: float,
        find_job: Callable[[str], Job | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs_max = jobs_max
        self._unpaid = RateLimit(
            burst=max(jobs_max, UNPAID_JOBS_MIN), per_s=unpaid_per_s, monotonic=monotonic
        )
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
        self._unpaid.check(account, "jobs that ended without a payment")

    def observe(self, event: Event, instructions: Sequence[Instruction]) -> None:
        """Count what the core has just decided: one more for a new job, one less for each that ended."""
        for instruction in instructions:
            match event, instruction:
                case JobSubmitted(job=fresh, account=account), ReplySubmitted(job=named) if named == fresh:
                    self._open[account] += 1
                case _, NotifyFinished(job=ended):
                    if (job := self._find_job(ended)) is not None:
                        self._open[job.account] -= 1
                        if not job.paid_microcredits:
                            self._unpaid.spend(job.account)
                case _, NotifyVerdictChanged(job=changed):
                    if (job := self._find_job(changed)) is not None and job.redone_after:
                        self._open[job.account] += 1  # it is open again
                case _:
                    pass
