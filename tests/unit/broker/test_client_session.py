"""A client's stream serves long messages in slices, and sends no faster than the client reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.strategies.loop_turns import LoopTurns

from tradepost.errors import QuotaExceeded
from tradepost.protocol import JobStatus, JobView, Watch, broker_codec_for_clients, client_codec
from tradepost_broker.streams.frame_queue import QUEUE_BYTES_MAX
from tradepost_broker.streams.pace import SLICE_S
from tradepost_broker.web.client_stream import WATCHES_MAX, _Session


class FakeEngine:
    """Always has room."""

    async def ready(self) -> None:
        """Return at once."""


class FakeJobs:
    """Jobs that have ended with an output. Looking one up takes a slice of the loop's time if `is_slow`."""

    def __init__(self, *, output: bytes = b"", is_slow: bool = False) -> None:
        self.watched: list[str] = []
        self.turns: set[int] = set()
        self._output = output
        self._is_slow = is_slow
        self._loop_turns = LoopTurns()

    def watch(self, account: str, job: str, watcher: Callable[[JobView], None]) -> None:
        """Answer at once."""
        self.watched.append(job)
        self.turns.add(self._loop_turns.count)
        if self._is_slow:
            until = time.perf_counter() + SLICE_S
            while time.perf_counter() < until:
                pass
        watcher(
            JobView(job=job, status=JobStatus.ACCEPTED, pipeline="", submitted_at=0.0, output=self._output)
        )

    def unwatch(self, job: str, watcher: Callable[[JobView], None]) -> None:
        """Forget nothing."""

    def stop(self) -> None:
        """Count no more turns."""
        self._loop_turns.stop()


def session_of(jobs: FakeJobs) -> Any:
    """A stream's session."""
    fakes: Any = (FakeEngine(), None, jobs)
    return _Session("alice", broker_codec_for_clients(), *fakes, WATCHES_MAX)


async def test_others_have_a_turn_while_many_jobs_are_looked_up() -> None:
    jobs = FakeJobs(is_slow=True)
    await session_of(jobs).take(client_codec().encode([Watch(tuple("abcdef"))]))
    jobs.stop()
    assert jobs.watched == list("abcdef")
    assert len(jobs.turns) == 6


async def test_a_message_that_watches_too_many_jobs_is_refused_before_any_is_looked_up() -> None:
    jobs = FakeJobs()
    watch = Watch(tuple(map(str, range(WATCHES_MAX))))
    session = session_of(jobs)
    with pytest.raises(QuotaExceeded, match="watches 8,192 jobs; at most 4,096 are allowed"):
        await session.take(client_codec().encode([watch, watch]))
    assert jobs.watched == []
    await session.take(client_codec().encode([watch]))
    jobs.stop()
    assert len(jobs.watched) == WATCHES_MAX


async def test_a_client_that_asks_for_much_and_reads_is_not_cut_off() -> None:
    output = bytes(1 << 20)
    jobs = FakeJobs(output=output)
    session = session_of(jobs)
    received: list[str] = []

    class Socket:
        async def send_bytes(self, message: bytes) -> None:
            await asyncio.sleep(0)
            received.extend(frame["view"]["job"] for frame in msgspec.msgpack.decode(message))

    sending = asyncio.create_task(session.queue.run(Socket()))
    wanted = [str(number) for number in range(2 * QUEUE_BYTES_MAX // len(output))]
    await session.take(client_codec().encode([Watch(tuple(wanted))]))
    assert not session.queue.has_ended
    while len(received) < len(wanted):
        await session.queue.room()
        await asyncio.sleep(0)
    jobs.stop()
    sending.cancel()
    assert received == wanted
