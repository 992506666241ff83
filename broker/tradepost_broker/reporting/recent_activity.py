"""What the newest ended jobs tell about the market: how many end, how long they wait, what they pay.

Only jobs that have ended count, and of their leases only those that are settled, so nothing is told of an
undecided one. Reading them takes longer than the event loop may stand still, so it is done in a thread with a
connection of its own, once in a while, however many readers there are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import select

from tradepost_broker.market.model.entities import Job, Lease, LeaseState, Pipeline
from tradepost_broker.market.state.worker_state import capability_of
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader, Store
from tradepost_reputation.dashboard import ActivityView, MinuteView, PricesView, ResultsView

N = TypeVar("N", int, float)

#: The newest ended jobs that are looked at.
JOBS_MAX: Final = 1_000
#: The minutes before the newest end of a job that are counted.
MINUTES: Final = 60
#: How old what is shown may be.
CACHE_S: Final = 5.0
#: Read from the index of ends alone.
_BY_MINUTE: Final = """
    SELECT CAST(finished_at / 60 AS INTEGER) AS minute, count(*) FROM jobs
    WHERE finished_at >= ? AND finished_at IS NOT NULL GROUP BY minute
"""
#: Leases that gave a result on which there was a finding.
_WITH_RESULT: Final = (LeaseState.ACCEPTED, LeaseState.REJECTED, LeaseState.INCONCLUSIVE)


class EndedJob(NamedTuple):
    """A job that has ended: when, how long it waited for its first lease, and how many results were made.

    `prices_microcredits` are what its accepted results were paid, per work unit.
    """

    pipeline: str
    capability: str
    ended_at: float
    waited_s: float | None
    results: int
    prices_microcredits: tuple[int, ...]


class _Read(NamedTuple):
    """What one reading has found."""

    jobs: tuple[EndedJob, ...]
    view: ActivityView


class RecentActivity:
    """The newest ended jobs of the market, newest first."""

    def __init__(self, *, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._reading = asyncio.Lock()
        self._known: tuple[float, _Read] | None = None

    async def jobs(self) -> tuple[EndedJob, ...]:
        """Up to `JOBS_MAX` of them, as of at most `CACHE_S` ago."""
        return (await self._current()).jobs

    async def view(self) -> ActivityView:
        """What they tell about the market."""
        return (await self._current()).view

    async def _current(self) -> _Read:
        async with self._reading:
            now = self._monotonic()
            if self._known is None or now - self._known[0] >= CACHE_S:
                self._known = (now, await asyncio.to_thread(self._read))
            return self._known[1]

    def _read(self) -> _Read:
        with closing(self._store.open_reader()) as reader:
            jobs = tuple(newest_ended(reader, count=JOBS_MAX))
            return _Read(jobs, activity_of(jobs, ends_by_minute(reader, jobs[0].ended_at) if jobs else ()))


def newest_ended(reader: Reader, *, count: int) -> Iterable[EndedJob]:
    """The jobs that ended last, newest first."""
    jobs, leases = CODECS[Job].table, CODECS[Lease].table
    newest = (
        select(jobs).where(jobs.c.finished_at.is_not(None)).order_by(jobs.c.finished_at.desc()).limit(count)
    )
    found = list(reader.find_readable(Job, newest))
    of_job: dict[str, list[Lease]] = {job.id: [] for job in found}
    for lease in reader.find_readable(Lease, select(leases).where(leases.c.job.in_(of_job))):
        of_job[lease.job].append(lease)
    classes = {one.id: capability_of(one) for one in reader.find_readable(Pipeline)}
    for job in found:
        yield _ended(job, of_job[job.id], classes.get(job.pipeline, ""))


def _ended(job: Job, leases: Sequence[Lease], capability: str) -> EndedJob:
    first_at = min((lease.granted_at for lease in leases), default=None)
    return EndedJob(
        pipeline=job.pipeline,
        capability=capability,
        ended_at=job.finished_at or 0.0,
        waited_s=None if first_at is None else max(0.0, first_at - job.submitted_at),
        results=sum(lease.state in _WITH_RESULT for lease in leases),
        prices_microcredits=tuple(
            round(lease.paid_microcredits / job.units)
            for lease in leases
            if lease.state is LeaseState.ACCEPTED and lease.paid_microcredits
        ),
    )


def ends_by_minute(reader: Reader, until: float) -> tuple[MinuteView, ...]:
    """How many jobs ended in each of the `MINUTES` up to that of `until` (Unix seconds)."""
    last = int(until // 60)
    first = last - MINUTES + 1
    counts = dict(reader.rows(_BY_MINUTE, (first * 60.0,)))
    return tuple(
        MinuteView(at=minute * 60.0, jobs=counts.get(minute, 0)) for minute in range(first, last + 1)
    )


def activity_of(jobs: Sequence[EndedJob], by_minute: tuple[MinuteView, ...]) -> ActivityView:
    """What `jobs` tell, newest first."""
    if not jobs:
        return ActivityView(jobs=0)
    waits = sorted(job.waited_s for job in jobs if job.waited_s is not None)
    results = Counter(job.results for job in jobs)
    classes = sorted({job.capability for job in jobs})
    prices = (prices_of([job for job in jobs if job.capability == one], one) for one in classes)
    return ActivityView(
        jobs=len(jobs),
        until=jobs[0].ended_at,
        by_minute=by_minute,
        wait_s_median=quantile(waits, 0.5) if waits else None,
        wait_s_high=quantile(waits, 0.9) if waits else None,
        prices=tuple(one for one in prices if one is not None),
        results=tuple(ResultsView(results=count, jobs=results[count]) for count in sorted(results)),
        results_mean=sum(job.results for job in jobs) / len(jobs),
    )


def prices_of(jobs: Iterable[EndedJob], capability: str) -> PricesView | None:
    """The quantiles of what results of `jobs` were paid; `None` if nothing was paid."""
    prices = sorted(price for job in jobs for price in job.prices_microcredits)
    if not prices:
        return None
    return PricesView(
        capability=capability,
        results=len(prices),
        low_microcredits=quantile(prices, 0.1),
        median_microcredits=quantile(prices, 0.5),
        high_microcredits=quantile(prices, 0.9),
    )


def quantile(ordered: Sequence[N], share: float) -> N:
    """The value that `share` of `ordered` do not exceed: one of them, so that it is exact."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
