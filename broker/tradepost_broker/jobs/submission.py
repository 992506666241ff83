"""All checks of a submission that need bytes, content or the catalog.

What the market can decide (credits, prices, who could run it) is left to it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tradepost.content import add_bytes
from tradepost.content.storage.store import DISK_IS_FULL
from tradepost.errors import DiskFull, InvalidRequest, TradepostError
from tradepost.pipeline.manifest import Manifest
from tradepost.pipeline.tensors import decode
from tradepost.protocol import INLINE_BYTES_MAX, JobRequest, OnWrong, too_large_inline
from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.content.turns import Turns
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Decision, Moment, Outcome
from tradepost_broker.jobs.open_jobs import OpenJobs
from tradepost_broker.jobs.stored_documents import StoredDocuments
from tradepost_broker.market import Market
from tradepost_broker.market.model.events import Instruction, JobSubmitted, ReplySubmitted
from tradepost_broker.storage.disk_space import DiskSpace
from tradepost_broker.storage.shell_records import InlineInput, ShellRecord

_RANDOM_BYTES: Final = 10
#: Uploaded inputs that are read and checked at once.
_READ_AT_ONCE: Final = 2
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
    ) -> None:
        self._checks = checks
        self.job = job
        self._account = account
        self._request = request
        self._input = input_cid
        self._input_bytes = input_bytes

    def decide(self, moment: Moment) -> Decision:
        """The request, as the market sees it, and the input of a new job.

        Raises `QuotaExceeded` or `DiskFull`.
        """
        request = self._request
        kept_bytes = 0 if request.input is None else len(request.input)
        self._checks.check_new(self._account, request.idempotency_key, kept_bytes=kept_bytes)
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
            on_wrong=request.on_wrong,
            preference=request.preference,
            seed=moment.seed,
        )
        return Decision(event=submitted, records_after=self._input_records)

    def _input_records(self, instructions: Sequence[Instruction]) -> Sequence[ShellRecord]:
        """The document, if it came with the request. A repeated request has left its own before."""
        if self._request.input is None or job_of(instructions) != self.job:
            return ()
        self._checks.quota.count(self._account, len(self._request.input))
        return (InlineInput(id=self.job, document=self._request.input),)


class SubmissionChecks:
    """Checks requests."""

    def __init__(
        self,
        *,
        market: Market,
        catalog: Catalog,
        uploads: Uploads,
        documents: StoredDocuments,
        open_jobs: OpenJobs,
        quota: AccountQuota,
        space: DiskSpace,
        clock: Callable[[], float],
    ) -> None:
        self._documents = documents
        self._turns = Turns(_READ_AT_ONCE)
        self.quota = quota
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
        return self._submission(account, request, add_bytes(document, put=None), len(document))

    async def check(self, account: str, request: JobRequest) -> JobSubmission:
        """As `check_inline`, for inputs by CID as well.

        Raises `UnknownCid`, `ContentTooLarge`, `ContentMismatch` or `DiskFull` besides.
        """
        if request.input_cid is None:
            return self.check_inline(account, request)
        if request.input is not None:
            raise InvalidRequest("give exactly one of input and input_cid")
        manifest = self._catalog.manifest(request.pipeline)
        holder = f"account:{account}"
        async with self._turns.of(account):
            await self._uploads.tree(holder, request.input_cid, bytes_max=manifest.limits.input_bytes)
            input_bytes = await asyncio.to_thread(self._check_stored, manifest, request.input_cid)
            await self._uploads.note_use(holder, request.input_cid, at=self._clock())
        return self._submission(account, request, request.input_cid, input_bytes)

    def _check_stored(self, manifest: Manifest, cid: str) -> int:
        """Check an uploaded input, part by part; its size in bytes. It waits for the disk."""
        input_bytes = 0

        def copy(write: Callable[[bytes], object]) -> None:
            nonlocal input_bytes
            input_bytes = self._uploads.copy_file(cid, write, bytes_max=manifest.limits.input_bytes)

        try:
            with self._documents.mapped(copy) as document:
                manifest.check_input(document, document_bytes=input_bytes)
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise
            raise DiskFull(f"there is no room to check the input: {error.strerror}") from None
        return input_bytes

    def check_new(self, account: str, idempotency_key: str, *, kept_bytes: int) -> None:
        """Raise `QuotaExceeded` for a new job too many, or one whose input of `kept_bytes` does not fit into
        the quota; `DiskFull` for any. A repeated request opens none.
        """
        if not self._market.knows_key(account, idempotency_key):
            self._open_jobs.check(account)
            self.quota.require(account, kept_bytes)
            self._space.require_for_new_work()

    def _submission(self, account: str, request: JobRequest, cid: str, size_bytes: int) -> JobSubmission:
        return JobSubmission(
            checks=self,
            job=new_job_id(self._clock()),
            account=account,
            request=request,
            input_cid=cid,
            input_bytes=size_bytes,
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
    facts = msgspec.structs.asdict(bare)
    if request.on_wrong is OnWrong.REDO:
        del facts["on_wrong"]  # jobs that are older than this field have hashes without it
    if request.preference is msgspec.UNSET:
        del facts["preference"]
    return hashlib.sha256(_encode(facts)).hexdigest()
