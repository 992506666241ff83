"""The jobs of a fake broker, without any I/O: what they ask for, how they end, and what changes later.

A job's result is computed as soon as it is submitted. Until the broker ends the job, it shows as running.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from tradepost.content import add_bytes
from tradepost.errors import IdempotencyConflict, JobCancelled, ResultWithdrawn, TradepostError, UnknownJob
from tradepost.identity import Identity
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.protocol import INLINE_BYTES_MAX, JobEntry, JobRequest, JobStatus, JobView, Verification
from tradepost.receipts import Receipt, Returned, sign_receipt
from tradepost.testing.fake_log import FakeLog

PRICE_MICROCREDITS = 1000

_LEASE_S = 60


class FakeJobs:
    """The jobs of one account, all run by one pretended worker, whose receipts are in `log` at once."""

    def __init__(self, compute: Callable[[TensorDocument], TensorDocument]) -> None:
        """A `TradepostError` that `compute` raises is how the job fails."""
        self._compute = compute
        self._worker = Identity.generate()
        self.log = FakeLog(Identity.generate())
        #: What was submitted, in order.
        self.requests: list[JobRequest] = []
        #: Jobs by idempotency key.
        self.by_key: dict[str, str] = {}
        #: By job: its request with the input's CID, how it ends, and its output.
        self.keyed: dict[str, JobRequest] = {}
        self.views: dict[str, JobView] = {}
        self.outputs: dict[str, bytes] = {}
        self.ended: set[str] = set()
        #: Jobs whose verdict changed after they had ended, as they stood then.
        self.changed: dict[str, JobView] = {}

    def submit(self, request: JobRequest, data: bytes) -> str:
        """The job of this request, whose input is `data`: the earlier one if the key was used before.

        Raises `IdempotencyConflict` if that one was of another request.
        """
        input_cid = request.input_cid or add_bytes(data, put=None)
        keyed = msgspec.structs.replace(request, input=None, input_cid=input_cid)
        job = self.by_key.get(request.idempotency_key)
        if job is None:
            job = self.by_key[request.idempotency_key] = f"job-{len(self.by_key)}"
            self.keyed[job] = keyed
            self.requests.append(request)
            self.views[job] = self._answer(job, request.pipeline, input_cid, data, request)
        elif self.keyed[job] != keyed:
            raise IdempotencyConflict(f"the key names job {job}", job=job)
        return job

    def end(self, job: str) -> JobView:
        """How the job ends, which it then has."""
        self.ended.add(job)
        return self.views[job]

    def cancel(self, job: str, *, price_microcredits: int) -> bool:
        """Have the job end cancelled, at this price. False if it is unknown or has ended."""
        view = self.views.get(job)
        if view is None or job in self.ended:
            return False
        self.views[job] = JobView(
            job=job,
            status=JobStatus.CANCELLED,
            pipeline=view.pipeline,
            submitted_at=view.submitted_at,
            finished_at=time.time(),
            price_microcredits=price_microcredits,
            problem=JobCancelled().to_problem(),
            verdict_changed_at=view.verdict_changed_at,
        )
        return True

    # After a job's end

    def withdraw(self, job: str) -> JobView:
        """The job without its result, which was found wrong."""
        old = self.views[job]
        return self._change(
            JobView(
                job=job,
                status=JobStatus.WITHDRAWN,
                pipeline=old.pipeline,
                submitted_at=old.submitted_at,
                finished_at=old.finished_at,
                problem=ResultWithdrawn(f"job {job}").to_problem(),
                verdict_changed_at=time.time(),
            )
        )

    def correct(self, job: str, output: TensorDocument) -> JobView:
        """The job with another result instead of its first one, which was found wrong."""
        return self._change(self._give_again(job, output))

    def redo(self, job: str, output: TensorDocument) -> JobView:
        """The job as it is run again, since its result was found wrong; it will end with this output."""
        self.ended.discard(job)
        return self._change(self._give_again(job, output))

    def changed_since(self, since: float | None) -> list[JobView]:
        """Jobs whose verdict changed at `since` (Unix seconds) or later; none without a time."""
        if since is None:
            return []
        return [view for view in self.changed.values() if (view.verdict_changed_at or 0.0) >= since]

    def _change(self, view: JobView) -> JobView:
        self.views[view.job] = view
        self.changed[view.job] = self.stands(view.job)
        return self.changed[view.job]

    def _give_again(self, job: str, output: TensorDocument) -> JobView:
        request, old = self.keyed[job], self.views[job]
        view = self._give(job, request.pipeline, str(request.input_cid), encode(output))
        return msgspec.structs.replace(
            view,
            submitted_at=old.submitted_at,
            finished_at=old.finished_at,
            verdict_changed_at=time.time(),
        )

    # What is shown

    def find(self, job: str) -> JobView:
        """The job as it stands. Raises `UnknownJob`."""
        if job not in self.views:
            raise unknown_job(job)
        return self.stands(job)

    def stands(self, job: str) -> JobView:
        """A job as it stands: one that has not ended shows less."""
        view = self.views[job]
        if job in self.ended:
            return view
        return JobView(
            job=job,
            status=JobStatus.RUNNING,
            pipeline=view.pipeline,
            submitted_at=view.submitted_at,
            verdict_changed_at=view.verdict_changed_at,
        )

    def newest(self, *, before: str | None, is_changed: bool) -> list[str]:
        """The jobs, newest first: older than `before`, and only those with a changed verdict if asked.

        Raises `UnknownJob`.
        """
        newest = list(reversed(self.views))
        if before is not None:
            if before not in self.views:
                raise UnknownJob(f"before is {before[:80]!r}, which is no job of account fake")
            newest = newest[newest.index(before) + 1 :]
        return [job for job in newest if job in self.changed] if is_changed else newest

    def entry(self, job: str) -> JobEntry:
        """A job in a list."""
        view = self.stands(job)
        return JobEntry(
            job=job,
            status=view.status,
            pipeline=view.pipeline,
            input_cid=str(self.keyed[job].input_cid),
            submitted_at=view.submitted_at,
            finished_at=view.finished_at,
            price_microcredits=view.price_microcredits,
            verdict_changed_at=view.verdict_changed_at,
        )

    # Results

    def _answer(self, job: str, pipeline: str, input_cid: str, data: bytes, request: JobRequest) -> JobView:
        now = time.time()
        try:
            output = encode(self._compute(decode(data)))
        except TradepostError as error:
            return JobView(
                job=job,
                status=JobStatus.FAILED,
                pipeline=pipeline,
                submitted_at=now,
                finished_at=now,
                problem=error.to_problem(),
            )
        view = self._give(job, pipeline, input_cid, output)
        price_microcredits = min(PRICE_MICROCREDITS, request.max_price_microcredits)
        return msgspec.structs.replace(view, price_microcredits=price_microcredits)

    def _give(self, job: str, pipeline: str, input_cid: str, output: bytes) -> JobView:
        """A job that is accepted with this output, for nothing."""
        now = time.time()
        self.outputs[job] = output
        output_cid = add_bytes(output, put=None)
        is_inline = len(output) <= INLINE_BYTES_MAX
        receipt = Receipt(
            broker=self.log.broker.id,
            job=job,
            lease=f"{job}.1",
            attempt=1,
            worker=self._worker.id,
            pipeline=pipeline,
            input=input_cid,
            outcome=Returned(output=output_cid, output_bytes=len(output)),
            stages=(),
            engines={},
            nonce=bytes(16),
            expires_at=int(now) + _LEASE_S,
        )
        signed = sign_receipt(receipt, self._worker)
        self.log.add(receipt.lease, signed)
        return JobView(
            job=job,
            status=JobStatus.ACCEPTED,
            pipeline=pipeline,
            submitted_at=now,
            finished_at=now,
            output=output if is_inline else None,
            output_cid=None if is_inline else output_cid,
            receipts=(signed,),
            verification=Verification(credibility=1.0, agreed=(self._worker.id,)),
        )


def unknown_job(job: str) -> UnknownJob:
    """The error for a job that is not there."""
    return UnknownJob(f"account fake has no job {job}", job=job)
