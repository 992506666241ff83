"""The pool's choices, with runners that only pretend: who runs where, who waits, who gives way."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tradepost.errors import InvalidKernel, KernelTrap, Problem, RunnerFailed, RunnerInterrupted
from tradepost.receipts import StageReport
from tradepost_worker.runner.messages import Ran
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_policy import MEMORY_OVERHEAD_BYTES
from tradepost_worker.supervision.runner_pool import IDLE_S, RunnerPool, bytes_of, check_run
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, kernels_pipeline

A = kernel_pipeline(b"a", name="a")
B = kernel_pipeline(b"b", name="b")
C = kernel_pipeline(b"c", name="c")
REPORT = StageReport(stage="kernel", output="0" * 64)
LONG_US, SHORT_US = 1_000_000, 100


class PretendedRunner:
    """Notes what it is asked; a run ends when the test says so."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pipeline = ""
        self.is_alive = True
        self.memory_bytes = 1000
        self.runs: dict[bytes, asyncio.Future[Ran]] = {}

    async def load(self, manifest: Any, artifacts: Any, **limits: Any) -> dict[str, bytes]:
        self.pipeline = manifest.name
        self.limits = limits
        if self.device.load_error is not None:
            raise self.device.load_error
        return {cid: b"compiled" for cid in artifacts if cid not in limits["compiled"]}

    async def run(self, document: bytes, *, wall_s_max: float, on_stages: OnStages) -> Ran:
        self.runs[document] = asyncio.get_running_loop().create_future()
        self.on_stages = on_stages
        try:
            return await self.runs[document]
        finally:
            del self.runs[document]

    async def close(self) -> None:
        self.is_alive = False

    def finish(self, document: bytes, *, wall_us: int = LONG_US) -> None:
        run = PipelineRun(stages=(REPORT,), output=document)
        self.runs[document].set_result(Ran(run=run, wall_us=wall_us))

    def die(self) -> None:
        self.is_alive = False
        for run in self.runs.values():
            run.set_exception(RunnerInterrupted("another run"))


class Device:
    """A pool and the runners that it started."""

    def __init__(self, *, runners_max: int) -> None:
        self.runners: list[PretendedRunner] = []
        self.load_error: Exception | None = None
        self.now_s = 0.0
        self.pool = RunnerPool(
            runners_max=runners_max,
            start=self.start,  # type: ignore[arg-type]
            monotonic=lambda: self.now_s,
        )

    async def start(self) -> PretendedRunner:
        self.runners.append(PretendedRunner(self))
        return self.runners[-1]

    def ask(self, pipeline: SamplePipeline, document: bytes) -> asyncio.Task[PipelineRun]:
        return asyncio.create_task(self.pool.run(pipeline, document, wall_s_max=10))

    async def settle(self) -> None:
        """Let everything that can happen happen."""
        for _ in range(20):
            await asyncio.sleep(0)

    def running(self) -> dict[str, list[list[bytes]]]:
        """Pipeline -> what each of its live runners has in hand."""
        state: dict[str, list[list[bytes]]] = {}
        for runner in self.runners:
            if runner.is_alive:
                state.setdefault(runner.pipeline, []).append(sorted(runner.runs))
        return state

    def finish(self, document: bytes, *, wall_us: int = LONG_US) -> None:
        for runner in self.runners:
            if document in runner.runs:
                runner.finish(document, wall_us=wall_us)


LARGE = kernel_pipeline(bytes(2 << 20), name="large")


async def test_a_large_kernel_may_use_more_memory_for_compiling_and_runs_in_a_fresh_process() -> None:
    device = Device(runners_max=1)
    device.pool.memory_bytes_max = 4 << 30
    asked = device.ask(LARGE, b"1")
    await device.settle()
    device.finish(b"1")
    await asked
    first, second = device.runners
    assert first.limits["memory_bytes_max"] == 1 << 30
    assert second.limits["memory_bytes_max"] == bytes_of(LARGE.manifest)
    assert list(second.limits["compiled"].values()) == [b"compiled"]
    assert (first.is_alive, second.is_alive) == (False, True)
    await device.pool.close()


