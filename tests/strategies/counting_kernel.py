"""A kernel, and a pipeline of it, that takes as long as a test needs it to."""

from __future__ import annotations

from pathlib import Path

import wasmtime


def counting_kernel(count: int) -> bytes:
    """A kernel that counts to `count`, then returns its input: some seconds for two thousand million."""
    return wasmtime.wat2wasm(f"""
    (module
      (memory (export "memory") 4)
      (func (export "kernel_alloc") (param i32) (result i32) i32.const 1024)
      (func (export "kernel_run") (param i32 i32) (result i64) (local i64)
        (loop
          (local.set 2 (i64.add (local.get 2) (i64.const 1)))
          (br_if 0 (i64.lt_u (local.get 2) (i64.const {count}))))
        (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))
    """)


def write_counting_pipeline(
    folder: Path, *, count: int, wall_ms: int = 60_000, memory_bytes: int = 1 << 20
) -> Path:
    """The `pipeline.toml` of one stage, `count`, which counts to `count` and returns its input `x`."""
    return write_kernel_pipeline(
        folder, counting_kernel(count), stage="count", wall_ms=wall_ms, memory_bytes=memory_bytes
    )


def write_kernel_pipeline(
    folder: Path, wasm: bytes, *, stage: str, wall_ms: int = 60_000, memory_bytes: int = 1 << 20
) -> Path:
    """The `pipeline.toml` of one stage, a kernel that takes and returns `x`, F32 of any length."""
    folder.mkdir()
    (folder / "kernel.wasm").write_bytes(wasm)
    (folder / "pipeline.toml").write_text(f"""
        name = "{folder.name}"
        version = "1.0.0"
        [inputs]
        x = {{ dtype = "F32", shape = ["?"] }}
        [[stage]]
        name = "{stage}"
        kernel = "kernel.wasm"
        inputs = {{ x = "input.x" }}
        outputs = ["x"]
        fuel = 100_000_000_000
        memory_bytes = {memory_bytes}
        [outputs]
        x = "{stage}.x"
        [limits]
        wall_ms = {wall_ms}
    """)
    return folder / "pipeline.toml"
