"""The transition tables of jobs, leases and workers, exhaustively, and the diagrams drawn from them."""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tradepost.errors import InvariantBroken
from tradepost.protocol import JobStatus, Requirements
from tradepost_broker.market.model.entities import (
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.job_states import FINAL, JOB_STATES, JobTrigger, transition_job
from tradepost_broker.market.model.lease_states import LEASE_STATES, LeaseTrigger, transition_lease
from tradepost_broker.market.model.transition_table import TransitionTable
from tradepost_broker.market.model.worker_states import WORKER_STATES, WorkerTrigger, transition_worker

DOCS = Path(__file__).parents[4] / "docs" / "states.md"


class Case(NamedTuple):
    """A table, and the two enums that it must cover."""

    table: TransitionTable[Any, Any]
    initial: StrEnum
    triggers: type[StrEnum]


every_table = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(JOB_STATES, JobStatus.QUEUED, JobTrigger), id="jobs"),
        pytest.param(Case(LEASE_STATES, LeaseState.OPEN, LeaseTrigger), id="leases"),
        pytest.param(Case(WORKER_STATES, WorkerStanding.ACTIVE, WorkerTrigger), id="workers"),
    ],
)


def make_job(status: JobStatus) -> Job:
    return Job(
        id="j",
        account="a",
        idempotency_key="k",
        request_hash="h",
        pipeline="p",
        input="i",
        input_bytes=1,
        units=1,
        max_price_microcredits=1,
        confidence=0.9,
        requirements=Requirements(),
        submitted_at=0.0,
        deadline_at=1.0,
        patience_s=1.0,
        status=status,
    )


def make_lease(state: LeaseState) -> Lease:
    return Lease(
        id="j.1",
        job="j",
        worker="w",
        attempt=1,
        purpose=LeasePurpose.AUCTION,
        price_microcredits=1,
        nonce=bytes(16),
        granted_at=0.0,
        expires_at=1.0,
        state=state,
    )


def make_worker(standing: WorkerStanding) -> Worker:
    return Worker(id="w", owner="o", device="d", public_key=b"k", joined_at=0.0, standing=standing)


@pytest.mark.parametrize(("status", "trigger"), [*product(JobStatus, JobTrigger)])
def test_only_what_the_table_has_can_happen_to_a_job(status: JobStatus, trigger: JobTrigger) -> None:
    job = make_job(status)
    if (status, trigger) in JOB_STATES.transitions:
        transition_job(job, trigger, at=7.0)
        assert job.status is JOB_STATES.transitions[status, trigger]
        had_ended = status in FINAL
        assert (job.finished_at == 7.0) == (job.status in FINAL and not had_ended)
        assert (job.verdict_changed_at == 7.0) == had_ended
        assert job.finished_at is None or job.status in FINAL
    else:
        with pytest.raises(InvariantBroken, match=r"job j is .* is not allowed in this state"):
            transition_job(job, trigger, at=7.0)
        assert job.status is status
        assert job.finished_at is None


@pytest.mark.parametrize(("state", "trigger"), [*product(LeaseState, LeaseTrigger)])
def test_only_what_the_table_has_can_happen_to_a_lease(state: LeaseState, trigger: LeaseTrigger) -> None:
    lease = make_lease(state)
    if (state, trigger) in LEASE_STATES.transitions:
        transition_lease(lease, trigger)
        assert lease.state is LEASE_STATES.transitions[state, trigger]
    else:
        with pytest.raises(InvariantBroken, match=r"lease j\.1 is .* is not allowed in this state"):
            transition_lease(lease, trigger)
        assert lease.state is state


@pytest.mark.parametrize(("standing", "trigger"), [*product(WorkerStanding, WorkerTrigger)])
def test_only_what_the_table_has_can_happen_to_a_worker(
    standing: WorkerStanding, trigger: WorkerTrigger
) -> None:
    worker = make_worker(standing)
    if (standing, trigger) in WORKER_STATES.transitions:
        transition_worker(worker, trigger)
        assert worker.standing is WORKER_STATES.transitions[standing, trigger]
    else:
        with pytest.raises(InvariantBroken, match=r"worker w is .* is not allowed in this state"):
            transition_worker(worker, trigger)
        assert worker.standing is standing


def test_a_job_ends_once() -> None:
    ended = {JobStatus.ACCEPTED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.WITHDRAWN}
    assert ended == FINAL
    after = {target for (status, _), target in JOB_STATES.transitions.items() if status in ended}
    assert after - ended == {JobStatus.QUEUED}  # it is run again, and ends again


def test_a_verdict_changes_once() -> None:
    job = make_job(JobStatus.ACCEPTED)
    transition_job(job, JobTrigger.RESULT_CORRECTED, at=7.0)
    with pytest.raises(InvariantBroken, match="the verdict on job j changes twice"):
        transition_job(job, JobTrigger.RESULT_WITHDRAWN, at=8.0)


def test_only_a_reference_run_changes_a_verdict_and_only_to_rejected() -> None:
    verdicts = (LeaseState.ACCEPTED, LeaseState.REJECTED)
    after = {key: target for key, target in LEASE_STATES.transitions.items() if key[0] in verdicts}
    assert after == dict.fromkeys(product(verdicts, [LeaseTrigger.CONTRADICTED]), LeaseState.REJECTED)


def test_an_expelled_worker_never_returns() -> None:
    assert frozenset({WorkerStanding.EXPELLED}) == WORKER_STATES.final


@every_table
def test_every_state_can_be_reached(case: Case) -> None:
    states = type(case.initial)
    reached = {case.initial}
    for _ in states:
        reached |= {target for (state, _), target in case.table.transitions.items() if state in reached}
    assert reached == set(states)


@every_table
def test_every_trigger_is_used(case: Case) -> None:
    assert {trigger for _, trigger in case.table.transitions} == set(case.triggers)


@every_table
def test_the_documented_diagram_is_the_table(case: Case) -> None:
    assert f"[*] --> {case.initial.value}\n" in case.table.mermaid()
    assert f"```mermaid\n{case.table.mermaid()}```\n" in DOCS.read_text()
