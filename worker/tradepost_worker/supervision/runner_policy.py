"""How long a runner may take, and what it may use beyond its pipeline's own limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tradepost_worker.supervision.idle_watch import IDLE_CPU_S_MAX, WINDOW_S

#: A kernel of Go's standard library (4 MB) takes 31 s of processor time to compile on a slow core.
LOAD_S_MAX: Final = 120.0
#: What compiling may use, by the kernel's size: measured were 308 bytes for each byte of that kernel.
COMPILE_BYTES_PER_BYTE: Final = 512
#: What the engines may use beyond the pipeline's own limits.
MEMORY_OVERHEAD_BYTES: Final = 256 << 20


@dataclass(frozen=True, kw_only=True)
class RunnerPolicy:
    """The limits of one runner that do not depend on its pipeline.

    `start_s_max` is how long the process may take until it is ready: a niced
    process on a busy device gets little of it. `grace_s` is how much longer than its
    own deadline a run may take before the process is killed. `abandoned_s` is how long a run may go on after
    its caller gave it up: less than starting a runner costs. `look_s` is the interval at which memory,
    threads and idle work are checked. `idle_window_s` and `idle_cpu_s_max` are those of `IdleWatch`.
    """

    start_s_max: float = 300.0
    grace_s: float = 0.5
    abandoned_s: float = 0.1
    look_s: float = 0.05
    memory_overhead_bytes: int = MEMORY_OVERHEAD_BYTES
    idle_window_s: float = WINDOW_S
    idle_cpu_s_max: float = IDLE_CPU_S_MAX


DEFAULTS: Final = RunnerPolicy()
