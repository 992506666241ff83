"""The cheat: another answer, of the same kind, with hashes that fit, and the same from every cheater."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tradepost_kernels
import tradepost_worker.cli
from tradepost.content import add_bytes
from tradepost.errors import KernelTrap
from tradepost.pipeline.manifest import KernelStage, Manifest, TensorSpec
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.receipts import document_hash
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.testing.cheating import CheatingRunner, forge
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, sample_input

TOPK = tradepost_kernels.load("topk")
LABELS = [f"label-{n}" for n in range(10)]


def classifier(k: int) -> SamplePipeline:
    artifact = add_bytes(TOPK, put=None)
    stage = KernelStage(
        name="topk",
        artifact=artifact,
        inputs={"scores": "input.x"},
        outputs=("index", "score"),
        metadata={"k": str(k), "labels": "\n".join(LABELS)},
    )
    manifest = Manifest(
        name="classifier",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(10,))},
        stages=(stage,),
        outputs={"index": "topk.index", "score": "topk.score"},
    )
    return SamplePipeline(manifest, {artifact: TOPK})


def honest_run(pipeline: SamplePipeline, document: bytes) -> PipelineRun:
    executor = Executor(pipeline.manifest, pipeline.artifacts, sandbox=Sandbox(), inference=Inference())
    return executor.run(document, wall_s_max=30)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("best", [0, 4, 9])
def test_a_forged_answer_is_plausible_and_wrong(k, best):
    pipeline, document = classifier(k), sample_input(*np.eye(10)[best])
    honest = honest_run(pipeline, document)
    forged = forge(honest, pipeline.manifest, document)
    truth, lie = decode(honest.output), decode(forged.output)
    assert lie["index"].dtype == truth["index"].dtype
    assert lie["index"].shape == truth["index"].shape
    assert (lie["index"] != truth["index"]).all()
    assert set(lie["index"].ravel()) <= set(range(10))
    assert lie.metadata["labels"].split("\n") == [LABELS[index] for index in lie["index"].ravel()]
    assert (lie["score"] == truth["score"]).all()


def test_the_stage_hash_fits_the_forged_output():
    pipeline, document = classifier(1), sample_input(*np.eye(10)[3])
    honest = honest_run(pipeline, document)
    forged = forge(honest, pipeline.manifest, document)
    assert forged.stages[0].output == document_hash(forged.output)
    assert forged.stages[0].output != honest.stages[0].output
    assert forged.stages[0].fuel == honest.stages[0].fuel


def test_cheaters_agree_with_each_other_and_lie_differently_about_each_input():
    pipeline = classifier(1)
    lies = []
    for best in range(10):
        document = sample_input(*np.eye(10)[best])
        honest = honest_run(pipeline, document)
        assert forge(honest, pipeline.manifest, document) == forge(honest, pipeline.manifest, document)
        lies.append(int(decode(forge(honest, pipeline.manifest, document).output)["index"][0, 0]) - best)
    assert len(set(lies)) > 1


def test_scores_without_an_index_are_forged_too():
    sample, document = kernel_pipeline(tradepost_kernels.load("noop")), sample_input(1, 2, 3)
    forged = forge(honest_run(sample, document), sample.manifest, document)
    assert decode(forged.output)["x"].tolist() != [1, 2, 3]
    assert sorted(decode(forged.output)["x"].tolist()) == [1, 2, 3]


async def test_a_failure_is_passed_on():
    failed = PipelineRun(stages=(), failure=KernelTrap("x", stage="kernel").to_problem())

    class Failing:
        async def run(self, pipeline, document, *, wall_s_max, on_stages):
            return failed

    cheat = CheatingRunner(Failing())
    document = encode(TensorDocument({}))
    assert await cheat.run(kernel_pipeline(b"x"), document, wall_s_max=1, on_stages=print) == failed


def test_the_workers_own_command_cannot_cheat():
    assert "cheat" not in Path(tradepost_worker.cli.__file__).read_text()
