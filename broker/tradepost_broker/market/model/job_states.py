"""Where a job may go: one table. Nothing else in Tradepost writes `job.status`.

A job is QUEUED while no lease of it is alive (open, or delivered without a verdict), RUNNING while one is,
and ends exactly once. What is not in the table cannot happen. `docs/job-states.md` is drawn from the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tradepost.errors import InvariantBroken
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Job


class Trigger(StrEnum):
    """What moves a job."""

    LEASE_GRANTED = "lease granted"
    LEASES_LOST = "last live lease lost"
    RESULT_ACCEPTED = "result accepted"
    FAILURE_ACCEPTED = "stage failure accepted"
    GIVEN_UP = "given up"
    CANCELLED = "cancelled by submitter"


TRANSITIONS: Final[Mapping[tuple[JobStatus, Trigger], JobStatus]] = MappingProxyType(
    {
        (JobStatus.QUEUED, Trigger.LEASE_GRANTED): JobStatus.RUNNING,
        (JobStatus.QUEUED, Trigger.GIVEN_UP): JobStatus.FAILED,
        (JobStatus.QUEUED, Trigger.CANCELLED): JobStatus.CANCELLED,
        (JobStatus.RUNNING, Trigger.LEASE_GRANTED): JobStatus.RUNNING,
        (JobStatus.RUNNING, Trigger.LEASES_LOST): JobStatus.QUEUED,
        (JobStatus.RUNNING, Trigger.RESULT_ACCEPTED): JobStatus.ACCEPTED,
        (JobStatus.RUNNING, Trigger.FAILURE_ACCEPTED): JobStatus.FAILED,
        (JobStatus.RUNNING, Trigger.GIVEN_UP): JobStatus.FAILED,
        (JobStatus.RUNNING, Trigger.CANCELLED): JobStatus.CANCELLED,
    }
)

#: The states that no trigger leaves.
FINAL: Final = frozenset(JobStatus) - {status for status, _ in TRANSITIONS}


def transition(job: Job, trigger: Trigger, *, at: float) -> None:
    """Move `job`, and note when it finished. Raises `InvariantBroken` for what the table does not have."""
    target = TRANSITIONS.get((job.status, trigger))
    if target is None:
        raise InvariantBroken(f"job {job.id} is {job.status.value}; {trigger.value!r} cannot happen to it")
    job.status = target
    if target in FINAL:
        job.finished_at = at


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {JobStatus.QUEUED.value}"]
    for (status, trigger), target in TRANSITIONS.items():
        lines.append(f"    {status.value} --> {target.value}: {trigger.value}")
    lines += [f"    {status.value} --> [*]" for status in JobStatus if status in FINAL]
    return "\n".join(lines) + "\n"
