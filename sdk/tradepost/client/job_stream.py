"""The client's stream to the broker: sends submissions, receives ends of jobs, and survives reconnections.

Whatever the broker has not acknowledged is sent again after a reconnect under the same idempotency key, and
unfinished jobs are watched again, so a broken connection or a restarted broker neither loses a job nor runs
it twice. After `give_up_s` without a broker, everything that waits fails with `BrokerUnavailable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable

import aiohttp
from yarl import URL

from tradepost.broker_url import raise_for_problem
from tradepost.errors import BrokerUnavailable, Problem, ProtocolError, TradepostError
from tradepost.protocol import (
    FRAMES_MAX,
    HEARTBEAT_S,
    MESSAGE_BYTES_MAX,
    CancelJob,
    Finished,
    JobRequest,
    JobView,
    Rejected,
    Submit,
    Submitted,
    ToBrokerFromClient,
    Watch,
    client_codec,
)

_BACKOFF_S_MIN = 0.05
_BACKOFF_S_MAX = 2.0
_WATCH_JOBS_MAX = 1024
#: Frames are gathered into one message up to this many bytes of inputs, well under `MESSAGE_BYTES_MAX`.
_BATCH_BYTES = 2 << 20

#: A job's id and the future of its final view, which all who submitted it under one key share.
SubmittedJob = tuple[str, asyncio.Future[JobView]]


class JobStream:
    """Submits jobs and awaits their ends. Use within one event loop; `close` ends it."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        url: URL,
        headers: dict[str, str],
        give_up_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._session = session
        self._url = url / "v1" / "client"
        self._headers = headers
        self._give_up_s = give_up_s
        self._jitter = jitter
        self._codec = client_codec()
        self._refs = itertools.count(1)
        self._submissions: dict[int, tuple[Submit, asyncio.Future[SubmittedJob]]] = {}
        self._ends: dict[str, asyncio.Future[JobView]] = {}
        self._cancelled: set[str] = set()
        self._outgoing: asyncio.Queue[ToBrokerFromClient] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, request: JobRequest) -> SubmittedJob:
        """The job's id and end; it is durable by then. Raises what the broker refused it for."""
        submission = Submit(next(self._refs), request)
        accepted: asyncio.Future[SubmittedJob] = asyncio.get_running_loop().create_future()
        self._submissions[submission.ref] = (submission, accepted)
        self._send(submission)
        try:
            return await accepted
        finally:
            self._submissions.pop(submission.ref, None)

    def cancel(self, job: str) -> None:
        """Ask the broker to cancel the job; its end says whether that came in time."""
        self._cancelled.add(job)
        self._send(CancelJob(job))

    async def close(self) -> None:
        """Close the connection. What still waits fails with `BrokerUnavailable`."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail_all(BrokerUnavailable("the client was closed"))

    def _send(self, frame: ToBrokerFromClient) -> None:
        self._outgoing.put_nowait(frame)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="tradepost-job-stream")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        lost_at, backoff_s = loop.time(), _BACKOFF_S_MIN
        while True:
            try:
                async with self._session.ws_connect(
                    self._url,
                    headers=self._headers,
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MESSAGE_BYTES_MAX,
                ) as socket:
                    self._resume()
                    await self._converse(socket)
                    lost_at, backoff_s = loop.time(), _BACKOFF_S_MIN
                    reason: Exception = ConnectionError("the broker closed the connection")
            except aiohttp.WSServerHandshakeError as error:
                if error.status < 500:
                    self._fail_all(await self._refusal(error))
                    return
                reason = error
            except TradepostError as error:
                self._fail_all(error)
                return
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = error
            if loop.time() - lost_at >= self._give_up_s:
                self._fail_all(BrokerUnavailable(f"{self._url.origin()}: {reason}"))
                return
            await asyncio.sleep(backoff_s * (0.5 + self._jitter()))
            backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)

    def _resume(self) -> None:
        """Queue again everything that the broker may not have seen."""
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
        jobs = [job for job, end in self._ends.items() if not end.done()]
        for start in range(0, len(jobs), _WATCH_JOBS_MAX):
            self._outgoing.put_nowait(Watch(tuple(jobs[start : start + _WATCH_JOBS_MAX])))
        for submission, _ in self._submissions.values():
            self._outgoing.put_nowait(submission)
        for job in self._cancelled:
            self._outgoing.put_nowait(CancelJob(job))

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        writing = asyncio.create_task(self._write(socket), name="tradepost-job-stream-writer")
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    raise ProtocolError(f"the broker sent a {message.type.name} message")
                for frame in self._codec.decode(message.data):
                    self._take(frame)
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, ConnectionError):
                await writing

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            frames = [await self._outgoing.get()]
            size = _input_bytes(frames[0])
            while not self._outgoing.empty() and len(frames) < FRAMES_MAX and size < _BATCH_BYTES:
                frames.append(self._outgoing.get_nowait())
                size += _input_bytes(frames[-1])
            await socket.send_bytes(self._codec.encode(frames))

    def _take(self, frame: Submitted | Rejected | Finished) -> None:
        if isinstance(frame, Finished):
            self._cancelled.discard(frame.view.job)
            end = self._ends.pop(frame.view.job, None)
            if end is not None and not end.done():
                end.set_result(frame.view)
            return
        _, accepted = self._submissions.get(frame.ref, (None, None))
        if accepted is None or accepted.done():
            return
        if isinstance(frame, Submitted):
            # Known before the caller of `submit` runs again: the end may follow in the same message.
            end = self._ends.setdefault(frame.job, asyncio.get_running_loop().create_future())
            accepted.set_result((frame.job, end))
        else:
            accepted.set_exception(TradepostError.from_problem(frame.problem))

    def _fail_all(self, error: TradepostError) -> None:
        futures: list[asyncio.Future[SubmittedJob] | asyncio.Future[JobView]] = [
            *(accepted for _, accepted in self._submissions.values()),
            *self._ends.values(),
        ]
        self._ends.clear()
        self._cancelled.clear()
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # who waits still gets it; who does not is no unhandled error

    async def _refusal(self, error: aiohttp.WSServerHandshakeError) -> TradepostError:
        """The handshake hides the body of a refusal; a plain request to the same route shows it."""
        try:
            async with self._session.get(self._url, headers=self._headers) as response:
                await raise_for_problem(response)
        except TradepostError as refused:
            return refused
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        return TradepostError.from_problem(
            Problem(code="broker-unavailable", title="", detail=f"the broker answered {error.status}")
        )


def _input_bytes(frame: ToBrokerFromClient) -> int:
    return len(frame.request.input or b"") if isinstance(frame, Submit) else 0
