"""The client's stream to the broker: sends submissions, receives ends of jobs, and survives reconnections.

Whatever the broker has not acknowledged is sent again after a reconnect under the same idempotency key, and
unfinished jobs are watched again, so a broken connection or a restarted broker neither loses a job nor runs
it twice.

Nothing waits for an end that cannot come. The task that keeps the connection fails everything that waits
with a typed error, however it ends. A broker that is connected and does not answer counts as unreachable:
`give_up_s` after the last frame, whatever waits for an answer fails with `BrokerUnavailable`.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from tradepost.broker_url import unavailable
from tradepost.client.retries import ANSWER_S_MIN, Retries
from tradepost.client.stream_connection import connect
from tradepost.client.verdict_feed import VerdictChanges, VerdictFeed
from tradepost.errors import BrokerUnavailable, ClientClosed, ClientFailed, TradepostError
from tradepost.protocol import (
    CancelJob,
    Finished,
    JobRequest,
    JobView,
    Rejected,
    Submit,
    Submitted,
    VerdictChanged,
    Watch,
    WatchVerdicts,
    client_codec,
)

_WATCH_JOBS_MAX: Final = 1024
#: How long closing waits until the broker has confirmed what was cancelled.
_SETTLE_S_MAX: Final = 2.0

#: A job's id and the future of its final view, which all who submitted it under one key share.
SubmittedJob = tuple[str, asyncio.Future[JobView]]


@dataclass(frozen=True)
class _Submission:
    """A submission that the broker has not answered. One whose `accepted` was cancelled will be cancelled."""

    frame: bytes
    accepted: asyncio.Future[SubmittedJob]
    sent_at: float


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
        self._clock = asyncio.get_running_loop().time
        self._codec = client_codec()
        self._refs = itertools.count(1)
        self._submissions: dict[int, _Submission] = {}
        self._ends: dict[str, asyncio.Future[JobView]] = {}
        #: Jobs to cancel that have not ended, with the time at which that was asked.
        self._cancelling: dict[str, float] = {}
        #: Verdicts that changed after their jobs had ended.
        self.changes = VerdictChanges()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._heard_at = -math.inf
        #: Why the newest try to connect failed; `None` once there is a connection.
        self._unreachable: Exception | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        #: Tasks that were cancelled and still close their connections.
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def submit(self, request: JobRequest) -> SubmittedJob:
        """The job's id and end; it is durable by then. Raises what the broker refused it for.

        If this is cancelled, the job is cancelled too, since nobody would know its id.
        """
        self._check_open()
        ref = next(self._refs)
        frame = self._codec.encode_frame(Submit(ref, request))
        accepted: asyncio.Future[SubmittedJob] = asyncio.get_running_loop().create_future()
        self._submissions[ref] = _Submission(frame, accepted, self._clock())
        self._send(frame)
        self._expect_answer()
        try:
            return await accepted
        except asyncio.CancelledError:
            if not accepted.cancelled() and accepted.exception() is None:
                self.cancel(accepted.result()[0])
            raise

    def watch(self, job: str) -> asyncio.Future[JobView]:
        """The end of any job of the account, which the broker tells also if it has ended already."""
        self._check_open()
        end = self._ends.get(job)
        if end is None:
            end = self._end_of(job)
            self._send(self._codec.encode_frame(Watch((job,))))
        return end

    def verdict_feed(self) -> VerdictFeed:
        """The account's jobs whose verdicts change from now on, as soon as the broker is connected."""
        self._check_open()
        feed = self.changes.feed()
        self._keep_running()
        return feed

    def cancel(self, job: str) -> asyncio.Future[JobView]:
        """Ask the broker to cancel the job; its end says whether that came in time."""
        end = self.watch(job)
        if job not in self._cancelling:
            self._cancelling[job] = self._clock()
            self._send(self._codec.encode_frame(CancelJob(job)))
            self._expect_answer()
        return end

    async def close(self) -> None:
        """Close the connection, once the broker has confirmed what was cancelled, or after 2 s.

        What still waits fails with `ClientClosed`.
        """
        try:
            async with asyncio.timeout(min(_SETTLE_S_MAX, max(ANSWER_S_MIN, self._give_up_s))):
                while self._owes_cancellations():
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass  # the broker is away; its deadline ends the jobs
        finally:
            self._is_closed = True
            self._end_task()
            self._fail_all(ClientClosed("the client was closed while this call waited"))
        if self._ending:
            await asyncio.wait(self._ending.copy())

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed

    def _owes_cancellations(self) -> bool:
        abandoned = any(one.accepted.cancelled() for one in self._submissions.values())
        return abandoned or bool(self._cancelling)

    def _send(self, frame: bytes) -> None:
        self._outgoing.put_nowait(frame)
        self._keep_running()

    def _keep_running(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="tradepost-job-stream")

    def _end_task(self) -> None:
        """Have the task end. It closes its connection first, which `close` waits for."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self) -> None:
        """Keep the connection until it is given up; however that comes, nothing is left waiting."""
        error: TradepostError = ClientClosed("the client's event loop ended")
        try:
            await self._keep_connected()
        except TradepostError as reason:
            error = reason
        except Exception as defect:
            error = ClientFailed(f"the stream to the broker: {type(defect).__name__}: {defect}")
            error.__cause__ = defect
        finally:
            if self._task is asyncio.current_task():  # or what waits now waits for a newer one
                self._task = None
                self._fail_all(error)

    async def _keep_connected(self) -> None:
        """Connect again and again. Raises what ends it: a refusal, or `BrokerUnavailable`."""
        retries = Retries(give_up_s=self._give_up_s, clock=self._clock, jitter=self._jitter)
        while True:
            try:
                connection = await connect(
                    self._session, self._url, self._headers, answer_s=retries.answer_s()
                )
                self._unreachable = None
                self._resume()
                try:
                    await connection.converse(self._outgoing, self._take_message)
                finally:
                    retries.heard(max(self._heard_at, connection.alive_until()))
                reason: Exception = ConnectionError("the broker closed the connection")
            except (aiohttp.ClientError, OSError) as error:
                reason = self._unreachable = error
            if retries.is_over:
                raise unavailable(self._url.origin(), reason)
            await asyncio.sleep(retries.pause_s())

    def _resume(self) -> None:
        """Queue again everything that the broker may not have seen."""
        self._drop_outgoing()
        jobs = tuple(self._ends)
        starts = range(0, len(jobs), _WATCH_JOBS_MAX)
        watches = [Watch(jobs[start : start + _WATCH_JOBS_MAX]) for start in starts]
        news = WatchVerdicts(self.changes.known_until)
        for frame in (news, *watches, *map(CancelJob, self._cancelling)):
            self._outgoing.put_nowait(self._codec.encode_frame(frame))
        for submission in self._submissions.values():
            self._outgoing.put_nowait(submission.frame)

    def _drop_outgoing(self) -> None:
        while not self._outgoing.empty():
            self._outgoing.get_nowait()

    def _take_message(self, message: bytes) -> None:
        frames: list[Any] = self._codec.decode(message)
        self._heard_at = self._clock()
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Submitted | Rejected | Finished | VerdictChanged) -> None:
        if isinstance(frame, VerdictChanged):
            self.changes.take(frame.view)
            return
        if isinstance(frame, Finished):
            self.changes.saw(frame.view)
            self._cancelling.pop(frame.view.job, None)
            end = self._ends.pop(frame.view.job, None)
            if end is not None and not end.done():
                end.set_result(frame.view)
        elif (submission := self._submissions.pop(frame.ref, None)) is not None:
            accepted = submission.accepted
            if isinstance(frame, Submitted):
                # Known before the caller of `submit` runs again: the end may follow in the same message.
                end = self._end_of(frame.job)
                if accepted.cancelled():
                    self.cancel(frame.job)
                else:
                    accepted.set_result((frame.job, end))
            elif not accepted.cancelled():
                accepted.set_exception(TradepostError.from_problem(frame.problem))
        self._answered.set()

    def _end_of(self, job: str) -> asyncio.Future[JobView]:
        return self._ends.setdefault(job, asyncio.get_running_loop().create_future())

    # A broker that does not answer

    def _expect_answer(self) -> None:
        """See to it that `_check_answers` runs when an answer to what is asked now is overdue."""
        if self._overdue is None and not math.isinf(self._give_up_s):
            self._overdue = asyncio.get_running_loop().call_later(self._silence_s, self._check_answers)

    @property
    def _silence_s(self) -> float:
        return max(ANSWER_S_MIN, self._give_up_s)

    def _check_answers(self) -> None:
        self._overdue = None
        asked = [submission.sent_at for submission in self._submissions.values()]
        asked += self._cancelling.values()
        if not asked:
            return
        due_at = max(min(asked), self._heard_at) + self._silence_s
        if self._clock() < due_at:
            self._overdue = asyncio.get_running_loop().call_at(due_at, self._check_answers)
            return
        self._end_task()
        self._fail_all(self._unanswered())

    def _unanswered(self) -> BrokerUnavailable:
        reason = self._unreachable
        if reason is None or isinstance(reason, TimeoutError):
            return BrokerUnavailable(f"{self._url.origin()} did not answer within {self._silence_s:g} s")
        return unavailable(self._url.origin(), reason)

    def _fail_all(self, error: TradepostError) -> None:
        futures: list[asyncio.Future[SubmittedJob] | asyncio.Future[JobView]] = [
            *(submission.accepted for submission in self._submissions.values()),
            *self._ends.values(),
        ]
        self._submissions.clear()
        self._ends.clear()
        self._cancelling.clear()
        self._drop_outgoing()
        self._answered.set()
        self.changes.fail(_copy_of(error))
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        for future in futures:
            if not future.done():
                # A copy each: raising an exception in several places at once mixes up their tracebacks.
                future.set_exception(_copy_of(error))
                future.exception()  # who waits still gets it; who does not is no unhandled error


def _copy_of(error: TradepostError) -> TradepostError:
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
