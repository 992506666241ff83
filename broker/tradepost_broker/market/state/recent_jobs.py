"""What jobs that ended lately were paid, by pipeline, and how many jobs end in a second.

Only what is decided counts, so it tells nothing of an open job. Memory is bounded: so many pipelines, and the
newest jobs of each. It follows from the records of the jobs that are still in memory, so a restart keeps a
few minutes of it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.median import median

_PIPELINES_MAX: Final = 1_024
_JOBS_MAX: Final = 64
_ENDS_MAX: Final = 256
#: How far back ends count for the throughput.
_ENDS_S: Final = 600.0
#: Ends from which a throughput can be told.
_ENDS_MIN: Final = 2


class PaidJobs(NamedTuple):
    """The median of what `jobs` accepted jobs paid for one work unit of one result, the first at `since`."""

    per_unit_microcredits: float
    jobs: int
    since: float


class RecentJobs:
    """Prices by pipeline, and the times of the newest ends."""

    def __init__(self) -> None:
        self._paid: dict[str, deque[tuple[float, float]]] = {}
        self._ends: deque[float] = deque(maxlen=_ENDS_MAX)

    def note(self, job: Job) -> None:
        """Take in a job that has finished."""
        assert job.finished_at is not None
        self._ends.append(job.finished_at)
        if job.status is not JobStatus.ACCEPTED or job.verification is None or not job.paid_microcredits:
            return
        results = len(job.verification.agreed)
        paid = self._paid.pop(job.pipeline, None) or deque(maxlen=_JOBS_MAX)
        self._paid[job.pipeline] = paid  # the newest last
        if len(self._paid) > _PIPELINES_MAX:
            del self._paid[next(iter(self._paid))]
        paid.append((job.finished_at, job.paid_microcredits / (max(1, results) * job.units)))

    def paid(self, pipeline: str) -> PaidJobs | None:
        """What jobs of a pipeline were paid; `None` if none was accepted lately."""
        known = self._paid.get(pipeline)
        if not known:
            return None
        return PaidJobs(median(price for _, price in known), len(known), min(at for at, _ in known))

    def ends_per_s(self, at: float) -> float | None:
        """How many jobs end in a second; `None` if too few ended in the last minutes."""
        ends = [end for end in self._ends if end >= at - _ENDS_S]
        span_s = at - min(ends, default=at)
        return len(ends) / span_s if len(ends) >= _ENDS_MIN and span_s > 0 else None
