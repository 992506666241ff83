"""A session's niceness reaches the kernel when it takes it, and does not miss a runner that has ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tradepost_worker.supervision.niceness import Niceness
from tradepost_worker.testing.lent_device import until


def niceness_with(session: int, *, pid: int) -> Niceness:
    """The niceness of a process that has ended, with this as the file of its session's niceness."""
    niceness = Niceness(pid, retry_s=0.001)
    niceness.close()
    niceness._session = session
    return niceness


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no niceness of sessions here")
async def test_a_kernel_that_is_asked_too_often_is_asked_again() -> None:
    """A full pipe answers as the kernel does, with EAGAIN."""
    kernel, session = os.pipe()
    os.set_blocking(session, False)
    with suppress(BlockingIOError):
        while True:
            os.write(session, bytes(1 << 16))
    pid, ended = ended_session()
    os.close(ended)
    niceness = niceness_with(session, pid=pid)
    niceness.set(3)
    niceness.set(7)
    while select.select([kernel], [], [], 0)[0]:
        os.read(kernel, 1 << 20)
    await until(lambda: select.select([kernel], [], [], 0)[0])
    assert os.read(kernel, 1) == b"7"  # what was set last
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
    niceness_with(session, pid=pid).set(5)
    os.close(session)
