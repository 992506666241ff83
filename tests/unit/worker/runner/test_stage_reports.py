"""What a runner says before its reply: stages done, where losing them would matter, and nothing else."""

from __future__ import annotations

import math

import tradepost_kernels
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.runner.main import Runner
from tradepost_worker.runner.messages import Load, Loaded, Ran, Reached, RunPipeline
from tradepost_worker.testing.samples import kernels_pipeline, sample_input

NOOP = tradepost_kernels.load("noop")


def run(stages: int, *, report_s: float) -> tuple[list[Reached], Ran]:
    """What running so many stages that do nothing sends before its reply, and the reply."""
    pipeline = kernels_pipeline({f"stage{number}": NOOP for number in range(stages)})
    sent: list[Reached] = []
    engines = Runner(sandbox=Sandbox(), inference=Inference(), report_s=report_s)
    load = Load(manifest=pipeline.manifest, artifacts=pipeline.artifacts)
    assert isinstance(engines.answer(load, sent.append), Loaded)
    ran = engines.answer(RunPipeline(document=sample_input(1), wall_s_max=30), sent.append)
    assert isinstance(ran, Ran)
    return sent, ran


def test_every_stage_but_the_last_is_reported_with_those_before_it() -> None:
    sent, ran = run(3, report_s=0.0)
    assert [message.stages for message in sent] == [ran.run.stages[:1], ran.run.stages[:2]]
    assert run(1, report_s=0.0)[0] == []


def test_runs_that_are_soon_over_send_nothing_but_their_reply() -> None:
    assert run(3, report_s=math.inf)[0] == []
