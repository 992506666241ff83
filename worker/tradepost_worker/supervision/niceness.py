"""Sets the niceness of a runner from outside, so that other programs have priority.

Where Linux shares the processor among sessions first (autogroups), a process's niceness counts within its own
session only, and every runner has a session to itself: the session's niceness is what counts then. It is
written to a file that nobody without privilege can open once the runner has locked itself down, so it is
opened as soon as there is a runner. Source: sched(7).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Final

import psutil

#: Linux accepts ten of these writes a second from all unprivileged processes together.
RETRY_S: Final = 0.11


class Niceness:
    """The niceness of the process `pid` and of its session. Make it when the process has just started, and
    `close` it when the process has ended."""

    def __init__(self, pid: int, *, retry_s: float = RETRY_S) -> None:
        self._pid = pid
        self._retry_s = retry_s
        self._nice = 0
        self._session: int | None = None
        with suppress(OSError):  # this system does not group processes by session
            self._session = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)

    def set(self, nice: int) -> None:
        """Give all threads this niceness, which those that start later inherit. Without privilege a process
        can only be made nicer; a session can be made either."""
        self._nice = nice
        for thread in threads_of(self._pid):
            with suppress(ProcessLookupError, PermissionError):  # it has ended, or is nicer already
                os.setpriority(os.PRIO_PROCESS, thread, nice)
        self._set_of_session()

    def close(self) -> None:
        """Write no more."""
        if self._session is not None:
            os.close(self._session)
            self._session = None

    def _set_of_session(self) -> None:
        if self._session is None:
            return
        try:
            os.write(self._session, b"%d" % self._nice)
        except BlockingIOError:
            asyncio.get_running_loop().call_later(self._retry_s, self._set_of_session)
        except ProcessLookupError:  # it has ended, and its pipes are not drained yet
            pass


def threads_of(pid: int) -> list[int]:
    """The ids of a process's threads; none for one that has ended."""
    try:
        return [thread.id for thread in psutil.Process(pid).threads()]
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied:  # some systems show nobody the threads of another process
        return [pid]
