"""What loading may take, and what of a stage's wishes reaches the check of its model."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tradepost.errors import Fault, InputTooCostly, InvalidModel, PipelineTooCostly
from tradepost.protocol import GiveBack, GiveBackReason
from tradepost_worker.leases.lease_executor import give_back
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.cases import LOAD_S, RETURNED, WALL_S, onnx_case
from tradepost_worker.testing.hostile.models import onnx_cases
from tradepost_worker.testing.hostile.modules import wasm_cases
from tradepost_worker.testing.hostile.trial import attempt

LOOP = next(case for case in onnx_cases() if case.name == "Loop that its stage does not name")


def test_conditional_operators_are_those_that_the_stage_names():
    pipeline = LOOP.pipeline()
    with pytest.raises(InvalidModel, match="the operator Loop"):
        Executor(pipeline.manifest, pipeline.artifacts, sandbox=Sandbox(), inference=Inference())
    stage = msgspec.structs.replace(pipeline.manifest.stages[0], conditional_operators=("Loop",))
    manifest = msgspec.structs.replace(pipeline.manifest, stages=(stage,))
    Executor(manifest, pipeline.artifacts, sandbox=Sandbox(), inference=Inference())


def test_a_stages_memory_bounds_what_its_model_declares():
    large = next(case for case in onnx_cases() if case.name == "an input declared as 4 TiB")
    pipeline = onnx_case("large", large.build, RETURNED).pipeline()
    with pytest.raises(InvalidModel, match="the stage's memory allows 67,108,864"):
        Executor(pipeline.manifest, pipeline.artifacts, sandbox=Sandbox(), inference=Inference())


async def test_loading_ends_at_its_limit_and_takes_the_runner_with_it():
    bomb = next(case for case in wasm_cases() if case.name == "100,000 functions").pipeline()
    runner = await RunnerProcess.start()
    try:
        with pytest.raises(PipelineTooCostly, match=r"killed after 0\.1 s of its load"):
            await runner.load(
                bomb.manifest,
                bomb.artifacts,
                memory_bytes_max=1 << 30,
                output_bytes_max=1 << 20,
                load_s_max=0.1,
            )
        assert not runner.is_alive
    finally:
        await runner.close()


@pytest.mark.parametrize(
    ("cases", "name"),
    [
        (wasm_cases, "3,000 br_tables of 1,000 targets"),  # the compiler runs out of memory
        (wasm_cases, "a br_table of 1 million targets"),  # the compiler has limits of its own
        (wasm_cases, "100,000 functions"),  # it takes too long
    ],
)
async def test_a_bomb_that_does_not_load_is_given_back_and_blames_nobody(cases, name):
    verdict = await attempt(next(case for case in cases() if case.name == name))
    assert verdict.code == "pipeline-too-costly"
    assert verdict.left_behind == ()
    error = PipelineTooCostly(verdict.said.decode())
    assert error.fault is Fault.MARKET
    end = give_back("lease", error)
    assert isinstance(end.frame, GiveBack), "no receipt, so nothing to be verified"
    assert end.frame.reason is GiveBackReason.REFUSED, "which never counts against the worker"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("Expand bomb", (InputTooCostly,)),  # while it runs
        (
            "40 doublings of a constant",
            (PipelineTooCostly, InputTooCostly),
        ),  # where constants are folded, or then
    ],
)
async def test_a_model_that_runs_out_of_memory_is_given_back_without_a_receipt(name, kinds):
    """While it runs, it is not refused: one such input would take the pipeline from everybody else."""
    case = next(case for case in onnx_cases() if case.name == name)
    # However slow a busy machine makes it, it ends for its memory.
    verdict = await attempt(replace(case, wall_s=WALL_S, load_s=LOAD_S))
    kind = next(kind for kind in kinds if kind.code() == verdict.code)
    assert verdict.left_behind == ()
    end = give_back("lease", kind(verdict.said.decode()))
    assert isinstance(end.frame, GiveBack)
    reasons = {PipelineTooCostly: GiveBackReason.REFUSED, InputTooCostly: GiveBackReason.FAILED}
    assert end.frame.reason is reasons[kind]


@pytest.mark.parametrize("how", ["os.abort()", "sys.exit(1)", "raise MemoryError"])
async def test_a_runner_that_ends_while_it_loads_blames_nobody(how):
    boot = (
        "import json, os, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from tradepost_worker.runner import executor, main\n"
        f"def die(*_, **__):\n    {how}\n"
        "executor.Executor.__init__ = die\n"
        "main.main(int(sys.argv[2]), int(sys.argv[3]))"
    )
    pipeline = LOOP.pipeline()
    runner = await RunnerProcess.start(boot=boot)
    try:
        with pytest.raises(PipelineTooCostly):
            await runner.load(
                pipeline.manifest, pipeline.artifacts, memory_bytes_max=1 << 30, output_bytes_max=1 << 20
            )
    finally:
        await runner.close()
