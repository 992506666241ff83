"""The broker's metrics for Prometheus, in a registry of its own, without metrics of the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tradepost_broker.market.model.entities import Evidence, Job, Lease, Transfer
from tradepost_broker.market.model.events import Instruction, NotifyFinished, ReplySubmitted, Save
from tradepost_broker.market.model.lease_states import LIVE

_COMMIT_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_STALL_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Jobs(Protocol):
    """The part of the market that metrics use."""

    def job(self, job: str) -> Job | None:
        """The job, while it is in memory."""
        ...

    def leases_of(self, job: str) -> Sequence[Lease]:
        """Its leases."""
        ...


class Metrics:
    """Counters of durable instructions, and how batches went."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._submitted = self._counter("jobs_submitted", "Submissions answered with a job.")
        self._finished = self._counter("jobs_finished", "Jobs that ended, by status.", ("status",))
        self._grants = self._counter("leases_granted", "Leases of jobs that have ended, as of their end.")
        self._evidence = self._counter("evidence", "Findings about workers, by kind.", ("kind",))
        self._moved = self._counter("microcredits_moved", "Microcredits moved, by kind.", ("kind",))
        self._batch_s = Histogram(
            "tradepost_batch_seconds",
            "From the first event of a batch to its commit.",
            registry=self.registry,
            buckets=_COMMIT_BUCKETS,
        )
        self._batch_events = Histogram(
            "tradepost_batch_works",
            "Requests and events in a batch.",
            registry=self.registry,
            buckets=_BATCH_BUCKETS,
        )
        self._stall_s = Histogram(
            "tradepost_loop_stall_seconds",
            "For how long the event loop stood still, where that was over the limit.",
            registry=self.registry,
            buckets=_STALL_BUCKETS,
        )

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Show a value that is read when metrics are."""
        Gauge(f"tradepost_{name}", description, registry=self.registry).set_function(read)

    def observe(self, instruction: Instruction, market: Jobs) -> None:
        """Count one durable instruction. A job's leases are counted at its end, so they reveal no result."""
        match instruction:
            case Save(record=Evidence(kind=kind)):
                self._evidence.labels(kind.value).inc()
            case Save(record=Transfer(kind=kind, amount_microcredits=amount_microcredits)):
                self._moved.labels(kind).inc(amount_microcredits)
            case ReplySubmitted():
                self._submitted.inc()
            case NotifyFinished(job=job):
                ended = market.job(job)
                self._grants.inc(sum(lease.state not in LIVE for lease in market.leases_of(job)))
                self._finished.labels(ended.status.value if ended is not None else "unknown").inc()
            case _:
                pass

    def observe_batch(self, works: int, seconds: float) -> None:
        """Note how long a batch took."""
        self._batch_events.observe(works)
        self._batch_s.observe(seconds)

    def observe_stall(self, seconds: float) -> None:
        """Note that the event loop stood still."""
        self._stall_s.observe(seconds)

    def render(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"tradepost_{name}", description, labels, registry=self.registry)
