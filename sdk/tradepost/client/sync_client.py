"""The SDK for threads: `AsyncClient` on an event loop in its own thread, with blocking calls.

Inputs are read and encoded in the thread that calls; only what is sent and received runs on the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any, Self

from tradepost.audit_log.proofs import LogProof
from tradepost.client.arguments import timeout_s, whole_number
from tradepost.client.async_client import LIST_JOBS, MAP_WINDOW, MAP_WINDOW_MAX, AsyncClient
from tradepost.client.async_job import AsyncJobHandle
from tradepost.client.estimates import Estimate, estimate_request
from tradepost.client.inputs import Inputs, check_many
from tradepost.client.job_future import FutureThreads, JobFuture
from tradepost.client.job_request import check_options, prepare_job
from tradepost.client.loop_thread import LoopThread, Pending
from tradepost.client.not_copied import NotCopied
from tradepost.client.results import Result
from tradepost.client.verdict_feed import VerdictFeed
from tradepost.content import Cid
from tradepost.errors import ClientClosed, InvalidCall, ResultTimeout
from tradepost.money import Credits
from tradepost.protocol import JobList, JobView, PipelineView, QuarantineView, Requirements
from tradepost.protocol.job_bounds import CONFIDENCE, DEADLINE_S


class JobHandle(NotCopied):
    """One submitted job, for threads. See `AsyncJobHandle`."""

    def __init__(self, handle: AsyncJobHandle, client: Client) -> None:
        self._handle = handle
        self._client = client
        self._future: JobFuture | None = None
        self._verdict_changed_at: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._handle.id

    @property
    def input_cid(self) -> Cid | None:
        """The input's CID, where the client knows it."""
        return self._handle.input_cid

    def future(self) -> concurrent.futures.Future[Result]:
        """The result as a standard future: callbacks, `as_completed` and `wait` work on it.

        After a failure that says nothing about the job, such as `BrokerUnavailable`, and after its verdict
        changed, this is a new future. Where the client cannot be used, after it was closed and in another
        process, the future has failed.
        """
        if self._future is None or self._may_ask_again(self._future):
            future = JobFuture(self, self._client.future_threads)
            self._verdict_changed_at = self._handle.verdict_changed_at
            try:
                self._client.open_thread().start(self._handle.result, then=future.take)
            except InvalidCall as error:
                future.fail(error)
            self._future = future
        return self._future

    def done(self) -> bool:
        """Whether the result, or the error, is here."""
        return self.future().done()

    def result(self, timeout: float | None = None) -> Result:
        """The verified result. Raises what the job ended with, or `ResultTimeout` (s).

        It may be called again, also after `BrokerUnavailable`: a job that was accepted keeps its result. If
        that was found wrong meanwhile, it gives the corrected result, or raises `ResultWithdrawn`.
        """
        limit_s = timeout_s(timeout)
        future = self.future()
        try:
            return future.result(limit_s)
        except TimeoutError:
            if future.done():
                raise
            raise ResultTimeout(f"job {self.id} has no result after {limit_s:g} s", job=self.id) from None

    def cancel(self) -> bool:
        """Cancel the job unless it has ended; whether it is cancelled now. What it had begun is paid.

        `False` says that it ended before: `result` tells how. Raises `BrokerUnavailable`.
        """

        async def cancel() -> bool:
            return await self._handle.cancel()

        return self._client.open_thread().wait(cancel)

    def check_can_wait(self) -> None:
        """Raise `ClientClosed`, or `InvalidCall` in another process and in the client's own thread."""
        self._client.open_thread().check_can_wait()

    def _may_ask_again(self, future: JobFuture) -> bool:
        if not future.done():
            return False
        if self._handle.verdict_changed_at != self._verdict_changed_at:
            return True
        return future.exception() is not None and not self._handle.has_failed


