"""A fresh runner gets the code that an earlier runner of its pipeline compiled, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from wasmtime import Module

import tradepost_kernels
from tradepost.errors import PipelineTooCostly, RunnerFailed
from tradepost.protocol import Deliver
from tradepost_worker.runner import wasm_profile
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.state import StateFolder
from tradepost_worker.supervision import control_group, runner_pool
from tradepost_worker.supervision.compile_cache import CompileCache
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.supervision.runner_spawn import BOOT
from tradepost_worker.testing.lent_device import lent_device
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, sample_input

PIPELINE = kernel_pipeline(tradepost_kernels.load("noop"))
_BOOT = """
import json, os, sys; sys.path[:] = json.loads(sys.argv[1])
from tradepost_worker.runner import executor, kernel_sandbox, main
{patch}
main.main(int(sys.argv[2]), int(sys.argv[3]))
"""
#: A runner that dies if it compiles a kernel, and one that dies if it takes compiled code.
NO_COMPILER = _BOOT.format(patch="kernel_sandbox.Sandbox._compile = lambda *_: os.abort()")
NO_RESTORING = _BOOT.format(patch="kernel_sandbox.Sandbox._restore = lambda *_: os.abort()")

Run = Callable[..., Awaitable[PipelineRun]]


@pytest.fixture
def cache(tmp_path: Path) -> CompileCache:
    return CompileCache(tmp_path / "compiled", bytes_max=64 << 20)


@pytest.fixture
def run(cache: CompileCache) -> Run:
    async def run(boot: str | None = None, pipeline: SamplePipeline = PIPELINE) -> PipelineRun:
        """The outcome in a runner of its own."""
        start = RunnerProcess.start if boot is None else partial(RunnerProcess.start, boot=boot)
        pool = RunnerPool(runners_max=1, start=start, compile_cache=cache)
        try:
            return await pool.run(pipeline, sample_input(1, 2), wall_s_max=20)
        finally:
            await pool.close()

    return run


async def test_what_needed_more_memory_to_compile_runs_in_a_process_that_did_not_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_pool, "COMPILE_BYTES_PER_BYTE", 1 << 26)
    boots = iter([BOOT, NO_COMPILER])
    pool = RunnerPool(runners_max=1, start=lambda: RunnerProcess.start(boot=next(boots)))
    try:
        run = await pool.run(PIPELINE, sample_input(1, 2), wall_s_max=20)
    finally:
        await pool.close()
    assert run.failure is None
    assert next(boots, None) is None


def file_of(cache_folder: Path) -> Path:
    (path,) = (path for path in cache_folder.iterdir() if path.name != "key")
    return path


async def test_the_second_runner_compiles_nothing(run: Run, cache: CompileCache) -> None:
    with pytest.raises(PipelineTooCostly):  # so a runner without a compiler does fail
        await run(NO_COMPILER)
    first = await run()
    second = await run(NO_COMPILER)
    assert first.output == second.output == sample_input(1, 2)
    assert [report.fuel for report in first.stages] == [report.fuel for report in second.stages]


async def test_every_kernel_of_a_pipeline_is_kept_for_that_pipeline(run: Run, cache: CompileCache) -> None:
    await run()
    with pytest.raises(PipelineTooCostly):
        await run(NO_COMPILER, kernel_pipeline(tradepost_kernels.load("noop"), name="another"))


async def test_a_flipped_byte_is_never_deserialized(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    await run()
    with pytest.raises(PipelineTooCostly):  # so the spy does see what is deserialized
        await run(NO_RESTORING)
    path = file_of(tmp_path / "compiled")
    code = bytearray(path.read_bytes())
    code[len(code) // 2] ^= 1
    path.write_bytes(code)
    assert (await run(NO_RESTORING)).output == sample_input(1, 2)
    assert (tmp_path / "compiled" / "tampered").exists()


async def test_code_that_the_engine_refuses_is_compiled_afresh(
    run: Run, cache: CompileCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unmetered = wasm_profile.new_engine({**wasm_profile.OPTIONS, "consume_fuel": False})
    other = bytes(Module(unmetered, tradepost_kernels.load("noop")).serialize())
    (kernel,) = PIPELINE.artifacts
    monkeypatch.setattr(cache, "read", lambda *_: {kernel: other})
    ran = await run()
    assert ran.output == sample_input(1, 2)
    assert ran.stages[0].fuel > 0
    assert [record.action for record in caplog.records if hasattr(record, "action")] == [
        "compiled_code_refused"
    ]
    monkeypatch.undo()
    await run(NO_COMPILER)


async def test_a_runner_cannot_name_another_kernel(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    named = "executor.Executor.take_compiled = lambda self: {'bafkother': b'code'}"
    with pytest.raises(RunnerFailed, match="kernels that are not in its pipeline"):
        await run(_BOOT.format(patch=named))
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == ["key"]


async def test_a_runner_cannot_hand_over_more_than_fits(run: Run, cache: CompileCache) -> None:
    huge = "executor.Executor.take_compiled = lambda self: {cid: bytes(40 << 20) for cid in self._compiled}"
    with pytest.raises(RunnerFailed, match="a message of 41,9"):
        await run(_BOOT.format(patch=huge))


async def test_a_worker_keeps_what_its_runners_compile(tmp_path: Path) -> None:
    async with lent_device(tmp_path) as device, device.worker():
        await device.broker.send(device.broker.grant(PIPELINE, sample_input(1)))
        assert (await device.broker.next(Deliver)).output is not None
        standing = StateFolder(tmp_path).status()
    assert file_of(tmp_path / "compiled").stat().st_size > 32
    assert standing is not None
    assert standing.isolation == device.broker.hellos[-1].offer.capabilities.isolation
    assert ("cgroup" in standing.isolation) == (not control_group.why_not())
