"""The states of a job. No other module writes `job.status`.

A job is QUEUED while no lease of it is alive (open, or delivered without a verdict), RUNNING while one is,
and ends exactly once. The verdict on one that has ended changes at most once, if its result is found wrong:
it gets another one, is withdrawn, or is queued again and ends once more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tradepost.errors import StateBroken, invariant
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.transition_table import TransitionTable


class JobTrigger(StrEnum):
    """What moves a job."""

    LEASE_GRANTED = "lease granted"
    LEASES_LOST = "last live lease lost"
    RESULT_ACCEPTED = "result accepted"
    FAILURE_ACCEPTED = "stage failure accepted"
    GIVEN_UP = "given up"
    CANCELLED = "cancelled by submitter"
    RESULT_CORRECTED = "result corrected"
    FAILURE_CORRECTED = "corrected to a stage failure"
    RESULT_WITHDRAWN = "result withdrawn"
    REDONE = "result withdrawn, to be redone"


JOB_STATES: Final = TransitionTable(
    "job",
    initial=JobStatus.QUEUED,
    transitions={
        (JobStatus.QUEUED, JobTrigger.LEASE_GRANTED): JobStatus.RUNNING,
        (JobStatus.QUEUED, JobTrigger.GIVEN_UP): JobStatus.FAILED,
        (JobStatus.QUEUED, JobTrigger.CANCELLED): JobStatus.CANCELLED,
        (JobStatus.RUNNING, JobTrigger.LEASE_GRANTED): JobStatus.RUNNING,
        (JobStatus.RUNNING, JobTrigger.LEASES_LOST): JobStatus.QUEUED,
        (JobStatus.RUNNING, JobTrigger.RESULT_ACCEPTED): JobStatus.ACCEPTED,
        (JobStatus.RUNNING, JobTrigger.FAILURE_ACCEPTED): JobStatus.FAILED,
        (JobStatus.RUNNING, JobTrigger.GIVEN_UP): JobStatus.FAILED,
        (JobStatus.RUNNING, JobTrigger.CANCELLED): JobStatus.CANCELLED,
        # What was accepted is found wrong.
        (JobStatus.ACCEPTED, JobTrigger.RESULT_CORRECTED): JobStatus.ACCEPTED,
        (JobStatus.ACCEPTED, JobTrigger.FAILURE_CORRECTED): JobStatus.FAILED,
        (JobStatus.ACCEPTED, JobTrigger.RESULT_WITHDRAWN): JobStatus.WITHDRAWN,
        (JobStatus.ACCEPTED, JobTrigger.REDONE): JobStatus.QUEUED,
        (JobStatus.FAILED, JobTrigger.RESULT_CORRECTED): JobStatus.ACCEPTED,
        (JobStatus.FAILED, JobTrigger.FAILURE_CORRECTED): JobStatus.FAILED,
        (JobStatus.FAILED, JobTrigger.RESULT_WITHDRAWN): JobStatus.WITHDRAWN,
        (JobStatus.FAILED, JobTrigger.REDONE): JobStatus.QUEUED,
    },
    final={JobStatus.ACCEPTED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.WITHDRAWN},
)

#: The states of jobs that have ended.
FINAL: Final = JOB_STATES.final


def transition_job(job: Job, trigger: JobTrigger, *, at: float) -> None:
    """Move `job`, and note when it finished, or when its verdict changed.

    Raises `StateBroken` for what the table does not have.
    """
    had_ended = job.status in FINAL
    job.status = JOB_STATES.target(job.id, job.status, trigger)
    if had_ended:
        invariant(job.verdict_changed_at is None, f"the verdict on job {job.id} changes twice", StateBroken)
        job.verdict_changed_at = at
        if job.status not in FINAL:
            job.finished_at = None
    elif job.status in FINAL:
        job.finished_at = at
