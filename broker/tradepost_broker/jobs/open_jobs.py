"""How many jobs each account has open, and the bound on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sqlalchemy import func, select

from tradepost.errors import QuotaExceeded
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import Instruction, NotifyFinished
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader


class OpenJobs:
    """Counts open jobs by account, as the market has them; at most `jobs_max` each.

    `account_of` gives the account of a job that has just ended.
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

    def opened(self, account: str) -> None:
        """Count one more."""
        self._open[account] += 1

    def observe(self, instruction: Instruction) -> None:
        """Count one less for each job that ended."""
        if isinstance(instruction, NotifyFinished):
            account = self._account_of(instruction.job)
            if account is not None:
                self._open[account] -= 1
