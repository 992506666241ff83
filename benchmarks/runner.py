"""What the sandbox costs: pipelines in a runner beside bare onnxruntime and bare wasmtime, in one run.

    python benchmarks/runner.py [--rounds 5] [--seconds 1.0] [--json]

A bare call is of the library alone, in this process, with the settings that the worker gives it: onnxruntime
takes arrays and gives arrays, wasmtime takes a document into a new instance and reads one from it, without
limits, host functions or a deadline. A pipeline run takes and gives tensor documents, over the pipes of a
locked-down runner, hashes every stage's output, and has deadlines; one run waits for the next, and `ahead`
keeps four on the way, as the pool does for short ones. The contenders take turns in every round; the ratio is
that of the median throughputs. Models are chains of matrix products.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
from wasmtime import Instance, Module, Store

import tradepost_kernels
from tradepost.content import add_bytes
from tradepost.pipeline import kernel_abi
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage, Stage, TensorSpec
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost_worker.runner.wasm_profile import new_engine
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.protobuf import FLOAT, graph, int64s, model, node, tensor, value

AHEAD = 4
_MEMORY_BYTES = 512 << 20

Contender = Callable[[float], Awaitable[float]]


@dataclass(frozen=True)
class Row:
    """Calls per second, bare and in a runner, and milliseconds of a bare call."""

    name: str
    bare_ms: float
    bare_per_s: float
    pipeline_per_s: float
    ahead_per_s: float

    @property
    def ratio(self) -> float:
        """The throughput that is left, one run at a time."""
        return self.pipeline_per_s / self.bare_per_s

    @property
    def ahead_ratio(self) -> float:
        """The throughput that is left with runs on the way."""
        return self.ahead_per_s / self.bare_per_s


def chain(width: int, layers: int) -> bytes:
    """A model of `layers` products with a square matrix, from a square `x` to each row's largest value."""
    weights = (np.eye(width, dtype=np.float32) * 0.5 + 1e-3).tobytes()
    products = [node("MatMul", (f"m{n}", "w"), (f"m{n + 1}",)) for n in range(layers)]
    nodes = [node("Identity", ("x",), ("m0",)), *products, node("GlobalMaxPool", ("rows",), ("y",))]
    nodes.insert(-1, node("Unsqueeze", (f"m{layers}", "axis"), ("rows",)))
    shape = (width, width)
    return model(
        graph(
            nodes,
            inputs=(value("x", FLOAT, shape),),
            outputs=(value("y", shape=None),),
            tensors=(tensor("w", FLOAT, shape, weights), int64s("axis", 0)),
        )
    )


def manifest_of(stage: Stage, shape: tuple[int, ...], output: str) -> Manifest:
    """A pipeline of one stage."""
    return Manifest(
        name="benchmark",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=shape)},
        stages=(stage,),
        outputs={output: f"{stage.name}.{output}"},
    )


