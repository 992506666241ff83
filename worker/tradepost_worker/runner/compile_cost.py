"""Measures what compiling a kernel costs: `python -m tradepost_worker.runner.compile_cost < kernel.wasm`.

A process of its own, since the peak of a process's memory never falls again. It prints JSON.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from tradepost_worker.runner.kernel_sandbox import Sandbox

_STATUS: Final = Path("/proc/self/status")


def measure_compile_cost(wasm: bytes) -> tuple[int, float]:
    """The memory (bytes) that compiling adds to this process at its peak, and the processor time (seconds).

    Raises `InvalidKernel` or `PipelineTooCostly`.
    """
    sandbox = Sandbox()
    before_bytes, before_s = _peak_bytes(), time.process_time()
    sandbox.load(wasm)
    return _peak_bytes() - before_bytes, time.process_time() - before_s


def _peak_bytes() -> int:
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    # On Linux, `ru_maxrss` begins with the peak of the process that started this one.
    lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
    return next(int(value.split()[0]) << 10 for name, _, value in lines if name == "VmHWM")


if __name__ == "__main__":
    memory_bytes, cpu_s = measure_compile_cost(sys.stdin.buffer.read())
    measured = {"memory_bytes": memory_bytes, "cpu_s": round(cpu_s, 3)}
    sys.stdout.buffer.write(msgspec.json.encode(measured))
