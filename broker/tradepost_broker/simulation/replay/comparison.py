"""Replays a journal and compares: cost, latency, detection, and who would have won."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.lease_states import WITH_RECEIPT
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.replay.digest import Records, digest_of
from tradepost_broker.simulation.replay.observed import Observed
from tradepost_broker.simulation.replay.rerun import Rerun
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import KINDS, BooksReport, replay

_WINNERS_MAX: Final = 20


class MarketFigures(msgspec.Struct, kw_only=True):
    """What a market's records amount to. Money is in microcredits, times are in seconds."""

    jobs: int
    accepted: int
    failed: int
    cancelled: int
    paid_microcredits: int
    results: int
    reference_runs: int
    outvoted: int
    contradicted: int
    suspended: int
    expelled: int
    latency_p50_s: float
    latency_p95_s: float


class Wins(msgspec.Struct, kw_only=True):
    """How many jobs' auctions a worker won, then and under the other policy."""

    worker: str
    owner: str
    then: int
    otherwise: int


class Replay(msgspec.Struct, kw_only=True):
    """A journal's replay under the policies of that time: `replayed` must be the digest that is `stored`."""

    events: int
    stored: str
    replayed: str
    recorded: MarketFigures


class Comparison(msgspec.Struct, kw_only=True):
    """A journal under another policy. `same` estimates the market as it was, with the same estimated workers:
    what `other` differs from it by is the policy's doing."""

    replay: Replay
    same: MarketFigures
    other: MarketFigures
    winners_changed: int
    wins: list[Wins]


def replay_journal(reader: Reader) -> Replay:
    """Decide every event again, under the policy that was in force."""
    report = BooksReport()
    replayed = replay(reader, report)
    stored: Records = {kind: {one.id: one for one in reader.find(kind)} for kind in KINDS}
    return Replay(
        events=report.events,
        stored=digest_of(stored),
        replayed=digest_of(replayed),
        recorded=figures_of(stored),
    )


def compare_policies(reader: Reader, policy: MarketPolicy, *, seed: int = 0) -> Comparison:
    """Run the journal's market again, under its last policy and under another one."""
    stored: Records = {kind: {one.id: one for one in reader.find(kind)} for kind in KINDS}
    events = [event for _, event in reader.journal()]
    observed = Observed(events, stored)
    starts = reader.starts()
    last = msgspec.msgpack.decode(starts[-1].policy, type=MarketPolicy) if starts else MarketPolicy()
    same, other = (Rerun(one, observed, seed=seed) for one in (last, policy))
    for rerun in (same, other):
        rerun.run(events)
    then, otherwise = _winners(same.records), _winners(other.records)
    return Comparison(
        replay=replay_journal(reader),
        same=figures_of(same.records),
        other=figures_of(other.records),
        winners_changed=sum(otherwise.get(job) != worker for job, worker in then.items()),
        wins=_wins(other.records, Counter(then.values()), Counter(otherwise.values())),
    )


def figures_of(records: Records) -> MarketFigures:
    """Add records up."""
    jobs, leases = list(records[Job].values()), list(records[Lease].values())
    statuses = Counter(job.status for job in jobs)
    kinds = Counter(evidence.kind for evidence in records[Evidence].values())
    standings = Counter(worker.standing for worker in records[Worker].values())
    received = [lease for lease in leases if lease.state in WITH_RECEIPT]
    audits = sum(lease.purpose is LeasePurpose.AUDIT for lease in received)
    seconds = sorted(job.finished_at - job.submitted_at for job in jobs if job.finished_at is not None)
    return MarketFigures(
        jobs=len(jobs),
        accepted=statuses[JobStatus.ACCEPTED],
        failed=statuses[JobStatus.FAILED],
        cancelled=statuses[JobStatus.CANCELLED],
        paid_microcredits=sum(job.paid_microcredits for job in jobs),
        results=len(received) - audits,
        reference_runs=audits,
        outvoted=kinds[EvidenceKind.OUTVOTED],
        contradicted=kinds[EvidenceKind.AUDIT_FAILED],
        suspended=standings[WorkerStanding.SUSPENDED],
        expelled=standings[WorkerStanding.EXPELLED],
        latency_p50_s=round(seconds[len(seconds) // 2], 3) if seconds else 0.0,
        latency_p95_s=round(seconds[len(seconds) * 95 // 100], 3) if seconds else 0.0,
    )


def _winners(records: Records) -> dict[str, str]:
    """The worker that won each job's first auction."""
    first = (lease for lease in records[Lease].values() if lease.attempt == 1)
    return {lease.job: lease.worker for lease in first if lease.purpose is LeasePurpose.AUCTION}


def _wins(records: Records, then: Counter[str], otherwise: Counter[str]) -> list[Wins]:
    workers = sorted(then.keys() | otherwise.keys(), key=lambda one: (-abs(then[one] - otherwise[one]), one))
    owners = {worker.id: worker.owner for worker in records[Worker].values()}
    return [
        Wins(worker=one, owner=owners.get(one, ""), then=then[one], otherwise=otherwise[one])
        for one in workers[:_WINNERS_MAX]
    ]
