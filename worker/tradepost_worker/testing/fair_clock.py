"""A clock for promises in seconds, which leaves out what the system's scheduler delays on a busy machine."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

#: Seconds that no scheduler explains.
UNFAIR_S_MAX: Final = 30.0


class FairClock:
    """Seconds that passed without those in which these processes waited for a core, one after the other.

    On a quiet machine it shows the time. On a busy one the scheduler's delays are not the worker's. Threads
    wait side by side, so of each process only the thread that waited longest counts.
    """

    def __init__(self, *pids: int, real_s_max: float = UNFAIR_S_MAX) -> None:
        self._real_s_max = real_s_max
        self._began_s = time.monotonic()
        self._waited_ns: dict[int, dict[Path, int]] = {pid: {} for pid in pids}
        self.look()
        self._before_ns = {pid: dict(threads) for pid, threads in self._waited_ns.items()}

    def passed_s(self) -> float:
        """Seconds since the start, without those waits.

        Raises `AssertionError` after `real_s_max` seconds of real time.
        """
        self.look()
        elapsed_s = time.monotonic() - self._began_s
        assert elapsed_s < self._real_s_max, "no scheduler delays a process that long"
        return elapsed_s - sum(self._longest_wait_ns(pid) for pid in self._waited_ns) / 1e9

    def look(self) -> None:
        """Read how long each thread waited, the second number in its `schedstat`; keep that of ended ones."""
        for pid, threads in self._waited_ns.items():
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # the thread has ended
                    threads[path] = int(path.read_text().split()[1])

    def _longest_wait_ns(self, pid: int) -> int:
        before_ns = self._before_ns[pid]
        waits_ns = (ns - before_ns.get(path, 0) for path, ns in self._waited_ns[pid].items())
        return max(waits_ns, default=0)
