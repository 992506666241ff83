"""Events from submitters, publishers and the operator: credits, pipelines, jobs and cancellations.

Each handler checks everything before it changes anything, and raises a typed error to refuse.
"""

from __future__ import annotations

import msgspec

from tradepost.errors import IdempotencyConflict, InvalidRequest, UnknownJob, UnknownPipeline
from tradepost_broker.market.matching.worker_filter import check_providers
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import (
    CancelRequested,
    Funded,
    JobSubmitted,
    PipelinePublished,
    QuarantineLifted,
    ReplySubmitted,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.settling import quarantine, revocation, settlement
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState


def fund(state: MarketState, event: Funded) -> None:
    """Give an account credits, once per transfer."""
    state.ledger.fund(event.transfer, event.account, event.amount_microcredits, at=event.at)


def publish(state: MarketState, event: PipelinePublished) -> None:
    """Take in a pipeline. Its CID says what it is, so a second time can change only who signed it.

    Then those who refused it are asked again: the signature that they lacked may be there now.
    """
    revocation.check(state, event.pipeline)
    new, known = event.pipeline, state.pipelines.get(event.pipeline.id)
    refused: list[WorkerState] = []
    is_lifted = False
    if known is not None:
        new = msgspec.structs.replace(
            known, publisher=new.publisher, publishers=new.publishers, artifacts=new.artifacts
        )
        refused = [worker for worker in state.workers.values() if worker.refused.pop(new.id, None)]
        state.supply_changed |= bool(refused)
        if refused:
            state.save(new)  # so that the journal has the event
        is_lifted = quarantine.lift(state, new.id, "")
    if event.account:
        signed_before = known.publishers if known is not None else ()
        claimed = [(event.account, key) for key in new.publishers if key not in signed_before]
        new = msgspec.structs.replace(new, claims=(*(known.claims if known else ()), *claimed))
    if new != known:
        state.add_pipeline(new)
        state.save(new)
    elif not (refused or is_lifted):
        state.is_repeated = True


def submit(state: MarketState, event: JobSubmitted) -> None:
    """Take in a job and reserve its cap, or answer with the job that its idempotency key stands for."""
    known = state.idempotency_keys.get((event.account, event.idempotency_key))
    if known is not None and (known.expires_at is None or event.at < known.expires_at):
        if known.request_hash != event.request_hash:
            raise IdempotencyConflict(
                f"key {event.idempotency_key!r} belongs to job {known.job}", job=known.job
            )
        state.is_repeated = True
        state.send(ReplySubmitted(known.job))
        return
    pipeline = state.pipelines.get(event.pipeline)
    if pipeline is None:
        raise UnknownPipeline(event.pipeline)
    revocation.check(state, pipeline)
    quarantine.check(state, event.pipeline, event.account)
    check_providers(pipeline, event.requirements)
    if event.job in state.jobs or event.max_price_microcredits < 1:
        raise InvalidRequest(f"job {event.job} with a cap of {event.max_price_microcredits} microcredits")
    state.ledger.reserve(event.job, event.account, event.max_price_microcredits)
    job = Job(
        id=event.job,
        account=event.account,
        idempotency_key=event.idempotency_key,
        request_hash=event.request_hash,
        pipeline=event.pipeline,
        input=event.input,
        input_bytes=event.input_bytes,
        units=pipeline.units(event.input_bytes),
        max_price_microcredits=event.max_price_microcredits,
        confidence=event.confidence,
        requirements=event.requirements,
        submitted_at=event.at,
        deadline_at=event.at + event.deadline_s,
        patience_s=event.patience_s,
        on_wrong=event.on_wrong,
        preference=event.preference,
    )
    state.add_job(job)
    state.save(job)
    state.send(ReplySubmitted(job.id))
    state.jobs_to_advance[job.id] = None


def lift_quarantine(state: MarketState, event: QuarantineLifted) -> None:
    """Let an account's jobs on a pipeline be leased again. Without a quarantine it changes nothing."""
    if event.pipeline not in state.pipelines:
        raise UnknownPipeline(event.pipeline)
    state.is_repeated = not quarantine.lift(state, event.pipeline, event.account)


def cancel(state: MarketState, event: CancelRequested) -> None:
    """End a job for its submitter. One that has just ended stays as it is; an older one is not known here."""
    job = state.jobs.get(event.job)
    if job is None or job.account != event.account:
        raise UnknownJob(event.job)
    if job.status not in FINAL:
        settlement.cancel(state, job)
    elif job.finished_at is not None and event.at >= job.finished_at + state.policy.retain_s:
        raise UnknownJob(event.job)
    else:
        state.is_repeated = True
