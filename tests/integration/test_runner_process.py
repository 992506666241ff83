"""The runner's contract, with real processes: it answers, and whatever goes wrong in it stays in it."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import psutil
import pytest
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import (
    InvalidKernel,
    InvalidTensorDocument,
    LeaseTimeout,
    RunnerFailed,
    RunnerInterrupted,
)
from tradepost.pipeline.tensors import decode
from tradepost.receipts import StageReport
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.supervision.runner_policy import DEFAULTS, RunnerPolicy
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.lent_device import spinning_kernel
from tradepost_worker.testing.samples import (
    SamplePipeline,
    kernel_pipeline,
    kernels_pipeline,
    model_pipeline,
    sample_input,
)

NOOP = tradepost_kernels.load("noop")
SPIN = bytes(
    wat2wasm(
        """(module (memory (export "memory") 4)
        (func (export "kernel_alloc") (param i32) (result i32) (i32.const 65536))
        (func (export "kernel_run") (param i32 i32) (result i64) (loop $again (br $again)) (unreachable)))"""
    )
)
FOREVER = sample_input(-1)
_START = f"import json, mmap, os, sys; forever = {FOREVER!r}; sys.path[:] = json.loads(sys.argv[1])\n"
_SERVE = "main.main(int(sys.argv[2]), int(sys.argv[3]))\n"

Load = Callable[..., Awaitable[RunnerProcess]]


def replacing_run(body: str) -> str:
    """A runner whose executor runs `body` in place of a pipeline; `document` is the request's."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return (
        f"{_START}from tradepost_worker.runner import executor, main\n"
        f"def run(self, document, *, wall_s_max, on_stages):\n{lines}\n"
        f"    return honest(self, document, wall_s_max=wall_s_max, on_stages=on_stages)\n"
        f"honest, executor.Executor.run = executor.Executor.run, run\n{_SERVE}"
    )


@pytest.fixture
async def start() -> AsyncIterator[Load]:
    started: list[RunnerProcess] = []

    async def load(
        pipeline: SamplePipeline,
        boot: str | None = None,
        policy: RunnerPolicy = DEFAULTS,
        **limits: int,
    ) -> RunnerProcess:
        options = {} if boot is None else {"boot": boot}
        runner = await RunnerProcess.start(policy=policy, **options)
        started.append(runner)
        sizes = {"memory_bytes_max": 64 << 20, "output_bytes_max": 1 << 20} | limits
        await runner.load(pipeline.manifest, pipeline.artifacts, **sizes)
        return runner

    yield load
    for runner in started:
        await runner.close()
        assert not psutil.pid_exists(runner.pid)


async def test_it_runs_kernels_and_models(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP))
    ran = await runner.run(sample_input(1, 2), wall_s_max=60)
    assert decode(ran.run.output)["x"].tolist() == [1.0, 2.0]
    assert runner.ready.providers == ("cpu",)
    assert set(runner.ready.engines) == {"tradepost", "wasmtime", "onnxruntime"}
    models = await start(model_pipeline())
    ran = await models.run(sample_input(2), wall_s_max=60)
    assert decode(ran.run.output)["y"].tolist() == [4.0]


async def test_fuel_does_not_tell_that_a_runner_is_locked_down(start: Load) -> None:
    """Filling memory at first costs the same where it could be mapped and where it has to be copied."""
    document = sample_input(1, 2, 3)
    text = "".join(f"\\{byte:02x}" for byte in document)
    kernel = bytes(
        wat2wasm(
            f"""(module (memory (export "memory") 1) (data (i32.const 4096) "{text}")
            (func (export "kernel_alloc") (param i32) (result i32) (i32.const 1024))
            (func (export "kernel_run") (param i32 i32) (result i64)
              (i64.const {4096 << 32 | len(document)})))"""
        )
    )
    runner = await start(kernel_pipeline(kernel))
    ran = await runner.run(document, wall_s_max=60)
    limits = {"fuel": 10_000, "memory_bytes_max": 1 << 20, "output_bytes_max": 1 << 20, "wall_s_max": 10.0}
    here = Sandbox().load(kernel).run(document, **limits)
    assert ran.run.output == here.output == document
    assert ran.run.stages[0].fuel == here.fuel_used == len(document) + 6


