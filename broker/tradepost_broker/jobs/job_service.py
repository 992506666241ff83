"""What an account can do with its jobs, by REST or on a stream."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from sqlalchemy import select

from tradepost.errors import UnknownJob
from tradepost.protocol import JobView, QuarantineView
from tradepost_broker.engine.engine import Engine, Moment, Reply
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, PipelineUse
from tradepost_broker.market.model.events import CancelRequested, QuarantineLifted
from tradepost_broker.reporting.views import job_view
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.watchers import Watcher, Watchers

#: Changed verdicts that a client which comes back is sent, the newest.
CHANGES_MAX: Final = 1_000


class JobService:
    """Jobs in the store, so everything that it returns is durable."""

    def __init__(self, *, store: Store, engine: Engine, watchers: Watchers) -> None:
        self._store = store
        self._engine = engine
        self._watchers = watchers
        self._delivery_of = partial(store.get, Delivery)

    def job(self, account: str, job_id: str) -> Job:
        """The account's job. Raises `UnknownJob`, also for another account's."""
        job = self._store.get(Job, job_id)
        if job is None or job.account != account:
            raise UnknownJob(f"account {account} has no job {job_id}", job=job_id)
        return job

    def leases_with_receipts(self, job: Job) -> list[str]:
        """The ids of the leases whose receipts its submitter was given, also before its verdict changed."""
        leases = list(job.accepted) if job.finished_at is not None else []
        if job.verdict_changed_at is not None:
            table = CODECS[Lease].table
            first_run = range(1, (job.redone_after or job.attempts) + 1)
            leases += [
                lease.id
                for lease in self._store.find(Lease, select(table).where(table.c.job == job.id))
                if lease.attempt in first_run and lease.purpose is not LeasePurpose.AUDIT
            ]
        return list(dict.fromkeys(leases))

    def view(self, account: str, job_id: str) -> JobView:
        """The account's job as it stands. Raises `UnknownJob`."""
        return job_view(self.job(account, job_id), self._delivery_of)

    def watch(self, account: str, job_id: str, watcher: Watcher) -> None:
        """Call `watcher` when the job has ended, at once if it has already. Raises `UnknownJob`."""
        # Nothing is awaited between looking and watching, so no end can fall between them.
        view = self.view(account, job_id)
        if view.finished_at is not None:
            watcher(view)
        else:
            self._watchers.watch(job_id, watcher)

    def watch_new(self, job_id: str, watcher: Watcher) -> None:
        """As `watch`, for a job whose submission is being answered just now, so that it cannot have ended."""
        self._watchers.watch(job_id, watcher)

    def unwatch(self, job_id: str, watcher: Watcher) -> None:
        """Forget a watcher."""
        self._watchers.unwatch(job_id, watcher)

    def watch_verdicts(self, account: str, watcher: Watcher, *, since: float | None) -> Iterable[JobView]:
        """Call `watcher` with each of the account's jobs whose verdict changes from now on.

        Returns those whose verdict has changed since `since` (Unix seconds), the newest if there are many.
        Each view is made when it is its turn: it may have an output, and all of them would not fit in memory.
        """
        self._watchers.watch_verdicts(account, watcher)
        if since is None:
            return ()
        table = CODECS[Job].table
        changed = select(table).where(table.c.account == account, table.c.verdict_changed_at >= since)
        newest = changed.order_by(table.c.verdict_changed_at.desc()).limit(CHANGES_MAX)
        jobs = list(self._store.find(Job, newest))
        return (job_view(job, self._delivery_of) for job in reversed(jobs))

    def unwatch_verdicts(self, account: str, watcher: Watcher) -> None:
        """Forget a watcher of verdicts."""
        self._watchers.unwatch_verdicts(account, watcher)

    def request_cancel(self, account: str, job_id: str, reply: Reply) -> None:
        """Cancel the job if it has not ended; `reply` is told."""
        if self._has_ended(account, job_id):
            reply(())
        else:
            self._engine.submit(_cancelling(account, job_id), reply)

    async def cancel(self, account: str, job_id: str) -> JobView:
        """Cancel the job if it has not ended; how it stands then. Raises `UnknownJob`."""
        self.job(account, job_id)
        if not self._has_ended(account, job_id):
            await self._engine.ask(_cancelling(account, job_id))
        return self.view(account, job_id)

    def _has_ended(self, account: str, job_id: str) -> bool:
        """Whether there is nothing to cancel: of jobs that ended some time ago, the market knows nothing."""
        job = self._store.get(Job, job_id)
        return job is not None and job.account == account and job.finished_at is not None

    async def lift_quarantine(self, account: str, pipeline: str) -> QuarantineView:
        """Let the account's jobs on a pipeline be leased again; how it stands then.

        Raises `UnknownPipeline`.
        """

        def lifted(moment: Moment) -> QuarantineLifted:
            return QuarantineLifted(at=moment.at, account=account, pipeline=pipeline, seed=moment.seed)

        await self._engine.ask(EventWork(lifted))
        uses = [self._store.get(PipelineUse, f"{pipeline}/{whose}") for whose in (account, "")]
        quarantined = any(use is not None and use.quarantined_at is not None for use in uses)
        return QuarantineView(pipeline=pipeline, quarantined=quarantined)


def _cancelling(account: str, job_id: str) -> EventWork:
    return EventWork(
        lambda moment: CancelRequested(at=moment.at, job=job_id, account=account, seed=moment.seed)
    )
