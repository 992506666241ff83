"""Measures this device's speed: one kernel and one reference model, in a real runner inside its sandbox.

It takes about a second, once: the figures are kept with what they were measured on, and measured again when
the processor, the number of cores, an engine or a provider is another.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

import tradepost_kernels
from tradepost.atomic_files import replace_file
from tradepost.content import add_bytes
from tradepost.errors import UNDECODABLE, RunnerFailed
from tradepost.file_writing import writing_own
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    Provider,
    Stage,
    TensorSpec,
)
from tradepost.pipeline.tensors import Tensor, TensorDocument, encode
from tradepost.plurals import counted
from tradepost_worker.runner.messages import Ran, Ready
from tradepost_worker.supervision.reference_model import DIMENSION, LAYERS, reference_model
from tradepost_worker.supervision.runner_process import RunnerProcess

FILE_NAME: Final = "speed.json"
_KERNEL: Final = "normalize"
_SHAPE: Final = (256, 256, 3)
_MEASURED_S: Final = 0.4
_RUNS_MIN: Final = 3
_WALL_S_MAX: Final = 20.0
_MEMORY_BYTES: Final = 256 << 20
_DTYPES: Final = {"uint8": "U8", "float32": "F32"}


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of one runner. `hardware` and `engines` are what they were measured on.

    `kernel_mfuel_per_s` is in million units of fuel, `model_gflops` by provider in 10^9 operations, each per
    second of a stage.
    """

    hardware: str
    engines: dict[str, str]
    providers: tuple[str, ...]
    measured_at: float
    kernel_mfuel_per_s: float
    model_gflops: dict[str, float]

    def fits(self, ready: Ready) -> bool:
        """Whether this device still is what was measured."""
        known = (self.hardware, self.engines, self.providers)
        return known == (hardware(), ready.engines, ready.providers)

    def __str__(self) -> str:
        models = ", ".join(f"{name} {gflops:,.1f} GFLOP/s" for name, gflops in self.model_gflops.items())
        return f"kernels {self.kernel_mfuel_per_s:,.0f} million fuel/s; models {models}"


def hardware() -> str:
    """The processor, in words, and how many cores may be used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {counted(cores, 'core')}"


async def measured_speed(
    folder: Path, *, threads: int, clock: Callable[[], float] = time.time
) -> tuple[Speed, Ready]:
    """The device's speed, from the state folder if it still fits, and what its runners say of themselves.
    `clock` gives Unix seconds.

    Raises `RunnerFailed`, `SandboxUnavailable` or `FileNotWritten`.
    """
    runner = await RunnerProcess.start(threads=threads)
    ready = runner.ready
    try:
        known = _read(folder / FILE_NAME)
        if known is not None and known.fits(ready):
            return known, ready
        kernel = await _kernel_mfuel_per_s(runner)
    finally:
        await runner.close()
    providers = msgspec.convert(ready.providers, tuple[Provider, ...])
    models = {name: await _model_gflops(name, threads) for name in providers}
    speed = Speed(
        hardware=hardware(),
        engines=ready.engines,
        providers=ready.providers,
        measured_at=clock(),
        kernel_mfuel_per_s=round(kernel, 1),
        model_gflops={name: round(gflops, 2) for name, gflops in models.items()},
    )
    with writing_own(folder / FILE_NAME):
        replace_file(folder / FILE_NAME, msgspec.json.format(msgspec.json.encode(speed)), durable=False)
    return speed, ready


async def measured_again(folder: Path, ready: Ready, *, threads: int) -> Speed | None:
    """The device's speed now, if it was measured before it or its engines changed; else `None`.

    Raises as `measured_speed`.
    """
    known = _read(folder / FILE_NAME)
    if known is None or known.fits(ready):
        return None
    return (await measured_speed(folder, threads=threads))[0]


async def _kernel_mfuel_per_s(runner: RunnerProcess) -> float:
    wasm = tradepost_kernels.load(_KERNEL)
    artifact = add_bytes(wasm, put=None)
    stage = KernelStage(
        name="stage",
        artifact=artifact,
        inputs={"image": "input.x"},
        outputs=("image",),
        fuel=1 << 40,
        memory_bytes=_MEMORY_BYTES,
        metadata={"mean": "0.5", "std": "0.25"},
    )
    image = np.arange(np.prod(_SHAPE)).astype(np.uint8).reshape(_SHAPE)
    runs = await _measure(runner, stage, {artifact: wasm}, image)
    reports = [ran.run.stages[0] for ran in runs]
    return statistics.median(report.fuel / max(1, report.wall_us) for report in reports)


async def _model_gflops(provider: Provider, threads: int) -> float:
    model = reference_model()
    artifact = add_bytes(model, put=None)
    stage = ModelStage(
        name="stage", artifact=artifact, inputs={"x": "input.x"}, outputs=("y",), providers=(provider,)
    )
    batch = np.linspace(-1, 1, num=DIMENSION * DIMENSION, dtype=np.float32).reshape(DIMENSION, DIMENSION)
    runner = await RunnerProcess.start(threads=threads)
    try:
        runs = await _measure(runner, stage, {artifact: model}, batch)
    finally:
        await runner.close()
    operations = LAYERS * 2 * DIMENSION**3
    return statistics.median(operations / max(1, ran.run.stages[0].wall_us) / 1000 for ran in runs)


async def _measure(
    runner: RunnerProcess,
    stage: Stage,
    artifacts: Mapping[str, bytes],
    tensor: Tensor,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> list[Ran]:
    """What single runs came to, the first aside, which warms up. Raises `RunnerFailed`."""
    manifest = Manifest(
        name="speed",
        version="1",
        inputs={"x": TensorSpec(dtype=_DTYPES[tensor.dtype.name], shape=tensor.shape)},
        stages=(stage,),
        outputs={"y": f"stage.{stage.output_names[0]}"},
        limits=PipelineLimits(wall_ms=round(1000 * _WALL_S_MAX)),
    )
    document = encode(TensorDocument({"x": tensor}))
    await runner.load(
        manifest, artifacts, memory_bytes_max=_MEMORY_BYTES, output_bytes_max=manifest.limits.output_bytes
    )
    runs: list[Ran] = []
    begun_s = monotonic()
    while len(runs) <= _RUNS_MIN or monotonic() - begun_s < _MEASURED_S:
        runs.append(await runner.run(document, wall_s_max=_WALL_S_MAX))
        if (failure := runs[-1].run.failure) is not None:
            raise RunnerFailed(f"the benchmark's {stage.name} failed: {failure.title} {failure.detail}")
    return runs[1:]


def _read(path: Path) -> Speed | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Speed)
    except (OSError, *UNDECODABLE):  # absent, or of another version
        return None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
