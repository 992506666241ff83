"""All checks of a submission that need bytes, content or the catalog.

What the market can decide (credits, prices, who could run it) is left to it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from tradepost.content import add_bytes
from tradepost.errors import InvalidRequest, TradepostError
from tradepost.pipeline.tensors import decode
from tradepost.protocol import INLINE_BYTES_MAX, JobRequest, too_large_inline
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Decision, Moment, Outcome
from tradepost_broker.jobs.open_jobs import OpenJobs
from tradepost_broker.market import Market
from tradepost_broker.market.model.events import Instruction, JobSubmitted, ReplySubmitted
from tradepost_broker.storage.disk_space import DiskSpace
from tradepost_broker.storage.shell_records import InlineInput, ShellRecord, Upload

_RANDOM_BYTES: Final = 10
_encode: Final = msgspec.msgpack.Encoder().encode


class JobSubmission:
    """Work that submits a checked request, as the fresh id `job`."""

    def __init__(
        self,
        *,
        checks: SubmissionChecks,
        job: str,
        account: str,
        request: JobRequest,
        input_cid: str,
        input_bytes: int,
        blocks: Mapping[str, int],
    ) -> None:
        self._checks = checks
        self.job = job
        self._account = account
        self._request = request
        self._input = input_cid
        self._input_bytes = input_bytes
        self._blocks = blocks

    def decide(self, moment: Moment) -> Decision:
        """The request, as the market sees it, and the input of a new job.

        Raises `QuotaExceeded` or `DiskFull`.
        """
        request = self._request
        self._checks.check_new(self._account, request.idempotency_key)
        submitted = JobSubmitted(
            at=moment.at,
            job=self.job,
            account=self._account,
            idempotency_key=request.idempotency_key,
            request_hash=request_hash(request, self._input),
            pipeline=request.pipeline,
            input=self._input,
            input_bytes=self._input_bytes,
            max_price_microcredits=request.max_price_microcredits,
            confidence=request.confidence,
            deadline_s=request.deadline_s,
            patience_s=request.patience_s,
            requirements=request.requirements,
            seed=moment.seed,
        )
        return Decision(event=submitted, records_after=partial(self._input_records, moment.at))

    def _input_records(self, at: float, instructions: Sequence[Instruction]) -> Sequence[ShellRecord]:
        """The document, or its blocks as used just now. A repeated request has left its own before."""
        if job_of(instructions) != self.job:
            return ()
        if self._request.input is not None:
            return (InlineInput(id=self.job, document=self._request.input),)
        holder = f"account:{self._account}"
        return [
            Upload(id=Upload.key(holder, cid), holder=holder, cid=cid, size_bytes=size, at=at)
            for cid, size in self._blocks.items()
        ]


class SubmissionChecks:
    """Checks requests."""

    def __init__(
        self,
        *,
        market: Market,
        catalog: Catalog,
        uploads: Uploads,
        open_jobs: OpenJobs,
        space: DiskSpace,
        clock: Callable[[], float],
    ) -> None:
        self._open_jobs = open_jobs
        self._space = space
        self._market = market
        self._catalog = catalog
        self._uploads = uploads
        self._clock = clock

    def check_inline(self, account: str, request: JobRequest) -> JobSubmission:
        """The work that submits a request with an inline input.

        Raises `UnknownPipeline`, `InlineInputTooLarge`, `InvalidTensorDocument` or `InvalidInput`.
        """
        document = request.input
        if document is None or request.input_cid is not None:
            raise InvalidRequest("give exactly one of input and input_cid")
        manifest = self._catalog.manifest(request.pipeline)
        if len(document) > INLINE_BYTES_MAX:
            raise too_large_inline()
        manifest.check_input(decode(document), document_bytes=len(document))
        return self._submission(account, request, add_bytes(document, put=None), len(document), {})

    async def check(self, account: str, request: JobRequest) -> JobSubmission:
        """As `check_inline`, for inputs by CID as well. Raises `UnknownCid` besides."""
        if request.input_cid is None:
            return self.check_inline(account, request)
        if request.input is not None:
            raise InvalidRequest("give exactly one of input and input_cid")
        manifest = self._catalog.manifest(request.pipeline)
        limit = manifest.limits.input_bytes
        holder = f"account:{account}"
        blocks = await self._uploads.tree(holder, request.input_cid)
        data = await self._uploads.read_file(holder, request.input_cid, bytes_max=limit)
        document = await asyncio.to_thread(decode, data)
        manifest.check_input(document, document_bytes=len(data))
        return self._submission(account, request, request.input_cid, len(data), blocks)

    def check_new(self, account: str, idempotency_key: str) -> None:
        """Raise `QuotaExceeded` for a new job too many, `DiskFull` for any. A repeated request opens none."""
        if not self._market.knows_key(account, idempotency_key):
            self._open_jobs.check(account)
            self._space.require_for_new_work()

    def _submission(
        self, account: str, request: JobRequest, cid: str, size_bytes: int, blocks: Mapping[str, int]
    ) -> JobSubmission:
        return JobSubmission(
            checks=self,
            job=new_job_id(self._clock()),
            account=account,
            request=request,
            input_cid=cid,
            input_bytes=size_bytes,
            blocks=blocks,
        )


def job_of(outcome: Outcome) -> str:
    """The id of the job that a submission's outcome names: its own, or the one with the same key."""
    if not isinstance(outcome, TradepostError):
        for instruction in outcome:
            if isinstance(instruction, ReplySubmitted):
                return instruction.job
    return ""


def new_job_id(now: float) -> str:
    """A fresh id of 26 characters that sorts by time, and cannot be guessed: 48 bits of ms, 80 random."""
    raw = int(now * 1000).to_bytes(6, "big") + secrets.token_bytes(_RANDOM_BYTES)
    return base64.b32hexencode(raw).decode().rstrip("=").lower()


def request_hash(request: JobRequest, input_cid: str) -> str:
    """What tells two requests with one idempotency key apart; how the input was sent does not."""
    bare = msgspec.structs.replace(request, input=None, input_cid=input_cid, idempotency_key="-")
    return hashlib.sha256(_encode(bare)).hexdigest()