class Client(NotCopied):
    """`AsyncClient` for threads: the same calls, blocking. Use it as a context manager.

    Any thread may call it, a future's callback too. A process that is forked opens its own.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, give_up_s: float = 30.0
    ) -> None:
        self._async = AsyncClient(url, api_key=api_key, give_up_s=give_up_s)
        self.future_threads = FutureThreads()
        self._thread: LoopThread | None = None

    def __repr__(self) -> str:
        state = "closed" if self._thread is None else "open"
        return f"<{type(self).__name__} of {str(self._async.url).rstrip('/')}, {state}>"

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise InvalidCall("the client is open already", hint="Make another client for another `with`.")
        thread, self.future_threads = LoopThread("tradepost-client"), FutureThreads()
        thread.wait(self._async.__aenter__)
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is None or thread.is_elsewhere:
            return  # closed already; or a fork, which has neither thread nor connection to close
        try:
            thread.close(partial(self._async.__aexit__, kind, error, trace))
        finally:
            # Not in the client's own thread: a callback may wait for what that thread still does.
            self.future_threads.close(wait=not thread.is_current)

    def submit(self, pipeline: str, inputs: Inputs, **options: Any) -> JobHandle:
        """Submit one job. `options` are those of `AsyncClient.submit`."""
        check_options("Client.submit", options)
        loop = self.open_thread()
        prepared = prepare_job(pipeline, inputs, **options)
        return JobHandle(loop.wait(partial(self._async.submit_prepared, prepared)), self)

    def estimate(
        self,
        pipeline: str,
        inputs: Inputs | int,
        *,
        max_price: Credits | None = None,
        confidence: float = CONFIDENCE,
        deadline_s: float = DEADLINE_S,
        requirements: Requirements | None = None,
    ) -> Estimate:
        """What such a job would cost now, and how long it would take. See `AsyncClient.estimate`."""
        loop = self.open_thread()
        request = estimate_request(
            pipeline,
            inputs,
            max_price=max_price,
            confidence=confidence,
            deadline_s=deadline_s,
            requirements=requirements,
        )
        return loop.wait(partial(self._async.estimate_prepared, request))

    def map(
        self, pipeline: str, inputs: Iterable[Inputs], *, window: int = MAP_WINDOW, **options: Any
    ) -> Iterator[Result]:
        """The results of many jobs in order. `options` are those of `AsyncClient.submit`.

        Inputs are read in the thread that reads the results, and each is submitted as soon as it is read.
        The first job that fails raises here. Whenever the map ends before its last result, by an error, a
        `break` or Ctrl-C, the unfinished jobs are cancelled.
        """
        check_options("Client.map", options)
        loop = self.open_thread()
        window = whole_number("window", window, 1, MAP_WINDOW_MAX)
        check_many(inputs)
        return self._map(loop, pipeline, inputs, window, options)

    def _map(
        self, loop: LoopThread, pipeline: str, inputs: Iterable[Inputs], window: int, options: dict[str, Any]
    ) -> Iterator[Result]:
        waiting: deque[Pending[Result]] = deque()
        try:
            for one in inputs:
                prepared = prepare_job(pipeline, one, **options)
                waiting.append(loop.start(partial(self._async.run_prepared, prepared)))
                while waiting and (waiting[0].outcome.is_given or len(waiting) >= window):
                    yield _result_of(waiting[0], loop)
                    waiting.popleft()
            while waiting:
                yield _result_of(waiting[0], loop)
                waiting.popleft()
        finally:
            # Without waiting: Python may end an abandoned map in any thread, the loop's own too.
            if not loop.is_elsewhere:
                for pending in reversed(waiting):  # one that ends makes room for the next, which would begin
                    pending.cancel()

    def attach(self, job: str, *, input_cid: str | None = None) -> JobHandle:
        """A job that was submitted before, perhaps by another program. Raises `UnknownJob`.

        With `input_cid`, its receipts must be about that input; without, about the one that they name.
        """
        return JobHandle(self.open_thread().wait(partial(self._async.attach, job, input_cid=input_cid)), self)

    def verdict_changes(self) -> Iterator[JobView]:
        """The account's jobs whose results are found wrong, as it happens. See `AsyncClient`."""
        loop = self.open_thread()

        async def open_feed() -> VerdictFeed:
            return self._async.open_stream().verdict_feed()

        feed = loop.wait(open_feed)
        return self._verdict_changes(loop, feed)

    def _verdict_changes(self, loop: LoopThread, feed: VerdictFeed) -> Iterator[JobView]:
        try:
            while True:
                yield loop.wait(feed.next)
        finally:
            feed.close()

    def jobs(self, *, limit: int = LIST_JOBS, before: str | None = None, changed: bool = False) -> JobList:
        """The account's jobs, newest first, at most `limit` (1 to 1,000), older than the job `before`.

        With `changed`, only those whose results were found wrong after they had ended.
        """
        return self.open_thread().wait(partial(self._async.jobs, limit=limit, before=before, changed=changed))

    def job(self, job: str) -> JobView:
        """A job as it stands now. Raises `UnknownJob`."""
        return self.open_thread().wait(partial(self._async.job, job))

    def cancel(self, job: str) -> JobView:
        """Cancel a job by id; the job as it stands then. Raises `UnknownJob`."""
        return self.open_thread().wait(partial(self._async.cancel, job))

    def lift_quarantine(self, pipeline: str) -> QuarantineView:
        """Let the account's jobs on a pipeline be leased again, after they failed on everybody.

        The pipeline stays quarantined if it fails for other accounts too, until it is published again. Raises
        `UnknownPipeline`.
        """
        return self.open_thread().wait(partial(self._async.lift_quarantine, pipeline))

    def proof(self, job: str, *, since: str | None = None) -> LogProof:
        """That the broker's audit log has the receipts of a job that has ended, for `verify_proof`.

        Waits up to a minute, or `give_up_s`, for the checkpoint that covers them. With `since`, a checkpoint
        that was kept (a signed note), the proof also shows that the log extends it. Raises `UnknownJob`,
        `NotInLog` if there are no receipts, or `InvalidKeptCheckpoint`.
        """
        return self.open_thread().wait(partial(self._async.proof, job, since=since))

    def pipeline(self, cid: str) -> PipelineView:
        """A published pipeline: its manifest and signature. Raises `UnknownPipeline`."""
        return self.open_thread().wait(partial(self._async.pipeline, cid))

    def balance(self) -> Decimal:
        """The account's available credits."""
        return self.open_thread().wait(self._async.balance)

    def upload(self, data: bytes) -> Cid:
        """Put a file's blocks into the broker's store; the CID of the file. Raises `QuotaExceeded`."""
        return self.open_thread().wait(partial(self._async.upload, data))

    def open_thread(self) -> LoopThread:
        """The thread of the open client. Raises `ClientClosed`."""
        if self._thread is None:
            raise ClientClosed
        return self._thread


def _result_of(pending: Pending[Result], loop: LoopThread) -> Result:
    """The result of a job of a map. Raises what the job ended with, or `ClientClosed`."""
    loop.check_can_wait()
    loop.check_open()
    try:
        return pending.outcome.get()
    except asyncio.CancelledError:
        raise ClientClosed("the client was closed while this call waited") from None
