"""Runs every hostile case and the hunt, prints the figures as a table, and fails on any breach."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.cases import RETURNED, Case, wasm_case
from tradepost_worker.testing.hostile.hunt import Catch, hunt
from tradepost_worker.testing.hostile.models import onnx_cases
from tradepost_worker.testing.hostile.module_builders import reactor
from tradepost_worker.testing.hostile.modules import wasm_cases
from tradepost_worker.testing.hostile.trial import TrialOutcome, attempt

AGENT_GROWTH_BYTES_MAX: Final = 16 << 20
#: Cases that run side by side. More would measure the scheduler instead of the deadlines.
_SIDE_BY_SIDE: Final = 2


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of the corpus came to. Overruns are the worst: a factor for kernels, seconds for models."""

    isolation: tuple[str, ...]
    refused_layers: dict[str, str]
    wasm_cases: int
    onnx_cases: int
    contained: int
    wasm_overrun_ratio: float
    onnx_overrun_s: float
    agent_growth_bytes: int
    hunters: int
    control: tuple[str, ...]
    processes_left: int
    took_s: float
    breaches: tuple[str, ...]


@dataclass(frozen=True)
class _Outcome:
    verdict: TrialOutcome | None
    breaches: tuple[str, ...]


async def measure() -> Figures:
    """Run everything against this device's sandbox."""
    started_s = time.monotonic()
    this = psutil.Process()
    isolation = await _isolation()
    await attempt(wasm_case("warm-up", reactor, RETURNED))
    kernels, models = wasm_cases(), onnx_cases()
    for case in (*kernels, *models):
        case.build()  # loads what the builders need, which an agent has not: it must not count as growth
    before_bytes = _held_bytes(this)
    wasm, onnx = await _attempt_all(kernels), await _attempt_all(models)
    growth_bytes = _held_bytes(this) - before_bytes
    caught = await hunt()
    left = len(this.children(recursive=True))
    return Figures(
        isolation=isolation[0],
        refused_layers=isolation[1],
        wasm_cases=len(wasm),
        onnx_cases=len(onnx),
        contained=sum(not outcome.breaches for outcome in (*wasm, *onnx)),
        wasm_overrun_ratio=max((o.verdict.overrun_ratio for o in wasm if o.verdict), default=0.0),
        onnx_overrun_s=max((o.verdict.overrun_s for o in onnx if o.verdict), default=0.0),
        agent_growth_bytes=growth_bytes,
        hunters=caught.attempts,
        control=caught.control,
        processes_left=left,
        took_s=time.monotonic() - started_s,
        breaches=tuple(_breaches((*wasm, *onnx), caught, growth_bytes, left)),
    )


def _held_bytes(process: psutil.Process) -> int:
    """Resident memory, once what was freed has been given back: the C library keeps some of it for later."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)
    resident: int = process.memory_info().rss
    return resident


async def _isolation() -> tuple[tuple[str, ...], dict[str, str]]:
    runner = await RunnerProcess.start()
    try:
        return runner.ready.isolation.achieved, runner.ready.isolation.refused
    finally:
        await runner.close()


async def _attempt_all(cases: Sequence[Case]) -> list[_Outcome]:
    gate = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def one(case: Case) -> _Outcome:
        async with gate:
            try:
                verdict = await attempt(case)
            except Exception as defect:
                return _Outcome(None, (f"{case.name}: untyped {type(defect).__name__}: {defect}"[:400],))
        return _Outcome(verdict, tuple(f"{case.name}: {breach}" for breach in verdict.breaches()))

    return await asyncio.gather(*(one(case) for case in cases))


def _breaches(
    outcomes: Sequence[_Outcome], caught: Catch, growth_bytes: int, processes_left: int
) -> list[str]:
    found = [breach for outcome in outcomes for breach in outcome.breaches]
    found += caught.found
    found += [
        f"the hunt is broken: it misses the {what} without the lock-down, too" for what in caught.missed
    ]
    if growth_bytes > AGENT_GROWTH_BYTES_MAX:
        found.append(f"the agent grew by {growth_bytes:,} bytes")
    if processes_left:
        found.append(f"{processes_left} processes were left behind")
    return found


def _table(figures: Figures) -> Table:
    table = Table("containment", "figure", "bound")
    cases = figures.wasm_cases + figures.onnx_cases
    rows = (
        ("isolation", ", ".join(figures.isolation), ""),
        ("layers refused", ", ".join(figures.refused_layers) or "none", ""),
        ("hostile kernels", f"{figures.wasm_cases}", ">= 60"),
        ("hostile models", f"{figures.onnx_cases}", ">= 40"),
        ("contained", f"{figures.contained} of {cases}", "all"),
        ("worst overrun of a kernel's deadline", f"{figures.wasm_overrun_ratio:.2f} x", "2 x"),
        ("worst overrun of a model's deadline", f"{figures.onnx_overrun_s:.2f} s", "1 s"),
        ("growth of the agent's memory", f"{figures.agent_growth_bytes / 2**20:.1f} MiB", "16 MiB"),
        ("attempts to reach a planted secret", f"{figures.hunters}", "none finds one"),
        ("found by them without the lock-down", ", ".join(figures.control), "all but memory"),
        ("breaches", f"{len(figures.breaches)}", "0"),
        ("processes left behind", f"{figures.processes_left}", "0"),
        ("took", f"{figures.took_s:.0f} s", ""),
    )
    for row in rows:
        table.add_row(*row)
    return table


def main() -> int:
    """The command; its exit status is 1 if anything was not contained."""
    parser = argparse.ArgumentParser(prog="python -m tradepost_worker.testing.hostile", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    as_json = parser.parse_args().json
    figures = asyncio.run(measure())
    if as_json:
        print(msgspec.json.encode(figures).decode())
    else:
        console = Console()
        console.print(_table(figures))
        for breach in figures.breaches:
            console.print(f"BREACH {breach}", style="red", markup=False)
    return 1 if figures.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
