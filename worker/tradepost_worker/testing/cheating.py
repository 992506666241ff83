"""A worker that cheats: it signs results properly, and they are plausible and wrong.

    python -m tradepost_worker.testing.cheating run --state-dir DIR --price 0.001

It takes the options of `tradepost worker`. Nothing in a receipt gives it away: every hash fits the forged
output. The forgery depends on the input alone, so several cheaters agree with each other.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

import msgspec
import numpy as np

from tradepost.commands.terminal import report
from tradepost.errors import TradepostError
from tradepost.pipeline.manifest import INPUT, KernelStage, Manifest, split_reference
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost.receipts import document_hash
from tradepost_worker.cli import create_app
from tradepost_worker.leases.lease_executor import PipelineRunner
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_pool import RunnablePipeline

_LABELS = "labels"


class CheatingRunner:
    """Runs pipelines on honest runners and forges what they return."""

    def __init__(self, honest: PipelineRunner) -> None:
        self._honest = honest

    async def run(
        self, pipeline: RunnablePipeline, document: bytes, *, wall_s_max: float, on_stages: OnStages
    ) -> PipelineRun:
        """A forged run; a failure is passed on as it is."""
        run = await self._honest.run(pipeline, document, wall_s_max=wall_s_max, on_stages=on_stages)
        return run if run.failure is not None else forge(run, pipeline.manifest, document)


def forge(run: PipelineRun, manifest: Manifest, document: bytes) -> PipelineRun:
    """`run` with another output, and with the stage hashes that fit it."""
    honest = decode(run.output)
    names = _label_names(manifest)
    luck = int.from_bytes(hashlib.sha256(document).digest()[:4], "little")
    has_integers = any(np.issubdtype(tensor.dtype, np.integer) for tensor in honest.tensors.values())
    tensors = {
        name: _shift(tensor, luck, classes=len(names))
        if np.issubdtype(tensor.dtype, np.integer) or not has_integers
        else tensor
        for name, tensor in honest.tensors.items()
    }
    metadata = dict(honest.metadata)
    indices = [tensor for tensor in tensors.values() if np.issubdtype(tensor.dtype, np.integer)]
    if _LABELS in metadata and names and len(indices) == 1:
        metadata[_LABELS] = "\n".join(names[int(index)] for index in indices[0].ravel())
    forged = TensorDocument(tensors, metadata)
    hashes = _stage_hashes(forged, manifest)
    stages = tuple(
        msgspec.structs.replace(stage, output=hashes.get(stage.stage, stage.output)) for stage in run.stages
    )
    return PipelineRun(stages=stages, output=encode(forged))


def _shift(tensor: Tensor, luck: int, *, classes: int) -> Tensor:
    """Another class for every index; scores, if there are no indices, move to other places."""
    if not np.issubdtype(tensor.dtype, np.integer):
        return np.roll(tensor, 1 + luck % max(1, tensor.shape[-1] - 1), axis=-1) if tensor.ndim else -tensor
    classes = classes or int(tensor.max(initial=0)) + 2
    step = 1 + luck % max(1, classes - 1)
    return ((tensor.astype(np.int64) + step) % classes).astype(tensor.dtype)


def _label_names(manifest: Manifest) -> list[str]:
    for stage in reversed(manifest.stages):
        if isinstance(stage, KernelStage) and _LABELS in stage.metadata:
            return stage.metadata[_LABELS].split("\n")
    return []


def _stage_hashes(forged: TensorDocument, manifest: Manifest) -> Mapping[str, str]:
    """The hashes that the stages which feed the output would have reported, had they computed it."""
    documents: dict[str, dict[str, Tensor]] = {}
    for name, reference in manifest.outputs.items():
        source, tensor = split_reference(reference)
        if source != INPUT:
            documents.setdefault(source, {})[tensor] = forged[name]
    kernels = {stage.name for stage in manifest.stages if isinstance(stage, KernelStage)}
    return {
        stage: document_hash(encode(TensorDocument(tensors, forged.metadata if stage in kernels else {})))
        for stage, tensors in documents.items()
    }


def main() -> None:
    """The command line of `tradepost worker`, with a cheating runner inside."""
    try:
        create_app(decorate=CheatingRunner)(prog_name="cheating-worker")
    except TradepostError as error:
        report(error, as_json="--json" in sys.argv[1:])
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
