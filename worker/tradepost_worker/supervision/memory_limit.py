"""Limits the memory and the threads of another process from outside.

On Linux RLIMIT_DATA makes allocations fail at once; it counts private memory only, so resident memory is also
looked at from time to time. (RLIMIT_AS would count wasmtime's reservations, which are no memory yet.)
Threads are counted in the same look: each costs the system memory that neither of the two limits counts, and
one of the processes that the owner may have. (RLIMIT_NPROC would count all that the owner runs.)
"""

from __future__ import annotations

import resource
import sys

import psutil

from tradepost.errors import SandboxUnavailable
from tradepost_worker.device.process_use import resident_bytes


class MemoryLimit:
    """The memory of the process `pid`, and its threads, of which there may be `threads_max`.
    Raises `SandboxUnavailable` if they cannot be measured."""

    def __init__(self, pid: int, *, threads_max: int) -> None:
        try:
            self._process = psutil.Process(pid)
            self._process.memory_info()
        except psutil.Error as error:
            raise SandboxUnavailable(f"the memory of a runner cannot be measured: {error}") from error
        self._threads_max = threads_max
        self._resident_bytes_max: int | None = None

    def allow(self, more_bytes: int) -> None:
        """Let the process use this much more than it does now."""
        used = self._process.memory_info()
        self._resident_bytes_max = used.rss + more_bytes
        if sys.platform == "linux":
            data_bytes_max = used.data + more_bytes
            resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (data_bytes_max, data_bytes_max))

    def used_bytes(self) -> int:
        """The resident memory. A process that has ended uses nothing."""
        return resident_bytes(self._process)

    def excess(self) -> str | None:
        """What is over its limit, in words. A process that has ended uses nothing."""
        try:
            threads = self._process.num_threads()
        except psutil.NoSuchProcess:
            return None
        if threads > self._threads_max:
            return f"{threads:,} threads; the limit is {self._threads_max:,}"
        used_bytes = self.used_bytes()
        if self._resident_bytes_max is not None and used_bytes > self._resident_bytes_max:
            return f"{used_bytes:,} bytes of memory"
        return None
