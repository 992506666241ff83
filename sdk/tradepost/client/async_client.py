"""The SDK for asyncio: submit inference jobs and await verified results. `Client` is the same for threads."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec

from tradepost.broker_url import parse_broker_url, raise_for_problem, raise_unavailable
from tradepost.client.job_stream import JobStream
from tradepost.client.results import Result, check_result, error_of
from tradepost.content import Cid, add_bytes
from tradepost.errors import ClientClosed, InvalidSettings, ResultTimeout
from tradepost.money import Credits, to_credits, to_microcredits
from tradepost.pipeline.tensors import Tensor, TensorDocument, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    AccountView,
    JobRequest,
    JobStatus,
    JobView,
    PipelineView,
    Requirements,
)
from tradepost.proxies import proxy_for

DEFAULT_URL: Final = "http://127.0.0.1:8700"
#: How many jobs `map` keeps submitted and unfinished.
MAP_WINDOW: Final = 512

#: A job's input: named tensors, or a whole document, or a document's bytes.
Inputs = Mapping[str, Tensor] | TensorDocument | bytes

T = TypeVar("T")


class AsyncJobHandle:
    """One submitted job."""

    def __init__(
        self, client: AsyncClient, *, job: str, pipeline: str, input_cid: Cid, end: asyncio.Future[JobView]
    ) -> None:
        self.id = job
        self.pipeline = pipeline
        self.input_cid = input_cid
        self._client = client
        self._end = end

    def done(self) -> bool:
        """Whether the job has ended."""
        return self._end.done()

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - as futures name it
        """The verified result. Raises what the job ended with, or `ResultTimeout` (s)."""
        try:
            view = await asyncio.wait_for(asyncio.shield(self._end), timeout)
        except TimeoutError:
            raise ResultTimeout(f"job {self.id} is still running after {timeout} s") from None
        if view.status is not JobStatus.ACCEPTED:
            raise error_of(view)
        output = view.output
        if output is None:
            output = await self._client.fetch_output(self.id)
        return check_result(view, output, pipeline=self.pipeline, input_cid=self.input_cid)

    def cancel(self) -> None:
        """Ask for the job to be cancelled; `result` then raises `JobCancelled` unless it ended before."""
        self._client.stream.cancel(self.id)


class AsyncClient:
    """A connection to one broker, for one account.

    `url` and `api_key` default to `TRADEPOST_URL` and `TRADEPOST_API_KEY`. When the broker cannot be reached
    for `give_up_s`, what waits raises `BrokerUnavailable`; until then it is retried without anyone noticing.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, give_up_s: float = 30.0
    ) -> None:
        self.url = parse_broker_url(url or os.environ.get("TRADEPOST_URL") or DEFAULT_URL)
        # A key that was read from a file may end with the end of its line.
        key = (api_key or os.environ.get("TRADEPOST_API_KEY") or "").strip()
        if not key:
            raise InvalidSettings(
                "there is no API key", hint="Pass api_key=… or set the variable TRADEPOST_API_KEY."
            )
        if not (key.isascii() and key.isprintable()):
            raise InvalidSettings(
                "the API key contains characters that no API key has", hint="Copy it again."
            )
        self._headers = {"Authorization": f"Bearer {key}"}
        self._give_up_s = give_up_s
        self._session: aiohttp.ClientSession | None = None
        self._stream: JobStream | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy_for(self.url))
        self._stream = JobStream(
            session=self._session, url=self.url, headers=self._headers, give_up_s=self._give_up_s
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream, session = self.stream, self._session
        await stream.close()
        self._stream = self._session = None
        if session is not None:
            await session.close()

    @property
    def stream(self) -> JobStream:
        """The open stream. Raises `ClientClosed` outside of `async with`."""
        if self._stream is None:
            raise ClientClosed
        return self._stream

    async def submit(
        self,
        pipeline: str,
        inputs: Inputs,
        *,
        max_price: Credits,
        confidence: float = 0.95,
        deadline_s: float = 300.0,
        patience_s: float = 5.0,
        requirements: Requirements | None = None,
        idempotency_key: str | None = None,
        inline: bool | None = None,
    ) -> AsyncJobHandle:
        """Submit one job; when this returns, the broker has it durably.

        `max_price` is in credits and covers every replica. `confidence` is the least probability with which
        the result must be right. Inputs over 1 MiB are uploaded first, unless `inline` is True. Raises what
        the broker refuses a job for: `UnknownPipeline`, `InvalidInput`, `InsufficientFunds`, …
        """
        data = inputs if isinstance(inputs, bytes) else encode(_document(inputs))
        inline = len(data) <= INLINE_BYTES_MAX if inline is None else inline
        input_cid = add_bytes(data, put=None) if inline else await self.upload(data)
        job, end = await self.stream.submit(
            JobRequest(
                pipeline=pipeline,
                input=data if inline else None,
                input_cid=None if inline else input_cid,
                max_price_microcredits=to_microcredits(max_price),
                confidence=confidence,
                deadline_s=deadline_s,
                patience_s=patience_s,
                requirements=requirements or Requirements(),
                idempotency_key=idempotency_key or secrets.token_hex(16),
            )
        )
        return AsyncJobHandle(self, job=job, pipeline=pipeline, input_cid=input_cid, end=end)

    async def map(
        self, pipeline: str, inputs: Iterable[Inputs], *, window: int = MAP_WINDOW, **options: Any
    ) -> AsyncIterator[Result]:
        """The results of many jobs, in the order of `inputs`, with at most `window` of them unfinished.

        `options` are those of `submit`. The first job that fails raises here; those submitted go on.
        """
        waiting: deque[asyncio.Task[Result]] = deque()
        try:
            for one in inputs:
                waiting.append(asyncio.create_task(self._run(pipeline, one, options)))
                if len(waiting) >= window:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def job(self, job: str) -> JobView:
        """A job as it stands now. Raises `UnknownJob`."""
        return await self._get(f"v1/jobs/{job}", JobView)

    async def cancel(self, job: str) -> JobView:
        """Cancel a job by id; the job as it stands then. Raises `UnknownJob`."""
        return msgspec.json.decode(await self._request("DELETE", f"v1/jobs/{job}"), type=JobView)

    async def pipeline(self, cid: str) -> PipelineView:
        """A published pipeline: its manifest and signature. Raises `UnknownPipeline`."""
        return await self._get(f"v1/pipelines/{cid}", PipelineView)

    async def balance(self) -> Decimal:
        """The account's available credits."""
        account = await self._get("v1/account", AccountView)
        return to_credits(account.available_microcredits)

    async def upload(self, data: bytes) -> Cid:
        """Put a file's blocks into the broker's store; the CID of the file. Raises `QuotaExceeded`."""
        blocks: list[tuple[Cid, bytes]] = []
        root = add_bytes(data, put=lambda cid, block: blocks.append((cid, block)))
        for cid, block in blocks:
            await self._request("PUT", f"v1/blocks/{cid}", data=block)
        return root

    async def fetch_output(self, job: str) -> bytes:
        """A finished job's output document, as bytes that nobody has checked yet."""
        return await self._request("GET", f"v1/jobs/{job}/output")

    async def _run(self, pipeline: str, inputs: Inputs, options: Mapping[str, Any]) -> Result:
        return await (await self.submit(pipeline, inputs, **options)).result()

    async def _get(self, path: str, kind: type[T]) -> T:
        return msgspec.json.decode(await self._request("GET", path), type=kind)

    async def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        if self._session is None:
            raise ClientClosed
        try:
            async with self._session.request(
                method, self.url / path, data=data, headers=self._headers
            ) as response:
                await raise_for_problem(response)
                return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise_unavailable(self.url, error)


def _document(inputs: Mapping[str, Tensor] | TensorDocument) -> TensorDocument:
    return inputs if isinstance(inputs, TensorDocument) else TensorDocument(tensors=inputs)