async def test_compiling_a_large_kernel_ends_idle_runners_that_would_leave_too_little_memory() -> None:
    device = Device(runners_max=2)
    device.pool.memory_bytes_max = (1 << 30) + MEMORY_OVERHEAD_BYTES
    asked = device.ask(A, b"1")
    await device.settle()
    device.finish(b"1")
    await asked
    device.runners[0].memory_bytes = 300 << 20
    asked = device.ask(LARGE, b"2")
    await device.settle()
    assert not device.runners[0].is_alive
    device.finish(b"2")
    await asked
    await device.pool.close()


async def test_compiling_never_uses_more_than_the_owner_lends() -> None:
    device = Device(runners_max=1)
    device.pool.memory_bytes_max = 700 << 20
    asked = device.ask(LARGE, b"1")
    await device.settle()
    device.finish(b"1")
    await asked
    assert device.runners[0].limits["memory_bytes_max"] == 700 << 20
    await device.pool.close()


async def test_a_runner_stays_warm_for_its_pipeline():
    device = Device(runners_max=2)
    for document in (b"1", b"2"):
        asked = device.ask(A, document)
        await device.settle()
        device.finish(document)
        assert (await asked).output == document
    assert len(device.runners) == 1
    await device.pool.close()
    assert not device.runners[0].is_alive


async def test_a_second_job_gets_a_second_runner_and_the_third_waits():
    device = Device(runners_max=2)
    asked = [device.ask(A, name) for name in (b"1", b"2", b"3")]
    await device.settle()
    assert device.running() == {"a": [[b"1"], [b"2"]]}
    device.finish(b"2")
    await device.settle()
    assert device.running() == {"a": [[b"1"], [b"3"]]}
    device.finish(b"1")
    device.finish(b"3")
    await asyncio.gather(*asked)
    await device.pool.close()


@pytest.mark.parametrize(("wall_us", "depth"), [(SHORT_US, 4), (20_000, 2), (60_000, 1)])
async def test_short_runs_are_sent_ahead_of_their_turn(wall_us: int, depth: int):
    device = Device(runners_max=1)
    for number in range(40):  # until the mean is this
        asked = device.ask(A, b"%d" % number)
        await device.settle()
        device.finish(b"%d" % number, wall_us=wall_us)
        await asked
    waiting = [device.ask(A, b"x%d" % number) for number in range(6)]
    await device.settle()
    assert device.running() == {"a": [[b"x%d" % number for number in range(depth)]]}
    for number in range(6):
        device.finish(b"x%d" % number, wall_us=wall_us)
        await device.settle()
    await asyncio.gather(*waiting)
    await device.pool.close()


async def test_a_pipeline_without_a_runner_takes_the_place_that_was_idle_longest():
    device = Device(runners_max=2)
    for pipeline in (A, B):
        asked = device.ask(pipeline, b"1")
        await device.settle()
        device.finish(b"1")
        await asked
    asked = device.ask(C, b"2")
    await device.settle()
    assert device.running() == {"b": [[]], "c": [[b"2"]]}
    device.finish(b"2")
    await asked
    await device.pool.close()


A_BYTES = bytes_of(A.manifest) + MEMORY_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("memory_bytes_max", "left"),
    [(1000 + A_BYTES, {"b": [[]]}), (999 + A_BYTES, {}), (1, {})],
    ids=["fits", "a byte too much", "never fits"],
)
async def test_idle_runners_end_before_memory_could_run_out(
    memory_bytes_max: int, left: dict[str, list[list[bytes]]]
) -> None:
    device = Device(runners_max=4)
    asked = device.ask(B, b"b")
    await device.settle()
    device.finish(b"b")
    await asked
    device.pool.memory_bytes_max = memory_bytes_max
    asked = device.ask(A, b"1")
    await device.settle()
    assert device.running() == left | {"a": [[b"1"]]}
    device.finish(b"1")
    await asked
    await device.pool.close()


