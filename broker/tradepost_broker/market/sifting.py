"""Tells the records that the market can go on with from those that it must leave out.

A record that refers to one that is missing would make the market fail later, at a moment that strangers
choose. It is left out, with what depends on it: a market without one job is better than none. The rest of its
records stays in the database, so nothing is lost once the damage is mended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tradepost_broker.market.model.entities import (
    Evidence,
    Job,
    Lease,
    Pipeline,
    PipelineUse,
    Record,
    Worker,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LIVE


class LeftOut(NamedTuple):
    """A record that the market goes on without: its kind in lower case, such as "job", its id, and why."""

    kind: str
    id: str
    reason: str


class Sifted(NamedTuple):
    """The records that fit together, and those that were left out because of what is missing."""

    records: list[Record]
    left_out: list[LeftOut]


def kind_of(record: object) -> str:
    """How a kind of record is called here: of a record, or of its type."""
    kind = record if isinstance(record, type) else type(record)
    return kind.__name__.lower()


def sift(records: Iterable[Record], *, without: Iterable[tuple[str, str]] = ()) -> Sifted:
    """Those of `records` that refer only to each other; `without` are kinds and ids that are left out anyway.

    The leases of a job that is left out are not named one by one.
    """
    gone = set(without)
    known = [record for record in records if (kind_of(record), record.id) not in gone]
    pipelines = {record.id for record in known if isinstance(record, Pipeline)}
    workers = {record.id for record in known if isinstance(record, Worker)}
    leases = _leases_by_job(known)
    left_out: list[LeftOut] = []
    kept: list[Record] = []
    for record in known:
        reason = ""
        if isinstance(record, Job):
            reason = _why_not_job(record, pipelines, workers, leases.get(record.id, []))
        elif isinstance(record, PipelineUse) and record.pipeline not in pipelines:
            reason = f"its pipeline {record.pipeline} is missing"
        elif isinstance(record, Evidence) and record.worker not in workers:
            reason = f"worker {record.worker} is missing"
        if reason:
            left_out.append(LeftOut(kind_of(record), record.id, reason))
        else:
            kept.append(record)
    jobs = {record.id for record in kept if isinstance(record, Job)}
    return Sifted([one for one in kept if not isinstance(one, Lease) or one.job in jobs], left_out)


def _leases_by_job(records: Sequence[Record]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for record in records:
        if isinstance(record, Lease):
            found.setdefault(record.job, []).append(record)
    return found


def _why_not_job(job: Job, pipelines: set[str], workers: set[str], leases: Sequence[Lease]) -> str:
    """Why the market cannot go on with a job that has these leases; "" if it can."""
    if job.pipeline not in pipelines:
        return f"its pipeline {job.pipeline} is missing"
    missing = {f"{job.id}.{attempt}" for attempt in range(1, job.attempts + 1)}
    missing -= {lease.id for lease in leases}
    if missing:
        return f"its leases {', '.join(sorted(missing))} are missing"
    strangers = sorted({lease.worker for lease in leases} - workers)
    if strangers:
        return f"its workers {', '.join(strangers)} are missing"
    committed_microcredits = sum(lease.price_microcredits for lease in leases if lease.state in LIVE)
    if job.status not in FINAL and committed_microcredits != job.committed_microcredits:
        return f"it commits {job.committed_microcredits}, its leases {committed_microcredits}"
    return ""