async def test_overlapping_runs_are_answered_in_order(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP))
    runs = await asyncio.gather(*(runner.run(sample_input(n), wall_s_max=60) for n in range(50)))
    assert [decode(ran.run.output)["x"].tolist() for ran in runs] == [[float(n)] for n in range(50)]


async def test_large_documents_pass(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP), output_bytes_max=8 << 20)
    document = sample_input(*range(1_000_000))
    assert (await runner.run(document, wall_s_max=60)).run.output == document


async def test_a_bad_input_is_refused_and_the_runner_stays(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP))
    with pytest.raises(InvalidTensorDocument):
        await runner.run(b"garbage", wall_s_max=60)
    assert (await runner.run(sample_input(), wall_s_max=60)).run.failure is None


async def test_an_artifact_that_does_not_load_is_a_stage_failure(start: Load) -> None:
    with pytest.raises(InvalidKernel) as caught:
        await start(kernel_pipeline(b"\0asm\1\0\0\0\x0b\xff"))
    assert caught.value.stage == "kernel"


async def test_what_libraries_print_does_not_reach_the_stream(start: Load) -> None:
    noise = "print('noise' * 5000, flush=True); os.write(1, b'noise'); os.write(2, b'noise')"
    runner = await start(kernel_pipeline(NOOP), replacing_run(noise))
    assert (await runner.run(sample_input(3), wall_s_max=60)).run.output == sample_input(3)


async def test_a_crash_blames_the_run_at_the_head_only(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP), replacing_run("os.abort()"))
    runs = [asyncio.create_task(runner.run(sample_input(n), wall_s_max=60)) for n in range(3)]
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RunnerFailed, RunnerInterrupted, RunnerInterrupted]
    assert "signal 6" in str(outcomes[0])
    assert not runner.is_alive
    with pytest.raises(RunnerInterrupted):
        await runner.run(sample_input(), wall_s_max=60)


async def test_a_defect_ends_the_runner_and_says_why(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP), replacing_run("raise ZeroDivisionError('a defect')"))
    with pytest.raises(RunnerFailed, match="status 1: ZeroDivisionError: a defect"):
        await runner.run(sample_input(), wall_s_max=60)


async def test_a_run_past_its_deadline_is_killed(start: Load) -> None:
    policy = RunnerPolicy(grace_s=0.05)
    runner = await start(kernel_pipeline(NOOP), replacing_run("while True: pass"), policy=policy)
    with pytest.raises(LeaseTimeout):
        await runner.run(sample_input(), wall_s_max=0.05)
    assert not runner.is_alive


async def test_a_deadline_that_the_sandbox_holds_leaves_the_runner_warm(start: Load) -> None:
    policy = RunnerPolicy(grace_s=60.0)  # or a busy machine has it killed before it can say so
    runner = await start(kernel_pipeline(SPIN, fuel=1 << 50), policy=policy)
    with pytest.raises(LeaseTimeout) as caught:
        await runner.run(sample_input(), wall_s_max=0.05)
    assert caught.value.stage == "kernel"
    assert runner.is_alive


async def test_an_allocation_over_the_limit_fails_in_the_kernel(start: Load) -> None:
    policy = RunnerPolicy(memory_overhead_bytes=64 << 20)
    runner = await start(kernel_pipeline(NOOP), replacing_run("bytearray(1 << 30)"), policy=policy)
    with pytest.raises(RunnerFailed, match="MemoryError"):
        await runner.run(sample_input(), wall_s_max=60)


async def test_memory_that_no_limit_covers_is_found_by_looking(start: Load) -> None:
    policy = RunnerPolicy(memory_overhead_bytes=16 << 20)
    # Shared pages do not count as the data of RLIMIT_DATA.
    hoard = "shared = mmap.mmap(-1, 512 << 20)\nwhile True: shared.write(bytes(1 << 20))"
    runner = await start(
        kernel_pipeline(NOOP), replacing_run(hoard), policy=policy, memory_bytes_max=64 << 20
    )
    with pytest.raises(RunnerFailed, match=r"killed because it used [0-9,]+ bytes of memory"):
        await runner.run(sample_input(), wall_s_max=60)


async def test_a_runner_that_writes_without_end_to_stderr_is_killed(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP), replacing_run("while True: os.write(2, bytes(1 << 16))"))
    with pytest.raises(RunnerFailed, match="bytes to stderr"):
        await runner.run(sample_input(), wall_s_max=60)


