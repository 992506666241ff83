"""A client's stream: receives submissions and sends their ends, many in one message."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from aiohttp import web

from tradepost.errors import Problem, QuotaExceeded, TradepostError
from tradepost.protocol import (
    CancelJob,
    Finished,
    JobRequest,
    JobStatus,
    JobView,
    Rejected,
    Submit,
    Submitted,
    VerdictChanged,
    Watch,
    WatchVerdicts,
    broker_codec_for_clients,
    salvage_frame,
    split_frames,
)
from tradepost_broker.engine.engine import Engine, Outcome
from tradepost_broker.jobs.job_service import JobService
from tradepost_broker.jobs.submission import JobSubmission, SubmissionChecks, job_of
from tradepost_broker.streams.frame_queue import FrameQueue
from tradepost_broker.streams.pace import paced
from tradepost_broker.streams.sockets import StreamCodec, converse, open_socket, refuse, unknown_frame
from tradepost_broker.web.endpoints import ACCOUNT

#: Streams that one account may have open.
STREAMS_MAX: Final = 64
#: Jobs that one message may watch, unless an account may have more than that open.
WATCHES_MAX: Final = 4096
#: Inputs by CID that one stream has read and checked at once.
_CHECKS_AT_ONCE: Final = 4


class ClientStreams:
    """Serves clients' connections. Each message may watch at most `watches_max` jobs."""

    def __init__(
        self, *, engine: Engine, submissions: SubmissionChecks, jobs: JobService, watches_max: int
    ) -> None:
        self._watches_max = watches_max
        self._engine = engine
        self._submissions = submissions
        self._jobs = jobs
        self._codec = broker_codec_for_clients()
        self._open: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A client's WebSocket: msgpack frames, as `tradepost.protocol` describes them."""
        account = request[ACCOUNT]
        if self._open[account] >= STREAMS_MAX:
            raise QuotaExceeded(f"account {account} has {STREAMS_MAX} streams open", limit=STREAMS_MAX)
        socket = await open_socket(request)
        session = _Session(
            account, self._codec, self._engine, self._submissions, self._jobs, self._watches_max
        )
        self._open[account] += 1
        try:
            await converse(request, socket, session.queue, session.take)
        except TradepostError as error:
            # Clients have no frame for this; whatever they submitted, they submit again.
            await refuse(socket, error)
        finally:
            self._open[account] -= 1
            session.close()
        return socket


class _Session:
    """One connection: handles its frames."""

    def __init__(
        self,
        account: str,
        codec: StreamCodec,
        engine: Engine,
        submissions: SubmissionChecks,
        jobs: JobService,
        watches_max: int,
    ) -> None:
        self.queue = FrameQueue(codec)
        self._watches_max = watches_max
        self._account = account
        self._engine = engine
        self._submissions = submissions
        self._jobs = jobs
        self._watched: set[str] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self._may_check = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def take(self, message: bytes) -> None:
        """Do what the frames of a message ask, in slices. Raises `ProtocolError` or `QuotaExceeded`."""
        frames = [salvage_frame(part) async for part in paced(split_frames(message))]
        self._check_watches(frames)
        async for frame in paced(frames):
            match frame:
                case Submit(ref=ref, request=request):
                    await self._submit(ref, request)
                case Watch(jobs=jobs):
                    async for job in paced(jobs):
                        await self.queue.room()
                        self._watch(job)
                case CancelJob(job=job):
                    self._jobs.request_cancel(self._account, job, lambda _: None)
                case WatchVerdicts(since=since):
                    await self._watch_verdicts(since)
                case Rejected():
                    self.queue.post(frame)
                case _:
                    raise unknown_frame(frame)
        await self._engine.ready()

    def close(self) -> None:
        """Watch nothing any more, and drop submissions that are still being checked."""
        self.queue.end()
        self._jobs.unwatch_verdicts(self._account, self._changed)
        for job in self._watched:
            self._jobs.unwatch(job, self._finished)
        for task in self._checks:
            task.cancel()

    def _check_watches(self, frames: Sequence[Any]) -> None:
        """Raise `QuotaExceeded` for a message that watches too many jobs."""
        watched = sum(len(frame.jobs) for frame in frames if isinstance(frame, Watch))
        if watched > self._watches_max:
            raise QuotaExceeded(
                f"one message watches {watched:,} jobs; at most {self._watches_max:,} are allowed",
                hint="Watch the rest in another message, after these.",
                limit=self._watches_max,
            )

    async def _submit(self, ref: int, request: JobRequest) -> None:
        if request.input_cid is not None:
            await self._may_check.acquire()
            task = asyncio.create_task(self._submit_stored(ref, request))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)
            return
        try:
            submission = self._submissions.check_inline(self._account, request)
        except TradepostError as error:
            self.queue.post(Rejected(ref, error.to_problem()))
        else:
            self._bring(ref, submission)

    async def _submit_stored(self, ref: int, request: JobRequest) -> None:
        try:
            self._bring(ref, await self._submissions.check(self._account, request))
        except TradepostError as error:
            self.queue.post(Rejected(ref, error.to_problem()))
        finally:
            self._may_check.release()

    def _bring(self, ref: int, submission: JobSubmission) -> None:
        self._engine.submit(submission, partial(self._submitted, ref, submission.job))

    def _submitted(self, ref: int, fresh: str, outcome: Outcome) -> None:
        if isinstance(outcome, TradepostError):
            self.queue.post(Rejected(ref, outcome.to_problem()))
            return
        job = job_of(outcome)
        self.queue.post(Submitted(ref, job))
        if job == fresh:
            self._watched.add(job)
            self._jobs.watch_new(job, self._finished)
        else:
            self._watch(job)

    async def _watch_verdicts(self, since: float | None) -> None:
        async for view in paced(self._jobs.watch_verdicts(self._account, self._changed, since=since)):
            await self.queue.room()
            self._changed(view)

    def _changed(self, view: JobView) -> None:
        self.queue.post(VerdictChanged(view))

    def _watch(self, job: str) -> None:
        if job in self._watched:
            return
        self._watched.add(job)
        try:
            self._jobs.watch(self._account, job, self._finished)
        except TradepostError as error:
            self._finished(_unknown(job, error.to_problem()))

    def _finished(self, view: JobView) -> None:
        self._watched.discard(view.job)
        self.queue.post(Finished(view))


def _unknown(job: str, problem: Problem) -> JobView:
    """The end of a job that this account does not have, so that nobody waits for it for ever."""
    return JobView(job=job, status=JobStatus.FAILED, pipeline="", submitted_at=0.0, problem=problem)
