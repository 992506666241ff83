"""A small signed pipeline: a kernel and a model, whose artifacts are bytes that nobody runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    OutputSpec,
    PipelineLimits,
    TensorSpec,
    Tolerance,
    WorkUnits,
    encode_manifest,
)
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import PublishRequest
from tradepost_signing import SigningKey, sign_bytes


@dataclass(frozen=True, kw_only=True)
class SamplePipeline:
    """Doubles what it is told to; `name` tells two of them apart, `kernel_bytes` makes its artifact large.

    `output` declares its output `y`.
    """

    name: str = "sample"
    kernel_bytes: int = 64
    limits: PipelineLimits = field(default_factory=PipelineLimits)
    output: OutputSpec | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    key: SigningKey = field(default_factory=SigningKey.generate)

    def blocks(self) -> list[tuple[Cid, bytes]]:
        """Every block of every artifact, to be uploaded before publishing."""
        blocks: list[tuple[Cid, bytes]] = []
        for artifact in (self._kernel, self._model):
            add_bytes(artifact, put=lambda cid, data: blocks.append((cid, data)))
        return blocks

    @property
    def manifest(self) -> Manifest:
        """The manifest: input `x` through stage `scale` (kernel), then `double` (model), to output `y`."""
        return Manifest(
            name=self.name,
            version="1.0",
            inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
            stages=(
                KernelStage(
                    name="scale",
                    artifact=add_bytes(self._kernel, put=None),
                    inputs={"x": "input.x"},
                    outputs=("x",),
                ),
                ModelStage(
                    name="double",
                    artifact=add_bytes(self._model, put=None),
                    inputs={"x": "scale.x"},
                    outputs=("y",),
                    tolerance=self.tolerance,
                ),
            ),
            outputs={"y": "double.y"},
            output_specs={} if self.output is None else {"y": self.output},
            work_units=WorkUnits(base=1),
            limits=self.limits,
        )

    @property
    def cid(self) -> Cid:
        """The pipeline's identity."""
        return cid_of_block(encode_manifest(self.manifest), "dag-cbor")

    def request(self) -> PublishRequest:
        """The request that publishes it."""
        block = encode_manifest(self.manifest)
        return PublishRequest(manifest=block, bundle=sign_bytes(block, self.key))

    @property
    def _kernel(self) -> bytes:
        return (f"kernel of {self.name};".encode() * self.kernel_bytes)[: self.kernel_bytes]

    @property
    def _model(self) -> bytes:
        return f"model of {self.name}".encode()


def sample_input(value: float = 1.0, *, size: int = 4) -> bytes:
    """An input document for it: `size` floats from `value` on."""
    return encode(TensorDocument({"x": np.arange(size, dtype=np.float32) + np.float32(value)}))