async def measure_model(name: str, width: int, layers: int, *, rounds: int, seconds: float) -> Row:
    """One model: bare onnxruntime with the options of the runner, and the runner."""
    content = chain(width, layers)
    x = np.full((width, width), 0.5, np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    stage = ModelStage(
        name="model",
        artifact=add_bytes(content, put=None),
        inputs={"x": "input.x"},
        outputs=("y",),
        memory_bytes=_MEMORY_BYTES,
    )
    return await _compare(
        name, lambda: session.run(["y"], {"x": x}), stage, content, x, "y", rounds=rounds, seconds=seconds
    )


@dataclass(frozen=True)
class Subject:
    """A kernel, the name of its input and of its output, and its parameters."""

    kernel: str
    input: str
    output: str
    metadata: Mapping[str, str]


NOOP = Subject("noop", "x", "x", {})
TOPK = Subject("topk", "scores", "index", {"k": "5"})


async def measure_kernel(
    name: str, subject: Subject, shape: tuple[int, ...], *, rounds: int, seconds: float
) -> Row:
    """One kernel: bare wasmtime with the options of the sandbox, and the runner."""
    content = tradepost_kernels.load(subject.kernel)
    x = np.random.default_rng(1).random(shape, np.float32)
    document = encode(TensorDocument({subject.input: x}, subject.metadata))
    engine = new_engine()
    module = Module(engine, content)

    def bare() -> object:
        with Store(engine) as store:
            store.set_fuel(10**9)
            store.set_epoch_deadline(1)
            exports = Instance(store, module, []).exports(store)
            memory = exports[kernel_abi.MEMORY]
            pointer = exports[kernel_abi.ALLOC](store, len(document))
            memory.write(store, document, pointer)
            result = exports[kernel_abi.RUN](store, pointer, len(document))
            start, length = result >> 32, result & 0xFFFFFFFF
            return memory.read(store, start, start + length)

    stage = KernelStage(
        name="kernel",
        artifact=add_bytes(content, put=None),
        inputs={subject.input: "input.x"},
        outputs=(subject.output,),
        metadata=dict(subject.metadata),
    )
    return await _compare(name, bare, stage, content, x, subject.output, rounds=rounds, seconds=seconds)


async def _compare(
    name: str,
    bare: Callable[[], object],
    stage: Stage,
    content: bytes,
    x: np.ndarray,
    output: str,
    *,
    rounds: int,
    seconds: float,
) -> Row:
    document = encode(TensorDocument({"x": x}))
    manifest = manifest_of(stage, x.shape, output)
    runner = await RunnerProcess.start()
    try:
        await runner.load(
            manifest, {stage.artifact: content}, memory_bytes_max=_MEMORY_BYTES, output_bytes_max=64 << 20
        )

        async def bare_calls(for_s: float) -> float:
            count, started_s = 0, time.perf_counter()
            while time.perf_counter() - started_s < for_s:
                bare()
                count += 1
            return count / (time.perf_counter() - started_s)

        async def one_by_one(for_s: float) -> float:
            return await _runs_per_s(runner, document, for_s, side_by_side=1)

        async def ahead(for_s: float) -> float:
            return await _runs_per_s(runner, document, for_s, side_by_side=AHEAD)

        contenders: list[Contender] = [bare_calls, one_by_one, ahead]
        for contender in contenders:
            await contender(seconds / 5)
        taken = [[await contender(seconds) for contender in contenders] for _ in range(rounds)]
    finally:
        await runner.close()
    medians = [statistics.median(column) for column in zip(*taken, strict=True)]
    return Row(name, 1000 / medians[0], *medians)


async def _runs_per_s(runner: RunnerProcess, document: bytes, for_s: float, *, side_by_side: int) -> float:
    count, started_s = 0, time.perf_counter()

    async def keep_running() -> None:
        nonlocal count
        while time.perf_counter() - started_s < for_s:
            ran = await runner.run(document, wall_s_max=30)
            if ran.run.failure is not None:
                raise RuntimeError(f"the pipeline failed: {ran.run.failure.detail}")
            count += 1

    await asyncio.gather(*(keep_running() for _ in range(side_by_side)))
    return count / (time.perf_counter() - started_s)


async def measure(*, rounds: int, seconds: float) -> list[Row]:
    """All comparisons."""
    rows = []
    for name, width, layers in (
        ("model, tiny", 8, 1),
        ("model, ~1 ms", 128, 28),
        ("model, ~5 ms", 256, 36),
        ("model, ~20 ms", 384, 42),
    ):
        rows.append(await measure_model(name, width, layers, rounds=rounds, seconds=seconds))
    for name, subject, shape in (
        ("kernel noop, 4 B", NOOP, (1,)),
        ("kernel noop, 4 MB", NOOP, (1_000_000,)),
        ("kernel topk, 4 kB", TOPK, (1, 1_000)),
        ("kernel topk, 4 MB", TOPK, (1_000, 1_000)),
    ):
        rows.append(await measure_kernel(name, subject, shape, rounds=rounds, seconds=seconds))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = asyncio.run(measure(rounds=options.rounds, seconds=options.seconds))
    if options.json:
        print(
            json.dumps([row.__dict__ | {"ratio": row.ratio, "ahead_ratio": row.ahead_ratio} for row in rows])
        )
        return
    print(f"{'':22}{'bare':>9}{'bare':>10}{'pipeline':>10}{'ahead':>10}{'ratio':>8}{'ahead':>8}")
    print(f"{'':22}{'ms':>9}{'/s':>10}{'/s':>10}{'/s':>10}")
    for row in rows:
        print(
            f"{row.name:22}{row.bare_ms:9.3f}{row.bare_per_s:10.1f}{row.pipeline_per_s:10.1f}"
            f"{row.ahead_per_s:10.1f}{row.ratio:8.3f}{row.ahead_ratio:8.3f}"
        )


if __name__ == "__main__":
    main()
