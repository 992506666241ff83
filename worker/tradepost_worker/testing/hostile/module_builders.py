"""Writes kernels, as text and byte by byte."""

from __future__ import annotations

from typing import Final

from wasmtime import wat2wasm

from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS

#: Gives the input back as the output.
ECHO: Final = """(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
    (i64.extend_i32_u (local.get $size)))"""
LOOP: Final = "(loop $again (br $again))"


def reactor(
    run: str = ECHO, *, alloc: str = "(i32.const 1024)", more: str = "", memory: str = "4", imports: str = ""
) -> bytes:
    """A reactor whose `kernel_run` and `kernel_alloc` have these bodies."""
    return bytes(
        wat2wasm(f"""(module {imports} (memory (export "memory") {memory}) {more}
        (func $alloc (export "kernel_alloc") (param $size i32) (result i32) {alloc})
        (func $run (export "kernel_run") (param $at i32) (param $size i32) (result i64) {run}))""")
    )


def command(body: str, *, imports: str = "") -> bytes:
    """A command whose `_start` has this body."""
    return bytes(
        wat2wasm(f"""(module {imports} (memory (export "memory") 4) (func $run (export "_start") {body}))""")
    )


def module(*sections: tuple[int, bytes]) -> bytes:
    """A module of raw sections, each an id and its content."""
    return b"\0asm\1\0\0\0" + b"".join(bytes([number]) + leb(len(data)) + data for number, data in sections)


def leb(value: int) -> bytes:
    """An unsigned LEB128 number."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


TYPES: Final = (1, b"\3\x60\1\x7f\1\x7f\x60\2\x7f\x7f\1\x7e\x60\0\0")
FUNCTIONS: Final = (3, b"\2\0\1")
MEMORY: Final = (5, b"\1\0\4")
EXPORTS: Final = (7, b"\3\6memory\2\0\x0ckernel_alloc\0\0\x0akernel_run\0\1")
ALLOC_BODY: Final = b"\0\x41\x80\x08\x0b"


def assembled(run: bytes, *, before_code: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    """A reactor whose `kernel_run` is this body: locals, then instructions."""
    code = b"\2" + b"".join(leb(len(body)) + body for body in (ALLOC_BODY, run))
    return module(TYPES, FUNCTIONS, MEMORY, EXPORTS, *before_code, (10, code))


#: `at << 32 | size` as instructions.
ECHO_BODY: Final = b"\0\x20\0\xad\x42\x20\x86\x20\1\xad\x84\x0b"


def imported(name: str, module_name: str = "wasi_snapshot_preview1") -> str:
    """A WASI function as the text of an import, called $host."""
    signature = ALLOWED_IMPORTS.get(name)
    parameters = " ".join(signature.parameters) if signature else "i32"
    results = " ".join(signature.results) if signature else "i32"
    return f'(import "{module_name}" "{name}" (func $host (param {parameters}) (result {results})))'
