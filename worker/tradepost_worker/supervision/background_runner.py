"""A runner that gives way to other programs, by a niceness that is set from outside.

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

from tradepost_worker.supervision.runner_process import RunnerProcess

#: Linux takes ten of these a second from all unprivileged processes together.
_RETRY_S: Final = 0.11


class NicedRunner(RunnerProcess):
    """A runner with a niceness. Make it with `start`, end it with `close`."""

    _session: int | None = None
    _nice = 0

    def give_way(self, nice: int) -> None:
        """Be this nice, as all threads that it starts later are. Without privilege a process can only be made
        nicer; a session can be made either."""
        self._nice = nice
        for thread in self.threads():
            with suppress(ProcessLookupError, PermissionError):  # it has ended, or is nicer already
                os.setpriority(os.PRIO_PROCESS, thread, nice)
        self._give_way_to_sessions()

    def threads(self) -> list[int]:
        """The threads that it has, as far as the system tells them."""
        try:
            return [thread.id for thread in psutil.Process(self.pid).threads()]
        except psutil.NoSuchProcess:
            return []
        except psutil.AccessDenied:  # some systems tell nobody the threads of another process
            return [self.pid]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process has started."""
        super().connection_made(transport)
        with suppress(OSError):  # this system does not group processes by session
            self._session = os.open(f"/proc/{self.pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended."""
        if self._session is not None:
            os.close(self._session)
            self._session = None
        super().connection_lost(exc)

    def _give_way_to_sessions(self) -> None:
        if self._session is None:
            return
        try:
            os.write(self._session, b"%d" % self._nice)
        except BlockingIOError:
            asyncio.get_running_loop().call_later(_RETRY_S, self._give_way_to_sessions)
        except ProcessLookupError:  # it has ended, and its pipes are not drained yet
            pass