async def test_runners_that_work_are_left_to_the_governor() -> None:
    device = Device(runners_max=4)
    device.pool.memory_bytes_max = 1
    asked = [device.ask(pipeline, b"1") for pipeline in (A, B, C)]
    await device.settle()
    assert device.running() == {"a": [[b"1"]], "b": [[b"1"]], "c": [[b"1"]]}
    for runner in device.runners:
        runner.finish(b"1")
    await asyncio.gather(*asked)
    await device.pool.close()


@pytest.mark.parametrize(("lent_bytes", "allowed_bytes"), [(1 << 40, bytes_of(A.manifest)), (7, 7)])
async def test_no_runner_may_use_more_than_is_lent(lent_bytes: int, allowed_bytes: int) -> None:
    device = Device(runners_max=1)
    device.pool.memory_bytes_max = lent_bytes
    asked = device.ask(A, b"1")
    await device.settle()
    assert device.runners[0].limits["memory_bytes_max"] == allowed_bytes
    device.finish(b"1")
    await asked
    await device.pool.close()


async def test_only_as_many_idle_runners_end_as_memory_needs() -> None:
    device = Device(runners_max=4)
    for pipeline in (A, B):
        asked = device.ask(pipeline, b"1")
        await device.settle()
        device.finish(b"1")
        await asked
    device.pool.memory_bytes_max = 1000 + bytes_of(C.manifest) + MEMORY_OVERHEAD_BYTES
    asked = device.ask(C, b"1")
    await device.settle()
    assert device.running() == {"b": [[]], "c": [[b"1"]]}
    device.finish(b"1")
    await asked
    await device.pool.close()


async def test_a_second_runner_takes_no_place_that_was_just_used():
    device = Device(runners_max=2)
    first = device.ask(B, b"b")
    await device.settle()
    device.finish(b"b")
    await first
    asked = [device.ask(A, name) for name in (b"1", b"2")]
    await device.settle()
    assert device.running() == {"a": [[b"1"]], "b": [[]]}
    device.now_s += IDLE_S
    asked.append(device.ask(A, b"3"))
    await device.settle()
    assert device.running() == {"a": [[b"1"], [b"2"]]}
    for name in (b"1", b"2", b"3"):
        device.finish(name)
        await device.settle()
    await asyncio.gather(*asked)
    await device.pool.close()


async def test_a_busy_pipeline_does_not_keep_another_one_out():
    device = Device(runners_max=1)
    for number in range(40):
        asked = device.ask(A, b"%d" % number)
        await device.settle()
        device.finish(b"%d" % number, wall_us=SHORT_US)
        await asked
    before = [device.ask(A, b"x0"), device.ask(A, b"x1")]
    other = device.ask(B, b"y")
    after = device.ask(A, b"x2")  # there would be room behind x1
    await device.settle()
    assert device.running() == {"a": [[b"x0", b"x1"]]}
    device.finish(b"x0", wall_us=SHORT_US)
    device.finish(b"x1", wall_us=SHORT_US)
    await device.settle()
    assert device.running() == {"b": [[b"y"]]}
    device.finish(b"y")
    await device.settle()
    device.finish(b"x2")
    await asyncio.gather(*before, other, after)
    await device.pool.close()


async def test_a_run_that_another_one_interrupted_is_asked_again():
    device = Device(runners_max=1)
    asked = device.ask(A, b"1")
    await device.settle()
    device.runners[0].die()
    await device.settle()
    assert len(device.runners) == 2
    device.finish(b"1")
    assert (await asked).output == b"1"
    await device.pool.close()


async def test_who_gives_up_waiting_takes_no_place():
    device = Device(runners_max=1)
    first, second, third = (device.ask(A, name) for name in (b"1", b"2", b"3"))
    await device.settle()
    second.cancel()
    device.finish(b"1")
    await device.settle()
    assert device.running() == {"a": [[b"3"]]}
    device.finish(b"3")
    await asyncio.gather(first, third)
    assert second.cancelled()
    await device.pool.close()


