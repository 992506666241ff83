"""A session's niceness reaches the kernel when it takes it, and does not miss a runner that has ended."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from tradepost_worker.supervision import background_runner
from tradepost_worker.supervision.background_runner import NicedRunner
from tradepost_worker.testing.lent_device import until


def runner_with(session: int, *, pid: int) -> NicedRunner:
    """A runner that has not started, with this as the file of its session's niceness."""
    runner = NicedRunner(cast(asyncio.WriteTransport, None))
    runner.pid, runner._session = pid, session
    return runner


async def test_a_kernel_that_is_asked_too_often_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe answers as the kernel does, with EAGAIN."""
    monkeypatch.setattr(background_runner, "_RETRY_S", 0.001)
    monkeypatch.setattr(NicedRunner, "threads", lambda _: [])
    kernel, session = os.pipe()
    os.set_blocking(session, False)
    with suppress(BlockingIOError):
        while True:
            os.write(session, bytes(1 << 16))
    runner = runner_with(session, pid=0)
    runner.give_way(3)
    runner.give_way(7)
    while select.select([kernel], [], [], 0)[0]:
        os.read(kernel, 1 << 20)
    await until(lambda: select.select([kernel], [], [], 0)[0])
    assert os.read(kernel, 1) == b"7"  # what was wanted last
    os.set_blocking(session, True)
    await until(lambda: select.select([kernel], [], [], 0)[0])  # and so said the other attempt
    os.close(kernel)
    os.close(session)


def ended_session() -> tuple[int, int]:
    """The id of a process that has ended, and the file of its session's niceness, still open."""
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    session = os.open(f"/proc/{process.pid}/autogroup", os.O_WRONLY)
    process.communicate(b"\n")
    return process.pid, session


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no niceness of sessions here")
async def test_a_runner_that_has_ended_needs_no_niceness() -> None:
    pid, session = ended_session()
    runner_with(session, pid=pid).give_way(5)
    os.close(session)
