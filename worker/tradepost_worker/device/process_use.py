"""Measures one process: processor time and resident memory."""

from __future__ import annotations

import psutil


def cpu_s(pid: int) -> float:
    """The processor time that a process has used; 0 for one that has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def resident_bytes(process: psutil.Process) -> int:
    """The resident memory of a process; 0 for one that has ended."""
    try:
        return process.memory_info().rss or _seen_by_other_threads(process)
    except psutil.NoSuchProcess:
        return 0


def _seen_by_other_threads(process: psutil.Process) -> int:
    """On Linux a process whose main thread has ended seems to have no memory, and may have all of it."""
    threads = [thread.id for thread in process.threads() if thread.id != process.pid]
    return max((psutil.Process(thread).memory_info().rss for thread in threads), default=0)
