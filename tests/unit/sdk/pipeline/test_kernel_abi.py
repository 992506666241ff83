"""The kernel ABI: what is accepted, what is refused by name; hostile bytes only ever give InvalidKernel."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import InvalidKernel
from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS, KernelForm, check_kernel
from tradepost.pipeline.wasm_module import (
    WASM_BYTES_MAX,
    Export,
    ExternKind,
    Import,
    Signature,
    read_interface,
)

ALLOC = '(func (export "kernel_alloc") (param i32) (result i32) unreachable)'
RUN = '(func (export "kernel_run") (param i32 i32) (result i64) unreachable)'
START = '(func (export "_start"))'
MEMORY = '(memory (export "memory") 1)'

HEADER = b"\0asm\x01\0\0\0"


def module(*parts: str) -> bytes:
    return bytes(wat2wasm(f"(module {' '.join(parts)})"))


def section(number: int, content: bytes) -> bytes:
    return bytes([number, len(content)]) + content


def test_the_two_forms() -> None:
    assert check_kernel(module(MEMORY, ALLOC, RUN)) is KernelForm.REACTOR
    assert check_kernel(module(MEMORY, START)) is KernelForm.COMMAND


def test_interface_is_read_in_full() -> None:
    wasm = module(
        '(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))',
        '(memory (export "memory") 3 9)',
        "(table 7 funcref)",
        '(global (export "g") i32 (i32.const 0))',
        '(func (export "f") (param i32 f64) (result v128 i64) unreachable)',
    )
    interface = read_interface(wasm)
    assert interface.imports == (
        Import("wasi_snapshot_preview1", "proc_exit", ExternKind.FUNCTION, Signature(("i32",))),
    )
    assert set(interface.exports) == {
        Export("memory", ExternKind.MEMORY),
        Export("g", ExternKind.GLOBAL),
        Export("f", ExternKind.FUNCTION, Signature(("i32", "f64"), ("v128", "i64"))),
    }
    assert interface.memory_bytes == 3 * 65536
    assert interface.table_elements == 7


def test_every_allowed_import_is_accepted() -> None:
    for name, signature in ALLOWED_IMPORTS.items():
        types = f"(param {' '.join(signature.parameters)}) (result {' '.join(signature.results)})"
        imported = f'(import "wasi_snapshot_preview1" "{name}" (func {types}))'
        assert check_kernel(module(imported, MEMORY, START)) is KernelForm.COMMAND


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (['(import "wasi_snapshot_preview1" "sock_send" (func))', MEMORY, START], "sock_send"),
        (['(import "env" "emscripten_resize_heap" (func))', MEMORY, START], "env.emscripten_resize_heap"),
        (['(import "env" "memory" (memory 1))', START], "the memory 'env.memory'"),
        (['(import "env" "t" (table 1 funcref))', MEMORY, START], "the table 'env.t'"),
        (['(import "env" "g" (global i32))', MEMORY, START], "the global 'env.g'"),
        (
            ['(import "wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32)))', MEMORY, START],
            r"fd_close.* as \(i64\) -> \(i32\)",
        ),
        (["(memory 1)", START], "memory"),
        (['(global (export "memory") i32 (i32.const 0))', "(memory 1)", START], "memory"),
        ([MEMORY], "kernel_alloc and kernel_run"),
        ([MEMORY, ALLOC], "does not export kernel_run"),
        ([MEMORY, ALLOC, RUN, START], "_start as well as kernel_alloc, kernel_run"),
        ([MEMORY, ALLOC, '(func (export "kernel_run") (param i32))'], r"kernel_run as \(i32\) -> \(\)"),
        ([MEMORY, ALLOC, '(global (export "kernel_run") i32 (i32.const 0))'], "kernel_run as None"),
        ([MEMORY, '(func (export "_start") (param i32))'], r"_start as \(i32\)"),
        ([MEMORY, "(memory 1)", START], "2 memories"),
        ([MEMORY, "(table 1 funcref)", "(table 1 funcref)", START], "2 tables"),
        ([MEMORY, "(table 100001 funcref)", START], "100,001 elements"),
        ([MEMORY, "(table 1 externref)", START], "plain function references"),
        (['(memory (export "memory") i64 1)', START], "64-bit"),
        (['(memory (export "memory") 1 1 shared)', START], "shared"),
        ([MEMORY, "(tag)", START], "section 13"),
        ([MEMORY, "(type (struct))", START], "type form 0x5f"),
        ([MEMORY, "(func (param externref))", START], "value type 0x6f"),
    ],
)
def test_what_offends_is_named(parts: list[str], names: str) -> None:
    with pytest.raises(InvalidKernel, match=names):
        check_kernel(module(*parts))


@pytest.mark.parametrize(
    ("wasm", "names"),
    [
        (b"", "0asm"),
        (b"(module)", "0asm"),
        (b"\0asm", "version"),
        (b"\0asm\x02\0\0\0", "version 02000000"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (HEADER + b"\0" * WASM_BYTES_MAX, "limit"),
        (HEADER + b"\x01\x7f", "beyond the end"),
        (HEADER + section(1, b"\0") + section(1, b"\0"), "repeated or out of order"),
        (HEADER + section(2, b"\0") + section(1, b"\0"), "repeated or out of order"),
        (HEADER + section(1, b"\0\0"), "bytes after its content"),
        (HEADER + section(1, b"\xff\xff\xff\xff\x0f"), "4,294,967,295 types"),
        (HEADER + section(1, b"\xff\xff\xff\xff\x1f"), "more than 32 bits"),
        (HEADER + section(1, b"\x80\x80\x80\x80\x80\x00"), "more than 32 bits"),
        (HEADER + section(3, b"\x01\x00"), "type 0"),
        (HEADER + section(7, b"\x01\x01f\x00\x00"), "function 0"),
        (HEADER + section(7, b"\x01\x01\xff\x00\x00"), "UTF-8"),
        (HEADER + section(7, b"\x02\x01f\x02\x00\x01f\x02\x00"), "twice"),
        (HEADER + section(99, b""), "section 99"),
    ],
)
def test_malformed_bytes_are_refused(wasm: bytes, names: str) -> None:
    with pytest.raises(InvalidKernel, match=names):
        check_kernel(wasm)


def test_a_stranger_s_names_are_cut_in_messages() -> None:
    with pytest.raises(InvalidKernel) as caught:
        check_kernel(module(f'(import "env" "{"x" * 5000}\\n" (func))', MEMORY, START))
    assert len(caught.value.detail) < 200
    assert "\n" not in caught.value.detail


@given(st.binary(max_size=200))
def test_arbitrary_bytes_only_give_invalid_kernel(data: bytes) -> None:
    with pytest.raises(InvalidKernel):
        check_kernel(HEADER + data)


@given(st.data())
def test_damaged_kernels_are_kernels_or_invalid(data: st.DataObject) -> None:
    wasm = bytearray(tradepost_kernels.load("checksum"))
    interface_bytes = wasm.index(b"_start") + 16  # what lies behind is code and data
    for _ in range(data.draw(st.integers(1, 4))):
        wasm[data.draw(st.integers(8, interface_bytes))] = data.draw(st.integers(0, 255))
    with suppress(InvalidKernel):
        assert check_kernel(bytes(wasm)) in KernelForm


def test_every_allowed_import_is_documented() -> None:
    table = (Path(__file__).parents[4] / "docs" / "kernels.md").read_text().partition("## Host functions")[2]
    for name in ALLOWED_IMPORTS:
        assert f"`{name}`" in table
