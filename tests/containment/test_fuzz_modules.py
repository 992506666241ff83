"""Generated kernels: whatever the module, agent and runner live, and three runs agree in output and fuel.

Two runs are in a locked-down runner process, as jobs are run, the third in this process with an engine of its
own. What is raised on the way is a typed refusal or the test fails, and so is the death of a process. Two
generators: well-typed modules, most of which run to their end (`wasm_programs`), and well-formed modules with
damage, which the checks must refuse or which run all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import tradepost_kernels
from tradepost.errors import InvalidKernel, Problem, StageFailure
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.runner.messages import Load, RunnerRefused
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.runner_policy import LOAD_S_MAX
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, sample_input
from wasm_damage import damaged_kernels
from wasm_programs import grown_kernels, statements_that_ran

FUEL = 3_000_000
WALL_S_MAX = 20.0
MEMORY_BYTES = 64 << 20
INPUT = sample_input(1, 2, 3)

#: How a run ended, what it gave and what it cost: all that must not vary.
Outcome = tuple[str, object, int]


class ReloadingRunner(RunnerProcess):
    """A runner that outlives its pipeline, since starting one costs half a second."""

    async def reload(self, pipeline: SamplePipeline) -> Problem | None:
        """Load another pipeline within the limits of the first; why it was refused, if it was."""
        message = Load(manifest=pipeline.manifest, artifacts=pipeline.artifacts)
        reply = await self._ask(message, LOAD_S_MAX, phase="load")
        return reply.problem if isinstance(reply, RunnerRefused) else None


async def start_runner() -> ReloadingRunner:
    runner = await ReloadingRunner.start()
    assert isinstance(runner, ReloadingRunner)
    first = kernel_pipeline(tradepost_kernels.load("noop"))
    await runner.load(
        first.manifest, first.artifacts, memory_bytes_max=MEMORY_BYTES, output_bytes_max=MEMORY_BYTES
    )
    return runner


class Bench:
    """The two places where kernels run: a runner process, and this process."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner()
        self._runner = self._loop.run(start_runner())
        self._sandbox, self._inference = Sandbox(), Inference(threads=1)

    def close(self) -> None:
        self._loop.run(self._runner.close())
        self._loop.close()

    def outcomes(self, wasm: bytes) -> tuple[Outcome, Outcome, Outcome]:
        pipeline = kernel_pipeline(wasm, fuel=FUEL)
        outcomes = (*self._loop.run(self._in_runner(pipeline)), self._here(pipeline))
        assert self._runner.is_alive
        return outcomes

    async def _in_runner(self, pipeline: SamplePipeline) -> tuple[Outcome, Outcome]:
        problem = await self._runner.reload(pipeline)
        if problem is not None:
            return refused(problem), refused(problem)
        first, second = [await self._runner.run(INPUT, wall_s_max=WALL_S_MAX) for _ in range(2)]
        return outcome(first.run), outcome(second.run)

    def _here(self, pipeline: SamplePipeline) -> Outcome:
        try:
            executor = Executor(
                pipeline.manifest, pipeline.artifacts, sandbox=self._sandbox, inference=self._inference
            )
        except StageFailure as failure:
            return refused(failure.to_problem())
        return outcome(executor.run(INPUT, wall_s_max=WALL_S_MAX))


def refused(problem: Problem) -> Outcome:
    return problem.code, problem.detail, 0


def outcome(run: PipelineRun) -> Outcome:
    if run.failure is not None:
        return refused(run.failure)
    return "returned", run.output, run.stages[0].fuel


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.extended
@given(wasm=grown_kernels())
def test_grown_kernels_run_and_agree_with_themselves(bench: Bench, wasm: bytes) -> None:
    first, second, third = bench.outcomes(wasm)
    event(f"outcome: {first[0]}")
    assert first[0] != InvalidKernel.code(), first
    assert first == second == third
    if first[0] == "returned":
        for kind in statements_that_ran(first[1]):
            event(f"ran: {kind}")


COMPILED = st.sampled_from(sorted(tradepost_kernels.names())).map(tradepost_kernels.load)


@pytest.mark.extended
@given(wasm=damaged_kernels(COMPILED | grown_kernels()))
def test_damaged_kernels_are_refused_or_agree_with_themselves(bench: Bench, wasm: bytes) -> None:
    first, second, third = bench.outcomes(wasm)
    event(f"outcome: {first[0]}")
    assert first == second == third
