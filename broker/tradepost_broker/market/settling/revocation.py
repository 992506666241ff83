"""Enforces the operator's revocation list: no lease for revoked artifacts or for engines below its minimum.

Work in hand on a revoked pipeline ends with the reason, as many jobs at once as one event may end; the others
get no lease meanwhile. A finished job stays as it is. A worker whose engines are too old keeps what it has
and gets no more: what it offers counts for nothing until it comes back with newer ones, or a newer list
allows them.
"""

from __future__ import annotations

from tradepost.errors import Revoked
from tradepost_broker.market.model.entities import Job, Pipeline
from tradepost_broker.market.model.events import RevocationsIssued, SendRevocations
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.settling import reexamination, settlement
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState
from tradepost_signing.policy.revocation import RevocationList


def enforce(state: MarketState, event: RevocationsIssued) -> None:
    """Take over a list: fail the open jobs of what it revokes, and see which engines are too old now."""
    state.revocations = RevocationList(event.document)
    # First, so that workers say why they stop; the recalls of the jobs that end here come after it.
    state.send(SendRevocations(event.document.version))
    revoked = {
        pipeline.id: error for pipeline in state.pipelines.values() if (error := _refusal(state, pipeline))
    }
    state.jobs_to_revoke = dict.fromkeys(job.id for job in state.jobs.values() if job.pipeline in revoked)
    end_revoked(state)
    for worker in state.workers.values():
        if worker.connected:
            was_too_old = worker.too_old
            review_engines(state, worker)
            state.place(worker)
            if was_too_old and len(worker.open) < worker.capacity(state.day):
                state.workers_freed[worker.record.id] = True  # to the jobs that wait, its offer is new
    state.supply_changed = True


def end_revoked(state: MarketState) -> None:
    """End the jobs of what is revoked, as many as this event may; the next tick goes on."""
    while state.jobs_to_revoke and state.may_review():
        state.jobs_reviewed += 1
        state.has_progressed = True
        job_id = next(iter(state.jobs_to_revoke))
        if job_id in state.jobs:
            end_if_revoked(state, state.jobs[job_id])
        else:
            del state.jobs_to_revoke[job_id]


def end_if_revoked(state: MarketState, job: Job) -> bool:
    """End a job whose turn to be ended has not come, if the list still revokes its pipeline."""
    if job.id not in state.jobs_to_revoke:
        return False
    del state.jobs_to_revoke[job.id]
    error = _refusal(state, state.pipelines[job.pipeline])
    if error is None:
        return False
    state.job_at_hand = job.id
    _end(state, job, error)
    return True


def check(state: MarketState, pipeline: Pipeline) -> None:
    """Raise `Revoked` if the list forbids this pipeline."""
    if state.revocations is not None:
        state.revocations.check_pipeline(
            pipeline.id, pipeline.artifacts, pipeline.publishers or (pipeline.publisher,)
        )


def review_engines(state: MarketState, worker: WorkerState) -> None:
    """Find out whether the engines that a worker offers are below the list's floors."""
    offer = worker.record.offer
    engines = {} if offer is None else offer.capabilities.engines
    worker.too_old = bool(state.revocations and state.revocations.below_floor(engines))
    if worker.too_old:
        state.too_old[worker.record.id] = None
    else:
        state.too_old.pop(worker.record.id, None)


def _refusal(state: MarketState, pipeline: Pipeline) -> Revoked | None:
    try:
        check(state, pipeline)
    except Revoked as error:
        return error
    return None


def _end(state: MarketState, job: Job, error: Revoked) -> None:
    if job.status not in FINAL:
        settlement.fail(state, job, error)
    elif job.in_doubt_until is not None:
        reexamination.give_up(state, job, may_redo=False)
    elif job.spot_check:
        job.spot_check = False  # the reference run would be refused as well
        state.audits_wanted.discard(job.id)
        state.save(job)
