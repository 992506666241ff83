"""What the newest ended jobs tell about the market: how many end, how long they wait, what they pay.

Only jobs that have ended count, and of their leases only those that are settled, so nothing is told of an
undecided one. Reading them takes longer than the event loop may stand still, so it is done in a thread with a
connection of its own, once in a while, however many readers there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import select

from tradepost_broker.market.model.entities import Job, Lease, LeaseState, Pipeline
from tradepost_broker.market.state.worker_state import capability_of
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader, Store
from tradepost_reputation.dashboard import PricesView

N = TypeVar("N", int, float)

#: The newest ended jobs that are looked at.
JOBS_MAX: Final = 1_000
#: How old what is shown may be.
CACHE_S: Final = 5.0
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


class RecentActivity:
    """The newest ended jobs of the market, newest first."""

    def __init__(self, *, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._reading = asyncio.Lock()
        self._known: tuple[float, tuple[EndedJob, ...]] | None = None

    async def jobs(self) -> tuple[EndedJob, ...]:
        """Up to `JOBS_MAX` of them, as of at most `CACHE_S` ago."""
        async with self._reading:
            now = self._monotonic()
            if self._known is None or now - self._known[0] >= CACHE_S:
                self._known = (now, await asyncio.to_thread(self._read))
            return self._known[1]

    def _read(self) -> tuple[EndedJob, ...]:
        with closing(self._store.open_reader()) as reader:
            return tuple(newest_ended(reader, count=JOBS_MAX))


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
