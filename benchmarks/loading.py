"""What the compile cache saves: loading kernels into fresh runners, compiled there or by an earlier runner.

    python benchmarks/loading.py [--rounds 5] [--json]

A time is from the artifact in the agent's hands to the runner that is ready for its first input; for cached
code it includes reading the file and checking its MAC. Each load has a runner of its own, whose start is not
counted. The generated modules have this many functions of 40 additions. Times are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tradepost_kernels
from tradepost_worker.supervision.compile_cache import CompileCache
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.hostile.module_builders import (
    ALLOC_BODY,
    ECHO_BODY,
    EXPORTS,
    MEMORY,
    TYPES,
    leb,
    module,
)
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline

_CACHE_BYTES = 1 << 30
_MEMORY_BYTES = 1 << 30
_SUM = b"\1\1\x7e" + b"\x20\0\x42\7\x7c\x21\0" * 40 + b"\x0b"  # one i64, to which 7 is added 40 times


@dataclass(frozen=True)
class Row:
    """A kernel, its sizes as a module and as compiled code, and milliseconds until it is loaded."""

    name: str
    wasm_bytes: int
    code_bytes: int
    fresh_ms: float
    cached_ms: float


def generated(functions: int) -> bytes:
    """A kernel with this many functions besides its own two."""
    bodies = (
        b"".join(leb(len(body)) + body for body in (ALLOC_BODY, ECHO_BODY))
        + (leb(len(_SUM)) + _SUM) * functions
    )
    types = leb(functions + 2) + b"\0\1" + b"\2" * functions
    return module(TYPES, (3, types), MEMORY, EXPORTS, (10, leb(functions + 2) + bodies))


async def load_ms(pipeline: SamplePipeline, cache: CompileCache, *, is_cached: bool) -> tuple[float, int]:
    """How long one load takes, and how many bytes of code the runner had to compile."""
    runner = await RunnerProcess.start()
    try:
        started_s = time.perf_counter()
        known = cache.read(runner.ready, pipeline.cid, pipeline.artifacts) if is_cached else {}
        compiled = await runner.load(
            pipeline.manifest,
            pipeline.artifacts,
            memory_bytes_max=_MEMORY_BYTES,
            output_bytes_max=1 << 20,
            compiled=known,
        )
        took_ms = 1000 * (time.perf_counter() - started_s)
        cache.write(runner.ready, pipeline.cid, compiled, known)
    finally:
        await runner.close()
    return took_ms, sum(map(len, compiled.values()))


async def measure(name: str, wasm: bytes, cache: CompileCache, *, rounds: int) -> Row:
    """One kernel, `rounds` times each way in turn."""
    pipeline = kernel_pipeline(wasm)
    fresh, cached = [], []
    for _ in range(rounds):
        fresh.append(await load_ms(pipeline, cache, is_cached=False))
        cached.append(await load_ms(pipeline, cache, is_cached=True))
    if any(code_bytes for _, code_bytes in cached):
        raise SystemExit(f"{name} was compiled although its code was at hand")
    return Row(
        name=name,
        wasm_bytes=len(wasm),
        code_bytes=fresh[0][1],
        fresh_ms=statistics.median(took_ms for took_ms, _ in fresh),
        cached_ms=statistics.median(took_ms for took_ms, _ in cached),
    )


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kernels = {name: tradepost_kernels.load(name) for name in tradepost_kernels.names()}
    kernels |= {f"{count:,} functions": generated(count) for count in (1_000, 10_000)}
    with tempfile.TemporaryDirectory() as folder:
        cache = CompileCache(Path(folder, "compiled"), bytes_max=_CACHE_BYTES)
        rows = [await measure(name, wasm, cache, rounds=arguments.rounds) for name, wasm in kernels.items()]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{'kernel':18} {'module':>12} {'code':>12} {'fresh':>12} {'cached':>12}")
    for row in rows:
        print(
            f"{row.name:18} {row.wasm_bytes:>10,} B {row.code_bytes:>10,} B "
            f"{row.fresh_ms:>9.1f} ms {row.cached_ms:>9.1f} ms"
        )


if __name__ == "__main__":
    asyncio.run(main())
