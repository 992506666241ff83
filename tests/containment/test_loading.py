"""What loading may take, and what of a stage's wishes reaches the check of its model."""

from __future__ import annotations

import msgspec
import pytest

from tradepost.errors import InvalidModel, LeaseTimeout
from tradepost_worker.executor import Executor
from tradepost_worker.inference import Inference
from tradepost_worker.runner_process import RunnerProcess
from tradepost_worker.sandbox import Sandbox
from tradepost_worker.testing.hostile.cases import RETURNED, onnx_case
from tradepost_worker.testing.hostile.models import onnx_cases
from tradepost_worker.testing.hostile.modules import wasm_cases

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
    with pytest.raises(InvalidModel, match="the stage has room for 67,108,864"):
        Executor(pipeline.manifest, pipeline.artifacts, sandbox=Sandbox(), inference=Inference())


async def test_loading_ends_at_its_limit_and_takes_the_runner_with_it():
    bomb = next(case for case in wasm_cases() if case.name == "100,000 functions").pipeline()
    runner = await RunnerProcess.start()
    try:
        with pytest.raises(LeaseTimeout, match=r"killed after 0\.1 s of its load"):
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
