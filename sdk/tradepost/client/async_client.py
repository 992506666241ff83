"""The SDK for asyncio: submit inference jobs and await verified results. `Client` is the same for threads."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp

from tradepost.audit_log.proofs import LogProof
from tradepost.broker_url import parse_api_key, parse_broker_url
from tradepost.client.arguments import (
    checkpoint_size,
    job_id,
    optional_bool,
    pipeline_cid,
    real_number,
    whole_number,
)
from tradepost.client.arguments import input_cid as checked_input_cid
from tradepost.client.async_job import AsyncJobHandle
from tradepost.client.estimates import Estimate, estimate_of, estimate_request
from tradepost.client.inputs import Inputs, check_many
from tradepost.client.job_request import (
    PreparedJob,
    blocks_of,
    check_options,
    prepare_job,
)
from tradepost.client.job_stream import JobStream
from tradepost.client.not_copied import NotCopied
from tradepost.client.requests import BrokerRequests
from tradepost.client.results import Result
from tradepost.client.retries import ANSWER_S_MIN
from tradepost.content import Cid
from tradepost.errors import ClientClosed, InvalidCall, InvalidSettings
from tradepost.money import Credits, to_credits
from tradepost.protocol import (
    AccountView,
    EstimateRequest,
    EstimateView,
    JobList,
    JobView,
    OnWrong,
    PipelineView,
    Preference,
    QuarantineView,
    Requirements,
)
from tradepost.protocol.job_bounds import CONFIDENCE, DEADLINE_S, JOBS_SHOWN_MAX, PATIENCE_S
from tradepost.proxies import proxy_for
from tradepost.short_repr import shown

DEFAULT_URL: Final = "http://127.0.0.1:8700"
#: How many jobs `map` keeps submitted and unfinished.
MAP_WINDOW: Final = 512
MAP_WINDOW_MAX: Final = 100_000
#: A read of an input that takes as long as this is waited for no further before the input is submitted.
_SLOW_READ_S: Final = 0.005
#: How many jobs `jobs` lists unless told otherwise.
LIST_JOBS: Final = 100

#: How long a proof waits for the next checkpoint. Brokers publish one every few seconds.
_CHECKPOINT_WAIT_S_MAX: Final = 60.0

T = TypeVar("T")


class AsyncClient(NotCopied):
    """A connection to one broker, for one account. Use it in the event loop and process that opened it.

    `url` and `api_key` default to `TRADEPOST_URL` and `TRADEPOST_API_KEY`. Every call is repeated while the
    broker cannot be reached; after `give_up_s` without an answer it raises `BrokerUnavailable`.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, give_up_s: float = 30.0
    ) -> None:
        self.url = parse_broker_url(_setting("url", url, "TRADEPOST_URL") or DEFAULT_URL)
        key = parse_api_key(_setting("api_key", api_key, "TRADEPOST_API_KEY"))
        self._headers = {"Authorization": f"Bearer {key}"}
        self._give_up_s = real_number("give_up_s", give_up_s, 0, math.inf, error=InvalidSettings)
        self._open: _Open | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {str(self.url).rstrip('/')}, {'open' if self._open else 'closed'}>"

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise InvalidCall("the client is open already", hint="Make another client for another `with`.")
        self._open = _Open(self.url, self._headers, self._give_up_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._checked()
        try:
            await connection.close()
        finally:
            self._open = None

    def open_stream(self) -> JobStream:
        """The open stream. Raises `ClientClosed`, or `InvalidCall` in another process or event loop."""
        return self._checked().stream

    async def submit(
        self,
        pipeline: str,
        inputs: Inputs,
        *,
        max_price: Credits,
        confidence: float = CONFIDENCE,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
        requirements: Requirements | None = None,
        preference: Preference | str | None = None,
        idempotency_key: str | None = None,
        inline: bool | None = None,
        on_wrong: OnWrong | str = OnWrong.REDO,
    ) -> AsyncJobHandle:
        """Submit one job; when this returns, the broker has it durably.

        `max_price` is in credits and covers every replica. `confidence` is the least probability with which
        the result must be right. `preference` is "price", "latency", "locality", "load" or a `Preference`,
        and weighs who gives the first result. Inputs over 1 MiB are uploaded first, unless `inline` is True.
        If the result is found wrong after it was accepted, it is refunded, and `on_wrong` says what else:
        `"redo"`, it is replaced, or the job is run again; `"refund"`, the job is withdrawn. Raises what
        the broker refuses a job for: `UnknownPipeline`, `InvalidInput`, `InsufficientFunds`, …; and
        `InvalidCall` for an argument of the wrong kind. If the call is interrupted, the job is cancelled.
        """
        prepared = prepare_job(
            pipeline,
            inputs,
            max_price=max_price,
            confidence=confidence,
            deadline_s=deadline_s,
            patience_s=patience_s,
            requirements=requirements,
            preference=preference,
            idempotency_key=idempotency_key,
            inline=inline,
            on_wrong=on_wrong,
        )
        return await self.submit_prepared(prepared)

    async def submit_prepared(self, prepared: PreparedJob) -> AsyncJobHandle:
        """Submit what `prepare_job` made, perhaps in another thread."""
        stream = self.open_stream()
        if prepared.upload is not None:
            await self._put_blocks(prepared.upload)
        job, end = await stream.submit(prepared.request)
        return AsyncJobHandle(
            self, job=job, pipeline=prepared.request.pipeline, input_cid=prepared.input_cid, end=end
        )

    async def run_prepared(self, prepared: PreparedJob, submitted: asyncio.Event | None = None) -> Result:
        """The result of what `prepare_job` made; `submitted` is set when the broker has the job, or not.

        If this is cancelled, as it is when the client closes, so is the job.
        """
        with self._checked().until_closed():
            try:
                handle = await self.submit_prepared(prepared)
            finally:
                if submitted is not None:
                    submitted.set()
            try:
                return await handle.result()
            except asyncio.CancelledError:
                handle.cancel()
                raise

    async def estimate(
        self,
        pipeline: str,
        inputs: Inputs | int,
        *,
        max_price: Credits | None = None,
        confidence: float = CONFIDENCE,
        deadline_s: float = DEADLINE_S,
        requirements: Requirements | None = None,
    ) -> Estimate:
        """What such a job would cost by the offers that stand now, and how long it would take.

        `inputs` are those of `submit`, of which only the size is sent, or that size in bytes. Without
        `max_price`, the estimate is for any price. Nothing is submitted or reserved. Raises
        `UnknownPipeline`, `InvalidInput`, `PipelineQuarantined`, `Revoked`, `QuotaExceeded`, or
        `InvalidCall`.
        """
        request = estimate_request(
            pipeline,
            inputs,
            max_price=max_price,
            confidence=confidence,
            deadline_s=deadline_s,
            requirements=requirements,
        )
        return await self.estimate_prepared(request)

    async def estimate_prepared(self, request: EstimateRequest) -> Estimate:
        """The estimate that `estimate_request` asks for, perhaps in another thread."""
        view = await self._checked().requests.ask_for(EstimateView, "POST", "v1/estimate", body=request)
        return estimate_of(view)

    async def map(
        self,
        pipeline: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        window: int = MAP_WINDOW,
        **options: Any,
    ) -> AsyncIterator[Result]:
        """The results of many jobs, in the order of `inputs`, with at most `window` of them unfinished.

        `options` are those of `submit`. Each input is submitted as soon as it is read. The first job that
        fails raises here. Whenever the map ends before its last result, the unfinished jobs are cancelled.
        """
        check_options("AsyncClient.map", options)
        window = whole_number("window", window, 1, MAP_WINDOW_MAX)
        clock = asyncio.get_running_loop().time
        waiting: deque[asyncio.Task[Result]] = deque()
        try:
            read_at = clock()
            async for one in _one_by_one(inputs):
                is_slow = clock() - read_at >= _SLOW_READ_S
                submitted = asyncio.Event()
                prepared = prepare_job(pipeline, one, **options)
                task = asyncio.create_task(self.run_prepared(prepared, submitted))
                task.add_done_callback(_retrieve)
                waiting.append(task)
                if is_slow:
                    # The event loop may have stood still while this input was read, and may do so again.
                    await submitted.wait()
                while waiting and (waiting[0].done() or len(waiting) >= window):
                    yield await asyncio.shield(waiting[0])
                    waiting.popleft()
                read_at = clock()
            while waiting:
                # Shielded: if this map's caller is cancelled, the oldest job must not be the first to be.
                yield await asyncio.shield(waiting[0])
                waiting.popleft()
        finally:
            for task in reversed(waiting):  # a job that ends makes room for one that waits, which would begin
                task.cancel()

    async def attach(self, job: str, *, input_cid: str | None = None) -> AsyncJobHandle:
        """A job that was submitted before, perhaps by another program. Raises `UnknownJob`.

        With `input_cid`, its receipts must be about that input, or its result raises `OtherInput`; without,
        about the one that they name. Raises `InvalidCall` for what is not a CID.
        """
        claimed = None if input_cid is None else checked_input_cid(input_cid)
        view = await self.job(job)
        return AsyncJobHandle(
            self,
            job=view.job,
            pipeline=view.pipeline,
            input_cid=claimed,
            is_input_claimed=claimed is not None,
        )

    async def verdict_changes(self) -> AsyncIterator[JobView]:
        """The account's jobs whose results are found wrong after they had ended, as it happens.

        What is held of the price is refunded. The job has another result (`accepted`, or `failed` by a
        stage), is run again (`queued`), or is `withdrawn`. It begins with the first step, and goes on until
        it is closed, or raises `ClientClosed` or `BrokerUnavailable`. Then `jobs(changed=True)` lists what
        was missed.
        """
        feed = self.open_stream().verdict_feed()
        try:
            while True:
                yield await feed.next()
        finally:
            feed.close()

    async def jobs(
        self, *, limit: int = LIST_JOBS, before: str | None = None, changed: bool = False
    ) -> JobList:
        """The account's jobs, newest first, at most `limit` (1 to 1,000), older than the job `before`.

        With `changed`, only those whose results were found wrong after they had ended.
        """
        query = {"limit": str(whole_number("limit", limit, 1, JOBS_SHOWN_MAX))}
        if before is not None:
            query["before"] = job_id(before)
        if optional_bool("changed", changed):
            query["changed"] = "true"
        return await self._checked().requests.ask_for(JobList, "GET", "v1/jobs", query=query)

    async def job(self, job: str) -> JobView:
        """A job as it stands now. Raises `UnknownJob`."""
        return await self._checked().requests.ask_for(JobView, "GET", "v1/jobs/{}", job_id(job))

    async def cancel(self, job: str) -> JobView:
        """Cancel a job by id; the job as it stands then. Raises `UnknownJob`."""
        return await self._checked().requests.ask_for(JobView, "DELETE", "v1/jobs/{}", job_id(job))

    async def lift_quarantine(self, pipeline: str) -> QuarantineView:
        """Let the account's jobs on a pipeline be leased again, after they failed on everybody.

        The pipeline stays quarantined if it fails for other accounts too, until it is published again. Raises
        `UnknownPipeline`.
        """
        checked = pipeline_cid(pipeline)
        return await self._checked().requests.ask_for(QuarantineView, "DELETE", "v1/quarantines/{}", checked)

    async def proof(self, job: str, *, since: str | None = None) -> LogProof:
        """That the broker's audit log has the receipts of a job that has ended, for `verify_proof`.

        Waits up to a minute, or `give_up_s`, for the checkpoint that covers them. With `since`, a checkpoint
        that was kept (a signed note), the proof also shows that the log extends it. Raises `UnknownJob`,
        `NotInLog` if there are no receipts, or `InvalidKeptCheckpoint`.
        """
        # A broker that waited for longer than the client does would count as out of reach.
        wait_s = min(_CHECKPOINT_WAIT_S_MAX, max(0.0, self._give_up_s - ANSWER_S_MIN))
        query = {"wait_s": f"{wait_s:.3f}"}
        if since is not None:
            query["since"] = str(checkpoint_size(since))
        return await self._checked().requests.ask_for(
            LogProof, "GET", "v1/jobs/{}/proof", job_id(job), query=query
        )

    async def pipeline(self, cid: str) -> PipelineView:
        """A published pipeline: its manifest and signature. Raises `UnknownPipeline`."""
        checked = pipeline_cid(cid)
        return await self._checked().requests.ask_for(PipelineView, "GET", "v1/pipelines/{}", checked)

    async def balance(self) -> Decimal:
        """The account's available credits."""
        account = await self._checked().requests.ask_for(AccountView, "GET", "v1/account")
        return to_credits(account.available_microcredits)

    async def upload(self, data: bytes) -> Cid:
        """Put a file's blocks into the broker's store; the CID of the file. Raises `QuotaExceeded`."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidCall(f"the data is {shown(data)}; it must be bytes")
        return await self._put_blocks(bytes(data))

    async def fetch_output(self, job: str) -> bytes:
        """A finished job's output document, as bytes that nobody has checked yet."""
        return await self._checked().requests.ask("GET", "v1/jobs/{}/output", job_id(job))

    async def _put_blocks(self, data: bytes) -> Cid:
        requests = self._checked().requests
        blocks = blocks_of(data)
        for cid, block in blocks:
            await requests.ask("PUT", "v1/blocks/{}", cid, data=block)
        return blocks[-1][0]

    def _checked(self) -> _Open:
        """What is open. Raises `ClientClosed`, or `InvalidCall` in another process or event loop."""
        if self._open is None:
            raise ClientClosed
        self._open.check_place()
        return self._open


class _Open:
    """What a client has while it is open, all of it in one event loop of one process."""

    def __init__(self, url: Any, headers: dict[str, str], give_up_s: float) -> None:
        self._loop = _running_loop()
        self._process = os.getpid()
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy_for(url))
        self.stream = JobStream(session=self._session, url=url, headers=headers, give_up_s=give_up_s)
        self.requests = BrokerRequests(session=self._session, url=url, headers=headers, give_up_s=give_up_s)
        #: In the order in which they began.
        self._running: dict[asyncio.Task[Any], None] = {}

    def check_place(self) -> None:
        """Raise `InvalidCall` in another process or event loop."""
        if self._process != os.getpid():
            raise InvalidCall(
                "the client was opened in another process, and connections do not survive a fork",
                hint="Open a client in each process.",
            )
        if self._loop is not _running_loop():
            raise InvalidCall(
                "the client was opened in another event loop",
                hint="Open a client in each event loop, or use `tradepost.Client`, which has its own.",
            )

    @contextlib.contextmanager
    def until_closed(self) -> Iterator[None]:
        """Cancel the current task if the client closes before it leaves this context."""
        task = asyncio.current_task()
        if task is not None:
            self._running[task] = None
        try:
            yield
        finally:
            if task is not None:
                self._running.pop(task, None)

    async def close(self) -> None:
        """Cancel the jobs of unfinished maps, close the stream, and the session."""
        try:
            running = list(self._running)
            for task in reversed(running):
                task.cancel()
            if running:
                await asyncio.wait(running)
            await self.stream.close()
        finally:
            await self._session.close()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidCall(
            "there is no asyncio event loop here",
            hint="Await the call under asyncio, or use `tradepost.Client`.",
        ) from None


def _retrieve(task: asyncio.Task[Result]) -> None:
    """Take note of a failure: who waits still gets it, and a map that was left is no unhandled error."""
    if not task.cancelled():
        task.exception()


async def _one_by_one(inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    """The inputs of either kind. Raises `InvalidCall` as `check_many` does."""
    if isinstance(inputs, AsyncIterable):
        async for one in inputs:
            yield one
        return
    check_many(inputs)
    for one in inputs:
        yield one


def _setting(name: str, value: Any, variable: str) -> str:
    """What was passed, or the environment's value. Raises `InvalidSettings` for what is not text."""
    if value is not None and not isinstance(value, str):
        raise InvalidSettings(f"{name} is {shown(value)}; it must be text")
    return value or os.environ.get(variable, "").strip()
