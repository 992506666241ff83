"""The command form: stdin to stdout, stderr and exit status as the error; and the checksum kernel."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tradepost.errors import KernelError, KernelMemoryExceeded, KernelTrap
from tradepost.pipeline.tensors import TensorDocument
from tradepost_worker.runner.kernel_sandbox import KernelRun, Sandbox

RunBytes = Callable[[str, bytes], KernelRun]
RunBuiltin = Callable[..., TensorDocument]

IMPORTS = """
(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
(memory (export "memory") 2)
"""
#: Reads up to 65,536 bytes to 65536, of which address 4 then has the number, as the second word of a vector.
READ = """(i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))"""


def write(fd: int) -> str:
    return f"(drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))"


def run(
    sandbox: Sandbox, body: str, document: bytes, *, parts: str = "", output_bytes_max: int = 1 << 20
) -> KernelRun:
    wasm = wat2wasm(f'(module {IMPORTS} {parts} (func (export "_start") {body}))')
    return sandbox.load(bytes(wasm)).run(
        document, fuel=10**7, memory_bytes_max=1 << 20, output_bytes_max=output_bytes_max, wall_s_max=30.0
    )


@given(document=st.binary(max_size=300))
def test_stdin_is_the_document_and_stdout_the_output(sandbox: Sandbox, document: bytes) -> None:
    assert run(sandbox, READ + write(1), document).output == document


def test_stderr_is_kept_beside_the_output(sandbox: Sandbox) -> None:
    result = run(sandbox, READ + write(1) + write(2), b"document")
    assert (result.output, result.stderr) == (b"document", "document")


def test_stdin_ends(sandbox: Sandbox) -> None:
    assert run(sandbox, READ + READ + write(1), b"document").output == b""


def test_exit_status_zero_is_success(sandbox: Sandbox) -> None:
    assert run(sandbox, READ + write(1) + "(call $exit (i32.const 0))", b"document").output == b"document"


def test_another_exit_status_is_an_error_with_stderr_as_its_message(sandbox: Sandbox) -> None:
    exit_3 = "(call $exit (i32.const 3))"
    with pytest.raises(KernelError) as caught:
        run(sandbox, READ + write(1) + write(2) + exit_3, b"no image\n")
    assert caught.value.detail == "no image"
    with pytest.raises(KernelError, match="exit status 3"):
        run(sandbox, exit_3, b"")
    with pytest.raises(KernelMemoryExceeded):
        run(sandbox, READ + write(2) + exit_3, b"out of memory\n")


def test_a_start_section_may_exit_too(sandbox: Sandbox) -> None:
    start = "(func $start (call $exit (i32.const {}))) (start $start)"
    assert run(sandbox, READ + write(1), b"document", parts=start.format(0)).output == b""
    with pytest.raises(KernelError, match="exit status 1"):
        run(sandbox, "", b"", parts=start.format(1))


def test_stdout_is_capped(sandbox: Sandbox) -> None:
    assert run(sandbox, READ + write(1), b"12345", output_bytes_max=5).output == b"12345"
    with pytest.raises(KernelTrap) as caught:
        run(sandbox, READ + write(1) * 2, b"12345", output_bytes_max=9)
    assert caught.value.facts == {"reason": "output-too-large"}


# checksum


@given(tensors=st.dictionaries(st.text(min_size=1, max_size=5), st.binary(max_size=50), max_size=5))
def test_checksum_equals_zlib_s(run_builtin: RunBuiltin, tensors: dict[str, bytes]) -> None:
    result = run_builtin("checksum", {name: np.frombuffer(data, "u1") for name, data in tensors.items()})
    assert result["crc32"].dtype == np.uint32
    assert result["crc32"].tolist() == [zlib.crc32(tensors[name]) for name in sorted(tensors)]
    assert result.metadata == {"names": "\n".join(sorted(tensors))}


def test_checksum_reads_documents_larger_than_its_first_buffer(run_builtin: RunBuiltin) -> None:
    data = np.random.default_rng(0).bytes(1_000_000)
    assert run_builtin("checksum", {"x": np.frombuffer(data, "u1")})["crc32"] == [zlib.crc32(data)]


def test_checksum_refuses_what_is_no_document(run_bytes: RunBytes) -> None:
    with pytest.raises(KernelError, match="shorter than 8 bytes"):
        run_bytes("checksum", b"")
    with pytest.raises(KernelMemoryExceeded):
        run_bytes("checksum", bytes(60 << 20))
