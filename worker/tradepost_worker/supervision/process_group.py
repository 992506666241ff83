"""The process group of one runner: killed with all that it started, stopped and continued as one.

A runner leads a session of its own, so its process id is the id of its group.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tradepost_worker.supervision.control_group import ControlGroup


class Suspension:
    """Whether a process group is stopped, and how long it has been stopped so far."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since_s: float | None = None
        self._earlier_s = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the group is stopped now."""
        return self._since_s is not None

    @property
    def total_s(self) -> float:
        """The seconds of all suspensions, the ongoing one included."""
        return self._earlier_s + (0.0 if self._since_s is None else self._monotonic() - self._since_s)

    def begin(self) -> None:
        """Count from now on. Only after `end`, or at first."""
        self._since_s = self._monotonic()

    def end(self) -> None:
        """Stop counting."""
        self._earlier_s, self._since_s = self.total_s, None


class ProcessGroup:
    """The group that the process `leader` leads; its control group, if it has one, is killed with it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self.control_group: ControlGroup | None = None

    def kill(self) -> None:
        """Kill every process of the group."""
        self.send(signal.SIGKILL)
        if self.control_group is not None:
            self.control_group.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._leader, number)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it at the limit of its control group."""
        return self.control_group is not None and self.control_group.ran_out_of_memory()
