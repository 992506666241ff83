"""Records as a database has them: a pipeline, a worker, and jobs on the one with leases of the other."""

from __future__ import annotations

from typing import Final

from tradepost.protocol import JobStatus, Requirements
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, LeaseState, Pipeline, Worker

WORKER: Final = Worker(id="w", owner="bob", device="d", public_key=b"key", joined_at=1.0)


def pipeline(id_: str = "p") -> Pipeline:
    return Pipeline(
        id=id_,
        name="sample",
        publisher="someone",
        providers=("cpu",),
        memory_bytes=1,
        artifact_bytes=2,
        wall_s=3.0,
        work_units_base=1,
        work_units_per_mebibyte=0,
        kernel_stages=("scale",),
    )


def job(id_: str, *, finished_at: float | None = None) -> Job:
    return Job(
        id=id_,
        account="alice",
        idempotency_key=id_,
        request_hash="h",
        pipeline="p",
        input="cid",
        input_bytes=10,
        units=1,
        max_price_microcredits=100,
        confidence=0.9,
        requirements=Requirements(memory_bytes=5, isolation=("seccomp",)),
        submitted_at=1.0,
        deadline_at=2.0,
        patience_s=0.5,
        status=JobStatus.QUEUED if finished_at is None else JobStatus.ACCEPTED,
        finished_at=finished_at,
    )


def lease(id_: str, of: str, *, matures_at: float | None = None) -> Lease:
    return Lease(
        id=id_,
        job=of,
        worker="w",
        attempt=1,
        purpose=LeasePurpose.AUCTION,
        price_microcredits=7,
        nonce=b"n" * 16,
        granted_at=1.0,
        expires_at=2.0,
        state=LeaseState.ACCEPTED,
        matures_at=matures_at,
    )
