"""The requests of one runner, which are answered in order, and the deadline of the one that runs.

Only the request at the head runs, so only its caller gets the reason when the runner fails; the others get
`RunnerInterrupted`, after which the same run can be asked of another runner. Time in which the runner is
stopped does not count towards a deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tradepost.errors import LeaseTimeout, PipelineTooCostly, RunnerFailed, RunnerInterrupted, TradepostError
from tradepost.receipts import StageReport
from tradepost_worker.runner.messages import FromRunner, Reached
from tradepost_worker.supervision.process_group import Suspension
from tradepost_worker.supervision.runner_policy import RunnerPolicy

#: A suspension shorter than this extends no deadline.
_SUSPENDED_S_MIN: Final = 0.001

Phase = Literal["start", "load", "run"]

#: Told which stages of a run are done. Raises `RunnerFailed` for what the pipeline does not have.
OnStages = Callable[[tuple[StageReport, ...]], None]


def ignore_stages(_: tuple[StageReport, ...]) -> None:
    """An `OnStages` for a caller that needs no reports."""


@dataclass(eq=False, slots=True)
class _Request:
    reply: asyncio.Future[FromRunner]
    phase: Phase
    wall_s_max: float
    killed_after_s: float
    on_stages: OnStages
    stages: int = 0


class RequestQueue:
    """`on_overdue` is told, with the error of it, when the request at the head has passed its deadline."""

    def __init__(
        self,
        *,
        policy: RunnerPolicy,
        suspension: Suspension,
        on_overdue: Callable[[TradepostError], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._policy = policy
        self._suspension = suspension
        self._on_overdue = on_overdue
        self._requests: deque[_Request] = deque()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the runner has nothing to do."""
        return not self._requests

    @property
    def is_loading(self) -> bool:
        """Whether the runner loads a pipeline now."""
        return bool(self._requests) and self._requests[0].phase == "load"

    async def reply(self, phase: Phase, wall_s_max: float, on_stages: OnStages = ignore_stages) -> FromRunner:
        """The reply to a request that was just sent. Raises what `fail` was called with, or
        `RunnerInterrupted` if another request was at the head then."""
        # A run ends itself at its deadline, and is killed only if it does not.
        killed_after_s = wall_s_max + (self._policy.grace_s if phase == "run" else 0.0)
        request = _Request(self._loop.create_future(), phase, wall_s_max, killed_after_s, on_stages)
        self._requests.append(request)
        if self._requests[0] is request:
            self._watch_head()
        try:
            return await request.reply
        except asyncio.CancelledError:
            if self._requests and self._requests[0] is request:
                self._watch_head()
            raise

    def answer(self, message: FromRunner) -> None:
        """Give the head its reply, or report the stages that it has done. Raises `RunnerFailed` for a message
        that fits no request."""
        if isinstance(message, Reached):
            self._report_stages(self._requests[0], message.stages)
            return
        request = self._requests.popleft()
        if not request.reply.done():
            request.reply.set_result(message)
        self._watch_head()

    def fail(self, error: TradepostError) -> None:
        """End every request: the head with `error`, the others as interrupted by it."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for position, request in enumerate(self._requests):
            if not request.reply.done():
                to_blame = position == 0 and not isinstance(error, RunnerInterrupted)
                request.reply.set_exception(error if to_blame else RunnerInterrupted(str(error)))
        self._requests.clear()

    @staticmethod
    def _report_stages(head: _Request, stages: tuple[StageReport, ...]) -> None:
        """Each report has more stages than the one before it, so there are no more reports than stages."""
        if head.phase != "run" or len(stages) <= head.stages:
            raise RunnerFailed("the runner reported stages out of order")
        head.stages = len(stages)
        if not head.reply.done():
            head.on_stages(stages)

    def _watch_head(self) -> None:
        """Set the deadline of the request that now runs."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._requests:
            head = self._requests[0]
            left_s = self._policy.abandoned_s if head.reply.cancelled() else head.killed_after_s
            self._schedule(head, left_s)

    def _schedule(self, head: _Request, left_s: float) -> None:
        self._deadline = self._loop.call_later(left_s, self._pass_deadline, head, self._suspension.total_s)

    def _pass_deadline(self, head: _Request, suspended_s: float) -> None:
        if head.reply.cancelled():
            self._on_overdue(RunnerInterrupted("the lease was recalled"))
        elif (more_s := self._suspension.total_s - suspended_s) > _SUSPENDED_S_MIN:
            self._schedule(head, more_s)
        elif head.phase == "start":
            self._on_overdue(RunnerFailed(f"it did not start within {head.wall_s_max:g} s"))
        else:
            what = f"killed after {head.killed_after_s:.1f} s of its {head.phase}"
            self._on_overdue(PipelineTooCostly(what) if head.phase == "load" else LeaseTimeout(what))
