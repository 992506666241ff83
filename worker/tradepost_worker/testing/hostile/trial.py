"""Runs hostile cases as jobs run: through the pool, in a real runner, locked down, from load to verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import psutil

from tradepost.errors import TradepostError
from tradepost.pipeline.manifest import Manifest
from tradepost_worker.runner.messages import Ran
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.fair_clock import FairClock
from tradepost_worker.testing.hostile.cases import RETURNED, Case
from tradepost_worker.testing.samples import sample_input

#: By how much a deadline may be missed: a factor for kernels, seconds for models.
WASM_OVERRUN_MAX: Final = 2.0
ONNX_OVERRUN_S_MAX: Final = 1.0
#: No phase takes this long, however busy the machine.
_REAL_S_MAX: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a case. `said` is everything that it could tell the world."""

    case: Case
    code: str
    said: bytes
    load_s: float
    run_s: float
    left_behind: tuple[int, ...] = ()

    @property
    def overrun_ratio(self) -> float:
        """The longest phase, in its deadlines."""
        return max(self.load_s / self.case.load_s, self.run_s / self.case.wall_s)

    @property
    def overrun_s(self) -> float:
        """By how many seconds a deadline was missed."""
        return max(0.0, self.load_s - self.case.load_s, self.run_s - self.case.wall_s)

    def breaches(self) -> list[str]:
        """What was not contained, in words."""
        found = []
        if self.code not in self.case.verdicts:
            found.append(f"ended as {self.code} ({self.said[:200]!r}), not {' or '.join(self.case.verdicts)}")
        if self.case.engine == "wasm" and self.overrun_ratio > WASM_OVERRUN_MAX:
            found.append(f"ran {self.overrun_ratio:.1f} times its deadline")
        if self.case.engine == "onnx" and self.overrun_s > ONNX_OVERRUN_S_MAX:
            found.append(f"ran {self.overrun_s:.1f} s past its deadline")
        if self.left_behind:
            found.append(f"left the processes {self.left_behind} behind")
        return found


@dataclass(eq=False)
class _Watch:
    """Starts the runner of one case and notes how long each phase takes."""

    case: Case
    pids: list[int] = field(default_factory=list)
    load_s: float = 0.0
    run_s: float = 0.0

    async def start(self) -> RunnerProcess:
        watch = self

        class WatchedRunner(RunnerProcess):
            async def load(
                self,
                manifest: Manifest,
                artifacts: Mapping[str, bytes],
                *,
                memory_bytes_max: int,
                output_bytes_max: int,
                compiled: Mapping[str, bytes] | None = None,
                load_s_max: float = 0.0,
            ) -> dict[str, bytes]:
                clock = FairClock(os.getpid(), self.pid, real_s_max=_REAL_S_MAX)
                try:
                    return await super().load(
                        manifest,
                        artifacts,
                        memory_bytes_max=memory_bytes_max,
                        output_bytes_max=output_bytes_max,
                        compiled=compiled,
                        load_s_max=watch.case.load_s,
                    )
                finally:
                    watch.load_s = clock.passed_s()

            async def run(
                self, document: bytes, *, wall_s_max: float, on_stages: OnStages = lambda _: None
            ) -> Ran:
                clock = FairClock(os.getpid(), self.pid, real_s_max=_REAL_S_MAX)
                try:
                    return await super().run(document, wall_s_max=wall_s_max, on_stages=on_stages)
                finally:
                    watch.run_s = clock.passed_s()

        runner = await WatchedRunner.start()
        self.pids.append(runner.pid)
        return runner


async def attempt(case: Case) -> TrialOutcome:
    """Run `case` on the sample input, in a runner of its own, which is gone afterwards."""
    watch = _Watch(case)
    pool = RunnerPool(runners_max=1, start=watch.start)
    try:
        run = await pool.run(case.pipeline(), sample_input(1, 2, 3), wall_s_max=case.wall_s)
        code = RETURNED if run.failure is None else run.failure.code
        said = run.output if run.failure is None else run.failure.detail.encode()
    except TradepostError as error:
        code, said = error.code(), error.diagnostics().encode()
    finally:
        await pool.close()
    return TrialOutcome(
        case=case,
        code=code,
        said=said,
        load_s=watch.load_s,
        run_s=watch.run_s,
        left_behind=tuple(pid for pid in watch.pids if psutil.pid_exists(pid)),
    )
