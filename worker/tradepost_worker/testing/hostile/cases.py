"""A hostile case: a pipeline built to do harm, and the verdicts that count as contained."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tradepost.content import add_bytes
from tradepost.pipeline.manifest import (
    ConditionalOperator,
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    Stage,
    TensorSpec,
)
from tradepost_worker.testing.samples import SamplePipeline

#: The verdict of a case that may run to its end: it does no harm, and has to return.
RETURNED: Final = "returned"

INVALID_KERNEL: Final = "invalid-kernel"
INVALID_MODEL: Final = "invalid-model"
TIMEOUT: Final = "lease-timeout"
TRAP: Final = "kernel-trap"
TOO_COSTLY: Final = "pipeline-too-costly"
#: Memory ran out while it ran, not while it loaded.
INPUT_TOO_COSTLY: Final = "input-too-costly"

MEMORY_BYTES: Final = 64 << 20
_OUTPUT_BYTES: Final = 1 << 20
#: Deadlines of cases that end by themselves, on a busy machine too.
WALL_S: Final = 60.0
LOAD_S: Final = 60.0
#: Fuel that lasts for a second or less, and fuel that outlasts every deadline.
FUEL: Final = 200_000_000
FUEL_ENDLESS: Final = 1 << 52


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack. `build` gives the artifact when it is needed, so that the corpus takes no memory.

    `verdicts` are the error codes that may come of it, or `RETURNED`. `wall_s` is the deadline of its run and
    `load_s` of its loading.
    """

    name: str
    engine: str
    build: Callable[[], bytes]
    verdicts: tuple[str, ...]
    wall_s: float = WALL_S
    load_s: float = LOAD_S
    fuel: int = FUEL
    conditional_operators: tuple[ConditionalOperator, ...] = ()

    def pipeline(self) -> SamplePipeline:
        """The pipeline that runs it: from `x`, F32 of any length, to `y`."""
        artifact = self.build()
        cid = add_bytes(artifact, put=None)
        stage: Stage
        if self.engine == "wasm":
            stage = KernelStage(
                name="attack",
                artifact=cid,
                inputs={"x": "input.x"},
                outputs=("x",),
                fuel=self.fuel,
                memory_bytes=MEMORY_BYTES,
            )
        else:
            stage = ModelStage(
                name="attack",
                artifact=cid,
                inputs={"x": "input.x"},
                outputs=("y",),
                memory_bytes=MEMORY_BYTES,
                conditional_operators=self.conditional_operators,
            )
        manifest = Manifest(
            name="hostile",
            version="1",
            inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
            stages=(stage,),
            outputs={"y": f"attack.{stage.output_names[0]}"},
            limits=PipelineLimits(input_bytes=_OUTPUT_BYTES, output_bytes=_OUTPUT_BYTES),
        )
        return SamplePipeline(manifest, {cid: artifact})


def wasm_case(
    name: str,
    build: Callable[[], bytes],
    *verdicts: str,
    wall_s: float = WALL_S,
    load_s: float = LOAD_S,
    fuel: int = FUEL,
) -> Case:
    """A hostile kernel."""
    return Case(
        name=name, engine="wasm", build=build, verdicts=verdicts, wall_s=wall_s, load_s=load_s, fuel=fuel
    )


def onnx_case(
    name: str,
    build: Callable[[], bytes],
    *verdicts: str,
    wall_s: float = WALL_S,
    load_s: float = LOAD_S,
    conditional: tuple[ConditionalOperator, ...] = (),
) -> Case:
    """A hostile model."""
    return Case(
        name=name,
        engine="onnx",
        build=build,
        verdicts=verdicts,
        wall_s=wall_s,
        load_s=load_s,
        conditional_operators=conditional,
    )


def literally(data: bytes) -> Callable[[], bytes]:
    """Gives `data` itself."""
    return lambda: data


def flipped(data: bytes, seed: int) -> bytes:
    """`data` with three of its bits flipped."""
    rng = random.Random(seed)  # noqa: S311 - damage, not a secret
    damaged = bytearray(data)
    for _ in range(3):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)