async def test_a_runner_that_works_on_after_its_reply_is_killed(start: Load) -> None:
    policy = RunnerPolicy(idle_window_s=0.2, idle_cpu_s_max=0.02)
    work = "import threading\ndef work():\n    while True: pass\nthreading.Thread(target=work).start()"
    runner = await start(kernel_pipeline(NOOP), replacing_run(work), policy=policy)
    assert (await runner.run(sample_input(), wall_s_max=60)).run.output == sample_input()
    async with asyncio.timeout(180):
        await runner.ended.wait()
    with pytest.raises(RunnerInterrupted, match="without a request"):
        await runner.run(sample_input(), wall_s_max=60)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process ends with its main thread")
async def test_memory_is_seen_of_a_process_whose_main_thread_has_ended(start: Load) -> None:
    policy = RunnerPolicy(memory_overhead_bytes=16 << 20)
    end_of_thread = {"x86_64": 60, "aarch64": 93}[platform.machine()]
    hoard = (
        "import ctypes, threading\n"
        "def hoard():\n"
        "    shared = mmap.mmap(-1, 256 << 20)\n"
        "    for _ in range(255): shared.write(bytes(1 << 20))\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=hoard).start()\n"
        f"ctypes.CDLL(None).syscall({end_of_thread}, 0)"
    )
    runner = await start(
        kernel_pipeline(NOOP), replacing_run(hoard), policy=policy, memory_bytes_max=64 << 20
    )
    with pytest.raises(RunnerFailed, match="killed because it used"):
        await runner.run(sample_input(), wall_s_max=60)


@pytest.mark.parametrize(
    ("sends", "says"),
    [
        ("(1 << 31).to_bytes(4, 'little')", "a message of 2,147,483,648 bytes"),
        ("b'\\3\\0\\0\\0abc'", "an invalid message"),
        ("pack(Loaded())", "answered a run with Loaded"),
        ("pack(Loaded()) * 2", "answered a run with Loaded"),
    ],
    ids=["huge", "garbage", "other", "surplus"],
)
async def test_a_stream_that_makes_no_sense_ends_the_runner(start: Load, sends: str, says: str) -> None:
    body = f"from tradepost_worker.runner.messages import Loaded, pack\nos.write(4, {sends})"
    runner = await start(kernel_pipeline(NOOP), replacing_run(body))
    with pytest.raises(RunnerFailed, match=says):
        await runner.run(sample_input(), wall_s_max=60)
    assert not runner.is_alive


async def test_a_long_run_says_which_stages_are_done(start: Load) -> None:
    pipeline = kernels_pipeline({"count": spinning_kernel(200_000_000), "spin": SPIN, "never": NOOP})
    runner = await start(pipeline)
    done: asyncio.Queue[tuple[StageReport, ...]] = asyncio.Queue()
    running = asyncio.create_task(runner.run(sample_input(1), wall_s_max=60, on_stages=done.put_nowait))
    async with asyncio.timeout(180):
        (count,) = await done.get()
    assert (count.stage, count.output) == ("count", hashlib.sha256(sample_input(1)).hexdigest())
    assert count.wall_us >= 20_000
    running.cancel()


@pytest.mark.parametrize(
    "stages",
    [["'a'", "'a'"], ["'a', 'b'", "'a'"], ["'a'"] * 2 + ["'a', 'b'"]],
    ids=["repeated", "fewer", "repeated-then-more"],
)
async def test_stages_reported_out_of_turn_end_the_runner(start: Load, stages: list[str]) -> None:
    body = "from tradepost.receipts import StageReport\n"
    body += "from tradepost_worker.runner.messages import Reached, pack\n"
    for names in stages:
        body += f"reports = tuple(StageReport(stage=one, output='0' * 64) for one in ({names},))\n"
        body += "os.write(4, pack(Reached(stages=reports)))\n"
    runner = await start(kernel_pipeline(NOOP), replacing_run(body))
    with pytest.raises(RunnerFailed, match="stages out of order"):
        await runner.run(sample_input(), wall_s_max=60)
    assert not runner.is_alive


