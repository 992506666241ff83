"""What compiling a pipeline's kernels costs a worker, measured before it is published.

Every worker compiles a kernel once before it runs it, within its own memory and the time of a lease. A kernel
that is valid can be too large for that, and then all workers refuse it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Final

import msgspec

from tradepost.content import Cid
from tradepost.errors import UNDECODABLE
from tradepost.pipeline.manifest import KernelStage
from tradepost_signing.publishing.pipeline_toml import AuthoredPipeline

#: The worker's own measurement, run by its name: it needs the worker's engine, which signing does not.
_MODULE: Final = "tradepost_worker.runner.compile_cost"
_MEASURE_S_MAX: Final = 300.0
#: Kernels below this size compile within what any device has.
_MEASURED_BYTES_MIN: Final = 256 << 10
#: Devices with 2 GiB of memory lend 1 GiB of it by default.
WARN_MEMORY_BYTES: Final = 512 << 20
#: A lease lasts for `limits.wall_ms` and this; other devices may be half as fast as this one.
LEASE_GRACE_S: Final = 15.0
_SLOWER: Final = 2.0


class CompileCost(msgspec.Struct, frozen=True, kw_only=True):
    """What compiling one kernel took: the peak of memory, and processor time.

    `problem` says why it could not be measured; it is empty if it was.
    """

    stage: str
    memory_bytes: int = 0
    cpu_s: float = 0.0
    problem: str = ""


class _Measured(msgspec.Struct, frozen=True, kw_only=True):
    memory_bytes: int
    cpu_s: float


def measure_kernels(pipeline: AuthoredPipeline) -> list[CompileCost]:
    """The cost of each large kernel."""
    costs = []
    for stage in pipeline.manifest.stages:
        if isinstance(stage, KernelStage):
            wasm = pipeline.artifacts[Cid(stage.artifact)].read_all()
            if len(wasm) >= _MEASURED_BYTES_MIN:
                costs.append(_measure(stage.name, wasm))
    return costs


def compile_warnings(costs: list[CompileCost], *, wall_s: float) -> list[str]:
    """What a publisher should know, in words, of a pipeline whose runs may take `wall_s` seconds."""
    warnings = []
    for cost in costs:
        if cost.problem:
            warnings.append(
                f"stage {cost.stage}: the cost of compiling the kernel is unknown: {cost.problem}"
            )
        if cost.memory_bytes > WARN_MEMORY_BYTES:
            warnings.append(
                f"stage {cost.stage}: compiling the kernel takes {cost.memory_bytes / 1e9:.2f} GB of memory; "
                "workers that lend less refuse the pipeline. Make the kernel smaller, for example without "
                "debug information and unused packages."
            )
        needed_s = _SLOWER * cost.cpu_s
        if needed_s > wall_s + LEASE_GRACE_S:
            wall_ms = round(1000 * (needed_s - LEASE_GRACE_S))
            warnings.append(
                f"stage {cost.stage}: compiling the kernel takes {cost.cpu_s:.1f} s here, and a worker must "
                f"compile it within its first lease. Set limits.wall_ms to {wall_ms} or more."
            )
    return warnings


def _measure(stage: str, wasm: bytes) -> CompileCost:
    if find_spec("tradepost_worker") is None or find_spec("wasmtime") is None:
        return CompileCost(stage=stage, problem="measuring it needs pip install 'tradepost[worker]'")
    command = [sys.executable, "-m", _MODULE]
    try:
        done = subprocess.run(command, input=wasm, capture_output=True, timeout=_MEASURE_S_MAX, check=True)
        measured = msgspec.json.decode(done.stdout, type=_Measured)
    except subprocess.TimeoutExpired:
        return CompileCost(stage=stage, problem=f"it takes more than {_MEASURE_S_MAX:g} s")
    except subprocess.CalledProcessError as error:
        return CompileCost(stage=stage, problem=f"the compiler ended with status {error.returncode}")
    except (OSError, *UNDECODABLE) as error:
        return CompileCost(stage=stage, problem=str(error))
    return CompileCost(stage=stage, memory_bytes=measured.memory_bytes, cpu_s=measured.cpu_s)
