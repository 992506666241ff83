"""How records look from outside: the structs that REST and streams show, beside those of the dashboard."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tradepost.bounded import Count
from tradepost.protocol import INLINE_BYTES_MAX, JobView
from tradepost_broker.market.model.entities import Job
from tradepost_broker.storage.shell_records import Delivery
from tradepost_reputation.dashboard import EvidenceView, LeaseView


def job_view(job: Job, delivery_of: Callable[[str], Delivery | None]) -> JobView:
    """A job as its submitter sees it, with the receipts of the leases that agreed on its outcome."""
    deliveries = [one for one in map(delivery_of, job.accepted) if one is not None]
    output = deliveries[0].output if deliveries else None
    is_inline = output is not None and len(output) <= INLINE_BYTES_MAX
    return JobView(
        job=job.id,
        status=job.status,
        pipeline=job.pipeline,
        submitted_at=job.submitted_at,
        finished_at=job.finished_at,
        price_microcredits=job.paid_microcredits,
        output=output if is_inline else None,
        output_cid=deliveries[0].output_cid or None if deliveries and not is_inline else None,
        receipts=tuple(one.receipt for one in deliveries),
        verification=job.verification,
        problem=job.problem,
        in_doubt_until=job.in_doubt_until,
        verdict_changed_at=job.verdict_changed_at,
    )


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """A view. Money is in microcredits, times are Unix seconds."""


class BrokerInfo(_View, frozen=True, kw_only=True):
    """GET /v1/info: the broker's identity and its limits."""

    broker: str
    public_key: bytes
    version: str
    protocol: int
    inline_bytes_max: Count
    block_bytes_max: Count
    message_bytes_max: Count
    document_bytes_max: Count
    upload_bytes_max: Count


class PipelineSummary(_View, frozen=True, kw_only=True):
    """A published pipeline in a list. `publishers` are all who signed it, and `publisher` is the first."""

    pipeline: str
    name: str
    publisher: str
    publishers: tuple[str, ...]
    work_units_base: int


class ImportedCar(_View, frozen=True, kw_only=True):
    """POST /v1/blocks: the content of the CAR, repeated blocks included."""

    roots: tuple[str, ...]
    blocks: Count
    bytes: Count


class Explanation(_View, frozen=True, kw_only=True):
    """GET /v1/jobs/{job}/explanation: why each worker got its lease, the evidence found, how it ended.

    `preference` has the weights that the job gave to the auction's rule; it is empty for a job without any.
    """

    job: str
    status: str
    leases: tuple[LeaseView, ...]
    evidence: tuple[EvidenceView, ...]
    problem: str
    preference: str = ""
