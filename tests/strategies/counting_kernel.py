"""A kernel that takes as long as a test needs it to."""

from __future__ import annotations

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
