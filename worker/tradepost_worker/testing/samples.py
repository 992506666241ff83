"""Small pipelines to test workers with, and everything that a broker would serve about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.pipeline.manifest import (
    INPUT,
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    Stage,
    TensorSpec,
    encode_manifest,
)
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import PipelineView
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.keys import SigningKey
from tradepost_worker.runner.probe_model import PROBE_MODEL


@dataclass(frozen=True)
class SamplePipeline:
    """A manifest, its artifacts by CID, and the blocks that hold them."""

    manifest: Manifest
    artifacts: dict[str, bytes]
    blocks: dict[Cid, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for artifact in self.artifacts.values():
            add_bytes(artifact, put=self.blocks.__setitem__)
        self.blocks[self.cid] = self.block

    @cached_property
    def block(self) -> bytes:
        """The manifest's block."""
        return encode_manifest(self.manifest)

    @cached_property
    def cid(self) -> Cid:
        """The pipeline's identity."""
        return cid_of_block(self.block, "dag-cbor")

    async def read_artifacts(self) -> dict[str, bytes]:
        """The kernels and models, by CID."""
        return self.artifacts

    def view(self, publisher: SigningKey) -> PipelineView:
        """What a broker tells workers about it, signed by `publisher`."""
        return PipelineView(pipeline=self.cid, manifest=self.block, bundle=sign_bytes(self.block, publisher))


def kernel_pipeline(
    wasm: bytes, *, name: str = "sample", fuel: int = 1_000_000_000, wall_ms: int = 30_000
) -> SamplePipeline:
    """A pipeline of one kernel that takes and returns `x`, F32 of any length."""
    return kernels_pipeline({"kernel": wasm}, name=name, fuel=fuel, wall_ms=wall_ms)


def kernels_pipeline(
    kernels: Mapping[str, bytes], *, name: str = "sample", fuel: int = 1 << 50, wall_ms: int = 30_000
) -> SamplePipeline:
    """A pipeline of such kernels, by stage, each of which takes what the one before it returned."""
    stages: list[Stage] = []
    source = INPUT
    for stage, wasm in kernels.items():
        artifact = add_bytes(wasm, put=None)
        inputs = {"x": f"{source}.x"}
        stages.append(KernelStage(name=stage, artifact=artifact, inputs=inputs, outputs=("x",), fuel=fuel))
        source = stage
    artifacts: dict[str, bytes] = {add_bytes(wasm, put=None): wasm for wasm in kernels.values()}
    return SamplePipeline(_manifest(name, stages, {"x": f"{source}.x"}, wall_ms), artifacts)


def model_pipeline(
    model: bytes = PROBE_MODEL, *, name: str = "sample", wall_ms: int = 30_000
) -> SamplePipeline:
    """A pipeline of one ONNX model from `x`, F32 of any length, to `y`."""
    artifact = add_bytes(model, put=None)
    stage = ModelStage(name="model", artifact=artifact, inputs={"x": "input.x"}, outputs=("y",))
    return SamplePipeline(_manifest(name, [stage], {"y": "model.y"}, wall_ms), {artifact: model})


def sample_input(*values: float) -> bytes:
    """An input document for the pipelines above."""
    return encode(TensorDocument({"x": np.array(values or (1.0,), dtype=np.float32)}))


def _manifest(name: str, stages: Sequence[Stage], outputs: dict[str, str], wall_ms: int) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
        stages=tuple(stages),
        outputs=outputs,
        limits=PipelineLimits(wall_ms=wall_ms),
    )