async def test_stages_reported_after_the_run_was_given_up_go_nowhere(start: Load) -> None:
    pipeline = kernels_pipeline({"count": spinning_kernel(100_000_000), "then": NOOP})
    runner = await start(pipeline)
    told: list[object] = []
    abandoned = asyncio.create_task(runner.run(sample_input(1), wall_s_max=60, on_stages=told.append))
    await asyncio.wait([abandoned], timeout=0)
    abandoned.cancel()
    with suppress(RunnerInterrupted):  # it may take longer than an abandoned run may
        await runner.run(sample_input(2), wall_s_max=60)
    assert told == []


async def test_a_run_that_nobody_waits_for_is_stopped(start: Load) -> None:
    runner = await start(kernel_pipeline(NOOP), replacing_run("while document == forever: pass"))
    running = asyncio.create_task(runner.run(FOREVER, wall_s_max=60))
    behind = asyncio.create_task(runner.run(sample_input(), wall_s_max=60))
    await asyncio.wait([running, behind], timeout=0)
    running.cancel()
    with pytest.raises(RunnerInterrupted, match="recalled"):
        await behind
    assert running.cancelled()


async def test_a_short_run_that_nobody_waits_for_costs_no_runner(start: Load) -> None:
    policy = RunnerPolicy(abandoned_s=60.0)  # short is what ends within this
    runner = await start(kernel_pipeline(NOOP), policy=policy)
    abandoned = asyncio.create_task(runner.run(sample_input(1), wall_s_max=60))
    behind = asyncio.create_task(runner.run(sample_input(2), wall_s_max=60))
    await asyncio.wait([abandoned, behind], timeout=0)
    abandoned.cancel()
    assert (await behind).run.output == sample_input(2)
    assert runner.is_alive


async def test_what_a_kernel_says_is_plain(start: Load) -> None:
    kernel = wat2wasm(
        """(module (memory (export "memory") 1) (data (i32.const 64) "no \\1b[2J\\ff\\0a")
        (func (export "kernel_alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "kernel_run") (param i32 i32) (result i64) (i64.const 0x8000004000000009)))"""
    )
    runner = await start(kernel_pipeline(bytes(kernel)))
    failure = (await runner.run(sample_input(1), wall_s_max=60)).run.failure
    assert failure is not None
    assert (failure.code, failure.detail) == ("kernel-error", r"no \x1b[2J�")


async def test_what_a_runner_says_is_plain_and_short(start: Load) -> None:
    body = (
        "import msgspec\n"
        "words = '\\x1b[2J\\u202e\\n' * 9999\n"
        "problem = {'code': 'lease-timeout', 'title': '', 'detail': words, 'facts': {'n': 1}}\n"
        "said = msgspec.msgpack.encode({'type': 'refused', 'problem': problem})\n"
        "os.write(4, len(said).to_bytes(4, 'little') + said)\n"
        "while True: pass"
    )
    runner = await start(kernel_pipeline(NOOP), replacing_run(body))
    with pytest.raises(LeaseTimeout) as caught:
        await runner.run(sample_input(), wall_s_max=60)
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) == 2000
    assert caught.value.facts == {}
    with pytest.raises(RunnerFailed) as failed:
        await RunnerProcess.start(boot="import sys; sys.exit('\x1b[2J\u202e' * 999)")
    assert r": \x1b[2J\u202e\x1b" in failed.value.detail
    assert failed.value.detail.isprintable()
    assert len(failed.value.detail) < 400


async def test_a_runner_that_does_not_start_says_why() -> None:
    with pytest.raises(RunnerFailed, match="status 3: no luck"):
        await RunnerProcess.start(boot="import sys; print('no luck', file=sys.stderr); sys.exit(3)")


async def test_a_runner_that_has_ended_before_anybody_waits_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine."""
    begin = RunnerProcess._begin

    async def begin_late(runner: RunnerProcess) -> None:
        await runner.ended.wait()
        async with asyncio.timeout(180):
            await begin(runner)

    monkeypatch.setattr(RunnerProcess, "_begin", begin_late)
    with pytest.raises(RunnerFailed, match="status 3: no luck"):
        await RunnerProcess.start(boot="import sys; print('no luck', file=sys.stderr); sys.exit(3)")


def test_a_runner_does_not_outlive_its_agent() -> None:
    agent = """
import asyncio, os, sys
from tradepost_worker.supervision.runner_process import RunnerProcess
async def main():
    runner = await RunnerProcess.start()
    print(runner.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        runner = psutil.Process(int(process.stdout.readline()))
        process.kill()
        runner.wait(timeout=60)
        assert not runner.is_running()
