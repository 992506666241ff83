"""Rebuilding the market from its records after a restart.

Records hold everything that was decided; indexes, counters and timers follow from them. Workers start
disconnected. The event `Restarted` must come next: it has every open job looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tradepost.errors import invariant
from tradepost_broker.market.ledger import Reservation
from tradepost_broker.market.model.entities import (
    Account,
    Evidence,
    Job,
    Lease,
    Pipeline,
    Record,
    Transfer,
    Worker,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import Purpose

T = TypeVar("T")


def restore(records: Iterable[Record], policy: MarketPolicy) -> MarketState:
    """The state that these records describe, in any order of kinds. Needed are:

    - every account, pipeline and worker, and all evidence;
    - every transfer of kind `fund`, whose ids are remembered for ever;
    - every job that is open, has `spot_check` set, or finished within `idempotency_s`;
    - every lease of jobs that are open or have `spot_check` set, and every lease with `matures_at` set,
      together with its job.

    Matches are not needed. Raises `InvariantBroken` if the records contradict each other.
    """
    known = list(records)

    def of(kind: type[T]) -> list[T]:
        return [record for record in known if isinstance(record, kind)]

    state = MarketState(policy=policy, accounts=of(Account), transfers=of(Transfer))
    state.pipelines = {pipeline.id: pipeline for pipeline in of(Pipeline)}
    for worker in of(Worker):
        state.add_worker(worker)
    for evidence in sorted(of(Evidence), key=lambda evidence: (evidence.at, evidence.id)):
        state.workers[evidence.worker].learn(evidence)
    for job in sorted(of(Job), key=lambda job: (job.submitted_at, job.id)):
        _restore_job(state, job)
    for lease in sorted(of(Lease), key=lambda lease: (lease.job, lease.attempt)):
        invariant(lease.job in state.jobs, f"lease {lease.id} has no job")
        state.add_lease(lease)
    open_jobs = [job for job in state.jobs.values() if job.status not in FINAL]
    for job in open_jobs:
        committed = sum(lease.price for lease in state.live_leases(job))
        invariant(job.committed == committed, f"job {job.id} commits {job.committed}, leases {committed}")
    state.ledger.restore_reservations({job.id: Reservation(job.account, job.max_price) for job in open_jobs})
    return state


def _restore_job(state: MarketState, job: Job) -> None:
    if job.status in FINAL:
        state.jobs[job.id] = job
        state.leases_of[job.id] = []
        state.retire_job(job)
        return
    state.add_job(job)
    if job.unmatched_since is not None:
        state.agenda.put(Purpose.PATIENCE, job.id, job.unmatched_since + job.patience_s)
