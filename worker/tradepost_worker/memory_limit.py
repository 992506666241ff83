"""Holds another process to a memory limit from outside.

On Linux RLIMIT_DATA makes allocations fail at once; it counts private memory only, so resident memory is also
looked at from time to time. (RLIMIT_AS would count wasmtime's reservations, which are no memory yet.)
"""

from __future__ import annotations

import resource
import sys

import psutil

from tradepost.errors import SandboxUnavailable


class MemoryLimit:
    """The memory of the process `pid`. Raises `SandboxUnavailable` if it cannot be measured."""

    def __init__(self, pid: int) -> None:
        try:
            self._process = psutil.Process(pid)
            self._process.memory_info()
        except psutil.Error as error:
            raise SandboxUnavailable(f"the memory of a runner cannot be measured: {error}") from error
        self._resident_bytes_max: int | None = None

    def allow(self, more_bytes: int) -> None:
        """Let the process use this much more than it does now."""
        used = self._process.memory_info()
        self._resident_bytes_max = used.rss + more_bytes
        if sys.platform == "linux":
            data_bytes_max = used.data + more_bytes
            resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (data_bytes_max, data_bytes_max))

    def excess(self) -> int | None:
        """The resident bytes, if they are over the limit. A process that has ended uses nothing."""
        if self._resident_bytes_max is None:
            return None
        try:
            used_bytes = self._process.memory_info().rss
        except psutil.NoSuchProcess:
            return None
        return used_bytes if used_bytes > self._resident_bytes_max else None
