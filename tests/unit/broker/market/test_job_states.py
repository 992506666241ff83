"""The transition table, exhaustively, and the diagram that is drawn from it."""

from itertools import product
from pathlib import Path

import pytest

from tradepost.errors import InvariantBroken
from tradepost.protocol import JobStatus, Requirements
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.job_states import FINAL, TRANSITIONS, Trigger, mermaid, transition

DOCS = Path(__file__).parents[4] / "docs" / "job-states.md"


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
        max_price=1,
        confidence=0.9,
        requirements=Requirements(),
        submitted_at=0.0,
        deadline_at=1.0,
        patience_s=1.0,
        status=status,
    )


@pytest.mark.parametrize(("status", "trigger"), [*product(JobStatus, Trigger)])
def test_only_what_the_table_has_can_happen(status: JobStatus, trigger: Trigger) -> None:
    job = make_job(status)
    if (status, trigger) in TRANSITIONS:
        transition(job, trigger, at=7.0)
        assert job.status is TRANSITIONS[status, trigger]
        assert (job.finished_at == 7.0) == (job.status in FINAL)
    else:
        with pytest.raises(InvariantBroken, match="cannot happen"):
            transition(job, trigger, at=7.0)
        assert job.status is status
        assert job.finished_at is None


def test_a_job_ends_once() -> None:
    assert frozenset({JobStatus.ACCEPTED, JobStatus.FAILED, JobStatus.CANCELLED}) == FINAL


def test_every_status_can_be_reached_from_queued() -> None:
    reached = {JobStatus.QUEUED}
    for _ in JobStatus:
        reached |= {target for (status, _), target in TRANSITIONS.items() if status in reached}
    assert reached == set(JobStatus)


def test_the_documented_diagram_is_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```\n" in DOCS.read_text()


def test_nothing_else_writes_a_status() -> None:
    broker = Path(__file__).parents[4] / "broker" / "tradepost_broker"
    writers = [path.name for path in broker.rglob("*.py") if "job.status = " in path.read_text()]
    assert writers == ["job_states.py"]
