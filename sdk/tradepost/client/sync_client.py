"""The SDK for threads: `AsyncClient` on an event loop in its own thread, with blocking calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar

from tradepost.client.async_client import AsyncClient, AsyncJobHandle, Inputs
from tradepost.client.results import Result
from tradepost.errors import ClientClosed, ResultTimeout
from tradepost.protocol import JobView, PipelineView

T = TypeVar("T")


class JobHandle:
    """One submitted job, for threads. See `AsyncJobHandle`."""

    def __init__(self, client: Client, handle: AsyncJobHandle) -> None:
        self._client = client
        self._handle = handle
        self._future: concurrent.futures.Future[Result] | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self._handle.id

    def future(self) -> concurrent.futures.Future[Result]:
        """The result as a standard future: callbacks, `as_completed` and `wait` work on it."""
        if self._future is None:
            self._future = self._client.start(self._handle.result())
        return self._future

    def done(self) -> bool:
        """Whether the result, or the error, is here."""
        return self.future().done()

    def result(self, timeout: float | None = None) -> Result:
        """The verified result. Raises what the job ended with, or `ResultTimeout` (s)."""
        try:
            return self.future().result(timeout)
        except concurrent.futures.TimeoutError:
            raise ResultTimeout(f"job {self.id} is still running after {timeout} s") from None

    def cancel(self) -> None:
        """Ask for the job to be cancelled; `result` then raises `JobCancelled` unless it ended before."""
        self._client.call(self._handle.cancel)


class Client:
    """`AsyncClient` for threads: the same calls, blocking. Use it as a context manager."""

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, give_up_s: float = 30.0
    ) -> None:
        self._async = AsyncClient(url, api_key=api_key, give_up_s=give_up_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tradepost-client", daemon=True)
        self._is_open = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_open = True
        self._wait(self._async.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self._loop.shutdown_asyncgens())  # a `map` that was left before its end
            self._wait(self._async.__aexit__(kind, error, trace))
        finally:
            self._is_open = False
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def submit(self, pipeline: str, inputs: Inputs, **options: Any) -> JobHandle:
        """Submit one job. `options` are those of `AsyncClient.submit`."""
        return JobHandle(self, self._wait(self._async.submit(pipeline, inputs, **options)))

    def map(self, pipeline: str, inputs: Iterable[Inputs], **options: Any) -> Iterator[Result]:
        """The results of many jobs in order. `options` are those of `AsyncClient.map`."""
        results = self._async.map(pipeline, inputs, **options)

        async def step() -> Result:
            # On the loop, which then knows the generator, and ends it if the client is left first.
            return await anext(results)

        try:
            while True:
                try:
                    yield self._wait(step())
                except StopAsyncIteration:
                    return
        finally:
            with contextlib.suppress(ClientClosed):  # if the client was left first
                self._wait(results.aclose())  # type: ignore[attr-defined]  # it is a generator

    def job(self, job: str) -> JobView:
        """A job as it stands now. Raises `UnknownJob`."""
        return self._wait(self._async.job(job))

    def cancel(self, job: str) -> JobView:
        """Cancel a job by id; the job as it stands then. Raises `UnknownJob`."""
        return self._wait(self._async.cancel(job))

    def pipeline(self, cid: str) -> PipelineView:
        """A published pipeline: its manifest and signature. Raises `UnknownPipeline`."""
        return self._wait(self._async.pipeline(cid))

    def balance(self) -> Decimal:
        """The account's available credits."""
        return self._wait(self._async.balance())

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the client's loop; a future of what it returns. Raises `ClientClosed`."""
        self._check_open(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the client's loop, soon. Raises `ClientClosed`."""
        self._check_open()
        self._loop.call_soon_threadsafe(function)

    def _check_open(self, *work: Awaitable[object]) -> None:
        """Raise `ClientClosed` outside of `with`, where nothing would run `work`."""
        if self._is_open:
            return
        for one in work:
            if isinstance(one, Coroutine):
                one.close()  # or Python warns that nobody awaited it
        raise ClientClosed

    def _wait(self, work: Awaitable[T]) -> T:
        self._check_open(work)

        async def run() -> T:
            return await work

        return self.start(run()).result()
