"""Why a runner ended, as the error that its caller gets.

A runner is not believed: what it wrote to stderr, and the errors with which it refuses, become plain text and
errors of the kinds that such a request can have.
"""

from __future__ import annotations

import signal
from typing import Final

from tradepost.errors import (
    InputTooCostly,
    InvalidInput,
    InvalidTensorDocument,
    LeaseTimeout,
    NoEligibleWorker,
    PipelineTooCostly,
    Problem,
    RunnerFailed,
    SandboxUnavailable,
    StageFailure,
    TradepostError,
)
from tradepost.untrusted_text import plain

#: With what a runner may refuse to load, and to run.
LOAD_REFUSALS: Final = (StageFailure, NoEligibleWorker, PipelineTooCostly)
RUN_REFUSALS: Final = (
    InputTooCostly,
    InvalidInput,
    InvalidTensorDocument,
    LeaseTimeout,
    SandboxUnavailable,
)
_STDERR_TAIL_BYTES: Final = 4096
_STDERR_BYTES_MAX: Final = 1 << 20
_LAST_LINE_CHARS_MAX: Final = 300


class ErrorOutput:
    """The end of what a runner wrote to stderr, and how much that was."""

    def __init__(self) -> None:
        self._tail = b""
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._tail = (self._tail + data)[-_STDERR_TAIL_BYTES:]
        self._bytes += len(data)

    def excess(self) -> str | None:
        """How much it wrote, in words, if that is too much: reading on would only keep the agent busy."""
        return f"{self._bytes:,} bytes to stderr" if self._bytes > _STDERR_BYTES_MAX else None

    def last_line(self) -> str:
        """The last line, plain and short; empty if there is none."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return plain(lines[-1], chars_max=_LAST_LINE_CHARS_MAX) if lines else ""


def exit_reason(status: int | None, *, ran_out_of_memory: bool, last_line: str) -> str:
    """How a runner ended, in words, from its exit status (a negative signal number if it was killed)."""
    if ran_out_of_memory:
        return "the system killed the runner at its memory limit"
    if status is not None and status < 0:
        how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
    else:
        how = f"exited with status {status}"
    return f"the runner {how}" + (f": {last_line}" if last_line else "")


def failure(reason: str, *, is_loading: bool) -> TradepostError:
    """The end of a runner, for a reason in words.

    While it loads, neither side is to blame: how much an artifact takes differs by device, and so does how a
    compiler or onnxruntime dies of it.
    """
    return PipelineTooCostly(reason) if is_loading else RunnerFailed(reason)


def refusal(problem: Problem, expected: tuple[type[TradepostError], ...]) -> TradepostError:
    """The error of a request that a runner refused: one of the `expected` kinds, else `RunnerFailed`."""
    error = TradepostError.from_problem(problem.of_a_stranger())
    return error if isinstance(error, expected) else RunnerFailed(f"the runner reported an error: {error}")
