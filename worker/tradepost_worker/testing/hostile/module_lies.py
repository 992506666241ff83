"""Hostile kernels that lie: about their output, their pointers, what they need, or what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS
from tradepost_worker.runner.wasm_profile import new_engine
from tradepost_worker.testing.hostile.cases import (
    INVALID_KERNEL,
    RETURNED,
    TRAP,
    Case,
    flipped,
    literally,
    wasm_case,
)
from tradepost_worker.testing.hostile.module_builders import (
    ECHO,
    TYPES,
    assembled,
    imported,
    module,
    reactor,
)

OUT_OF_FUEL: Final = "kernel-out-of-fuel"
MEMORY_EXCEEDED: Final = "kernel-memory-exceeded"
KERNEL_ERROR: Final = "kernel-error"


def lying_cases() -> Iterator[Case]:
    """Documents, pointers, imports and bytes that are not what they should be."""
    yield from _lies()
    yield from _traps()
    yield from _imports()
    yield from _wild_pointers()
    yield from _broken()


def _lies() -> Iterator[Case]:
    """Documents that are not where, or what, the kernel says."""

    def answer(value: int) -> Callable[[], bytes]:
        return lambda: reactor(f"(i64.const {value})")

    def document(header: str, *, length: int | None = None) -> Callable[[], bytes]:
        text = header.encode()
        data = (len(text) if length is None else length).to_bytes(8, "little") + text
        escaped = "".join(f"\\{byte:02x}" for byte in data)
        return lambda: reactor(
            f"(i64.const {2048 << 32 | len(data)})", more=f'(data (i32.const 2048) "{escaped}")'
        )

    top = 1 << 63
    yield wasm_case("a document of 4 GiB", answer((1 << 32) - 1), TRAP)
    yield wasm_case("a document outside memory", answer(0x7FFFFFFF << 32 | 16), TRAP)
    yield wasm_case("a document that leaves memory", answer((262144 - 8) << 32 | 64), TRAP)
    yield wasm_case("an empty document", answer(0), TRAP)
    yield wasm_case("an error message of 4 GiB", answer(-top | 0xFFFFFFFF), TRAP)
    yield wasm_case("an error message outside memory", answer(-top | 0x7FFFFFFF << 32 | 9), TRAP)
    yield wasm_case(
        "an error message that is no text",
        lambda: reactor(f"(i64.const {-top | 4096 << 32 | 4})", more='(data (i32.const 4096) "\\ff\\1b[2")'),
        KERNEL_ERROR,
    )
    yield wasm_case("the input as the output", reactor, RETURNED)
    yield wasm_case("an output inside the input", answer(1028 << 32 | 64), TRAP)
    yield wasm_case("alloc in the last byte", lambda: reactor(alloc="(i32.const 262143)"), TRAP)
    yield wasm_case("alloc outside memory", lambda: reactor(alloc="(i32.const -1)"), TRAP)
    yield wasm_case("a header of 2**63 bytes", document("{}", length=1 << 63), TRAP)
    yield wasm_case(
        "a tensor of 4 TiB in 100 bytes",
        document('{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
        TRAP,
    )
    yield wasm_case(
        "a shape that overflows",
        document('{"x":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'),
        TRAP,
    )
    yield wasm_case(
        "a negative shape", document('{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}'), TRAP
    )
    yield wasm_case("a header of 10,000 brackets", document('{"x":' + "[" * 10_000), TRAP)
    yield wasm_case("a header that is not JSON", document("\0\0\0\0"), TRAP)
    yield wasm_case(
        "overlapping tensors",
        document(
            '{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}'
        ),
        TRAP,
    )
    yield wasm_case("NaN payloads in the output", _nan_payload, RETURNED)


def _nan_payload() -> bytes:
    """Overwrites the three floats of the input with NaNs that come out of arithmetic."""
    store = "".join(
        f"(f32.store (i32.sub (i32.add (local.get $at) (local.get $size)) (i32.const {4 * place})) {value})"
        for place, value in (
            (1, "(f32.div (f32.const 0) (f32.const 0))"),
            (2, "(f32.add (f32.reinterpret_i32 (i32.const 0x7fa12345)) (f32.const 1))"),
            (3, "(f32.sqrt (f32.const -1))"),
        )
    )
    return reactor(store + ECHO)


def _traps() -> Iterator[Case]:
    bodies = {
        "unreachable": "unreachable",
        "division by zero": "(i64.div_s (i64.const 1) (i64.const 0))",
        "integer overflow": "(i64.div_s (i64.const 0x8000000000000000) (i64.const -1))",
        "a float that is no integer": "(i64.trunc_f64_s (f64.const nan))",
        "a load outside memory": "(i64.load offset=4294967288 (i32.const -1))",
        "a store outside memory": "(i64.store (i32.const 262140) (i64.const 1)) (i64.const 0)",
        "memory.copy outside memory": "(memory.copy (i32.const 0) (i32.const 1) (i32.const -1)) unreachable",
        "memory.fill outside memory": "(memory.fill (i32.const 9) (i32.const 1) (i32.const -1)) unreachable",
    }
    for name, body in bodies.items():
        yield wasm_case(name, partial(reactor, body), TRAP)
    table = (
        "(type $t (func)) (type $u (func (param i64))) (table 2 funcref) (elem (i32.const 0) $n) (func $n)"
    )
    for name, call in {
        "a call of another type": "(call_indirect (type $u) (i64.const 1) (i32.const 0))",
        "a call of nothing": "(call_indirect (type $t) (i32.const 1))",
        "a call outside the table": "(call_indirect (type $t) (i32.const -1))",
    }.items():
        yield wasm_case(name, partial(reactor, f"{call} (i64.const 0)", more=table), TRAP)
    yield wasm_case(
        "a reactor that exits",
        lambda: reactor(
            "(call $host (i32.const 0)) (i64.const 0)",
            imports='(import "wasi_snapshot_preview1" "proc_exit" (func $host (param i32)))',
        ),
        TRAP,
    )


#: Of `wasi_snapshot_preview1`, what a kernel may not import: files, folders, sockets, signals.
_REFUSED_WASI: Final = (
    "fd_advise",
    "fd_allocate",
    "fd_datasync",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_pwrite",
    "fd_readdir",
    "fd_renumber",
    "fd_sync",
    "fd_tell",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "proc_raise",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
)


def _imports() -> Iterator[Case]:
    for name in _REFUSED_WASI:
        yield wasm_case(f"import {name}", partial(reactor, imports=imported(name)), INVALID_KERNEL)
    others = {
        "an unknown module": imported("fetch", "env"),
        "WASI's first draft": imported("fd_write", "wasi_unstable"),
        "another type": '(import "wasi_snapshot_preview1" "fd_close" (func $host (param i64)))',
        "a memory": '(import "env" "m" (memory 1))',
        "a table": '(import "env" "t" (table 1 funcref))',
        "a global": '(import "env" "g" (global i32))',
    }
    for name, text in others.items():
        yield wasm_case(f"import {name}", partial(reactor, imports=text), INVALID_KERNEL)


def _wild_pointers() -> Iterator[Case]:
    """Every host call with every argument as wild as it gets: an errno, and the kernel goes on."""
    for name, signature in ALLOWED_IMPORTS.items():
        if name == "proc_exit":
            continue
        rounds = []
        for wild in ("-1", "0x7ffffff0", "262140", "1", "2"):
            arguments = " ".join(f"({kind}.const {wild})" for kind in signature.parameters)
            rounds.append(f"(drop (call $host {arguments}))")
        yield wasm_case(
            f"{name} with wild pointers",
            partial(reactor, "".join(rounds) + ECHO, imports=imported(name)),
            RETURNED,
            OUT_OF_FUEL,
            KERNEL_ERROR,
            TRAP,
        )


def _broken() -> Iterator[Case]:
    """What is no module of the core format, and modules with damage."""
    whole = reactor(more='(table 1 funcref) (global $g (mut i32) (i32.const 7)) (data (i32.const 9) "abc")')
    refused = {
        "nothing": b"",
        "the text format": b"(module)",
        "a component": b"\0asm\x0d\0\1\0",
        "version 2": b"\0asm\2\0\0\0",
        "the magic alone": b"\0asm",
        "an empty module": b"\0asm\1\0\0\0",
        "a section twice": whole + whole[8 : 8 + 2 + whole[9]],
        "a section past the end": module(TYPES) + b"\3\xff\xff\xff\xff\x0f",
        "a number of six bytes": b"\0asm\1\0\0\0\1\x80\x80\x80\x80\x80\0",
        "a name that is not UTF-8": module((7, b"\1\2\xff\xfe\2\0")),
        "an unknown section": module((42, b"")),
        "exception tags": module((13, b"\1\0\0")),
        "a struct type": module((1, b"\1\x5f\0")),
        "a tail call": assembled(b"\0\x20\0\x20\1\x12\1\x0b"),
        "an atomic instruction": assembled(b"\0\x20\0\xfe\x10\2\0\xad\x0b"),
        "a relaxed vector instruction": assembled(b"\0\x20\0\xfd\x80\2\x0b"),
        "bytes that are no instruction": assembled(b"\0\xff\xff\xff\x0b"),
        "a stack that does not fit": assembled(b"\0\x6a\x0b"),
    }
    for name, data in refused.items():
        yield wasm_case(name, literally(data), INVALID_KERNEL)
    yield wasm_case("compiled code of the same engine", _native_code, INVALID_KERNEL)
    for position in (9, 20, len(whole) // 2, len(whole) - 1):
        yield wasm_case(f"cut at byte {position}", literally(whole[:position]), INVALID_KERNEL)
    for seed in range(4):
        yield wasm_case(
            f"bits flipped, seed {seed}",
            partial(flipped, whole, seed),
            INVALID_KERNEL,
            RETURNED,
            TRAP,
            OUT_OF_FUEL,
            MEMORY_EXCEEDED,
            KERNEL_ERROR,
        )


def _native_code() -> bytes:
    from wasmtime import Module

    return bytes(Module(new_engine(), reactor()).serialize())
