"""A submitted job, for asyncio."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from tradepost.client.arguments import timeout_s
from tradepost.client.job_stream import JobStream
from tradepost.client.not_copied import NotCopied
from tradepost.client.results import Result, check_result, error_of
from tradepost.content import Cid
from tradepost.errors import ResultTimeout
from tradepost.protocol import JobStatus, JobView


class Connection(Protocol):
    """The part of the client that a job uses. Both raise `ClientClosed` or `InvalidCall`, as its calls do."""

    def open_stream(self) -> JobStream:
        """The stream to the broker."""
        ...

    async def fetch_output(self, job: str) -> bytes:
        """A job's output document."""
        ...


class AsyncJobHandle(NotCopied):
    """One submitted job. `input_cid` is `None` where the client does not know the input.

    `is_input_claimed` says that `input_cid` comes from the program, which may be mistaken.
    """

    def __init__(
        self,
        client: Connection,
        *,
        job: str,
        pipeline: str,
        input_cid: Cid | None,
        is_input_claimed: bool = False,
        end: asyncio.Future[JobView] | None = None,
    ) -> None:
        self.id = job
        self.pipeline = pipeline
        self.input_cid = input_cid
        self._is_input_claimed = is_input_claimed
        self._client = client
        self._end = end
        #: Read from other threads as well, also after the client was closed.
        self._changes = client.open_stream().changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def done(self) -> bool:
        """Whether the client knows that the job has ended."""
        return self._view() is not None

    @property
    def verdict_changed_at(self) -> float | None:
        """When the result was found wrong, as far as the client knows (Unix seconds, the broker's clock)."""
        view = self._changes.of(self.id) or self._view()
        return None if view is None else view.verdict_changed_at

    @property
    def has_failed(self) -> bool:
        """Whether the job has ended without a result, so that `result` raises the same error each time."""
        view = self._view()
        return view is not None and view.status is not JobStatus.ACCEPTED

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - as futures name it
        """The verified result. Raises what the job ended with, or `ResultTimeout` (s).

        It may be called again, also after `BrokerUnavailable`: a job that was accepted keeps its result. If
        that was found wrong meanwhile, it gives the corrected result, or raises `ResultWithdrawn`.
        """
        limit_s = timeout_s(timeout)
        try:
            async with asyncio.timeout(limit_s):
                return await self._result()
        except TimeoutError:
            raise ResultTimeout(f"job {self.id} has no result after {limit_s:g} s", job=self.id) from None

    def cancel(self) -> asyncio.Future[bool]:
        """Cancel the job unless it has ended. What it had begun is paid. Awaited: whether it was.

        `False` says that it ended before: `result` tells how. Awaiting raises `BrokerUnavailable`; the job is
        cancelled whether this is awaited or not.
        """
        stream = self._client.open_stream()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        view = self._view()
        if view is not None:
            answer.set_result(view.status is JobStatus.CANCELLED)
        else:
            self._end = stream.cancel(self.id)
            self._end.add_done_callback(partial(_answer, answer))
        return answer

    async def _result(self) -> Result:
        view = self._view()
        if view is None:
            view = await asyncio.shield(self._next_end())
        if view.status is not JobStatus.ACCEPTED:
            raise error_of(view)
        output = view.output
        if output is None:
            output = await self._client.fetch_output(self.id)
        return check_result(
            view,
            output,
            pipeline=self.pipeline,
            input_cid=self.input_cid,
            is_input_claimed=self._is_input_claimed,
        )

    def _next_end(self) -> asyncio.Future[JobView]:
        """The end to wait for: a new one where the last one failed, as it does when the broker is away."""
        stream = self._client.open_stream()
        if self._end is None or self._end.done():
            self._end = stream.watch(self.id)
        return self._end

    def _view(self) -> JobView | None:
        """How the job ended, once that is known."""
        end = self._end
        if end is None or not end.done() or end.cancelled() or end.exception() is not None:
            return None
        changed, view = self._changes.of(self.id), end.result()
        if changed is None:
            return view
        if not changed.status.is_open:
            return changed
        # It is run again: its end is one that came after that.
        return None if view.verdict_changed_at is None else view


def _answer(answer: asyncio.Future[bool], end: asyncio.Future[JobView]) -> None:
    if answer.done():
        return  # its caller was cancelled
    if (error := end.exception()) is not None:
        answer.set_exception(error)
        answer.exception()  # who awaits it still gets it; who does not is no unhandled error
    else:
        answer.set_result(end.result().status is JobStatus.CANCELLED)