async def test_an_artifact_that_does_not_load_fails_its_runs_and_holds_no_place():
    device = Device(runners_max=1)
    device.load_error = InvalidKernel("bad", stage="kernel")
    with pytest.raises(InvalidKernel):
        await device.ask(A, b"1")
    assert not device.runners[0].is_alive
    device.load_error = None
    asked = device.ask(A, b"1")
    await device.settle()
    device.finish(b"1")
    await asked
    await device.pool.close()


@pytest.mark.parametrize("stage", ["other", "", None])
async def test_an_artifact_that_fails_to_load_at_no_stage_is_the_runners_failure(stage: str | None) -> None:
    device = Device(runners_max=1)
    device.load_error = InvalidKernel("bad", stage=stage)
    with pytest.raises(RunnerFailed, match="a failure that the pipeline does not allow"):
        await device.ask(A, b"1")
    await device.pool.close()


@pytest.mark.parametrize(("wall_ms", "load_s_max"), [(1_000, 16), (30_000, 45), (600_000, 120)])
async def test_loading_ends_before_its_lease_does(wall_ms: int, load_s_max: float):
    device = Device(runners_max=1)
    asked = device.ask(kernel_pipeline(b"a", wall_ms=wall_ms), b"1")
    await device.settle()
    device.finish(b"1")
    await asked
    assert device.runners[0].limits["load_s_max"] == load_s_max
    await device.pool.close()


async def test_a_spare_runner_is_used_first():
    device = Device(runners_max=1)
    spare = PretendedRunner(device)
    pool = RunnerPool(runners_max=1, start=device.start, spare=spare)  # type: ignore[arg-type]
    asked = asyncio.create_task(pool.run(A, b"1", wall_s_max=10))
    await device.settle()
    spare.finish(b"1")
    await asked
    assert device.runners == []
    await pool.close()
    assert not spare.is_alive


async def test_stages_done_are_passed_on_once_they_are_checked():
    device = Device(runners_max=1)
    two = kernels_pipeline({"first": b"a", "second": b"b"}, name="a")
    told = []
    asked = asyncio.create_task(device.pool.run(two, b"1", wall_s_max=10, on_stages=told.append))
    await device.settle()
    first, second = (StageReport(stage=name, output="0" * 64) for name in ("first", "second"))
    device.runners[0].on_stages((first,))
    assert told == [(first,)]
    for foreign in ((second,), (first, second), (REPORT,)):
        with pytest.raises(RunnerFailed):
            device.runners[0].on_stages(foreign)
    assert told == [(first,)]
    asked.cancel()
    await device.pool.close()


FAILURE = KernelTrap("x", stage="kernel").to_problem()


@pytest.mark.parametrize(
    "run",
    [
        PipelineRun(stages=(), output=b"x"),
        PipelineRun(stages=(REPORT, REPORT), output=b"x"),
        PipelineRun(stages=(msgspec.structs.replace(REPORT, stage="other"),), output=b"x"),
        PipelineRun(stages=(REPORT,), output=b"x" * (A.manifest.limits.output_bytes + 1)),
        PipelineRun(stages=(), failure=KernelTrap("x").to_problem()),
        PipelineRun(stages=(), failure=FAILURE, output=b"x"),
        PipelineRun(stages=(), failure=RunnerFailed("x", stage="kernel").to_problem()),
        PipelineRun(stages=(), failure=Problem(code="made-up", title="x", stage="kernel")),
    ],
    ids=[
        "no report",
        "surplus",
        "unknown stage",
        "too large",
        "no stage",
        "both",
        "no stage failure",
        "made up",
    ],
)
def test_a_run_that_the_pipeline_cannot_have_is_the_runners_failure(run):
    with pytest.raises(RunnerFailed):
        check_run(run, A.manifest)


def test_a_run_that_the_pipeline_can_have_is_believed():
    check_run(PipelineRun(stages=(REPORT,), output=b"x"), A.manifest)
    check_run(PipelineRun(stages=(), failure=FAILURE), A.manifest)
