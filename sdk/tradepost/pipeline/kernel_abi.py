"""The `tradepost-kernel/1` contract: what a Wasm module must export and may import to be a kernel.

A kernel is one pure function from a tensor document to another, in one of two forms:

- **reactor**: exports `kernel_alloc(len) -> ptr` and `kernel_run(ptr, len) -> i64`. The result is
  `ptr << 32 | len` of the output document; with the top bit set, of a UTF-8 error message. `kernel_alloc`
  gives 0 when it has no memory. `_initialize`, if exported, runs first.
- **command**: exports `_start`; the input document is stdin, the output document is stdout, the error message
  is stderr, and an exit status other than 0 is an error.

Both export `memory`. The imports below are all served by deterministic host functions. The check needs no
engine, so it runs when a pipeline is published, when the broker takes it, and before the sandbox compiles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tradepost.errors import InvalidKernel
from tradepost.pipeline.wasm_module import ExternKind, Import, ModuleInterface, Signature, read_interface

ABI: Final = "tradepost-kernel/1"
WASI_MODULE: Final = "wasi_snapshot_preview1"

#: A kernel that cannot get memory says so with exactly this message; the sandbox then raises
#: `KernelMemoryExceeded`, because it cannot see that `memory.grow` was refused.
OUT_OF_MEMORY: Final = "out of memory"

MEMORY: Final = "memory"
INITIALIZE: Final = "_initialize"
START: Final = "_start"
ALLOC: Final = "kernel_alloc"
RUN: Final = "kernel_run"

TABLE_ELEMENTS_MAX: Final = 100_000

_ERRNO = ("i32",)

#: The functions of `wasi_snapshot_preview1` that kernels may import. C, Rust, Zig and Go programs that read
#: stdin and write stdout need no more.
ALLOWED_IMPORTS: Final[Mapping[str, Signature]] = MappingProxyType(
    {
        "args_get": Signature(("i32", "i32"), _ERRNO),
        "args_sizes_get": Signature(("i32", "i32"), _ERRNO),
        "clock_res_get": Signature(("i32", "i32"), _ERRNO),
        "clock_time_get": Signature(("i32", "i64", "i32"), _ERRNO),
        "environ_get": Signature(("i32", "i32"), _ERRNO),
        "environ_sizes_get": Signature(("i32", "i32"), _ERRNO),
        "fd_close": Signature(("i32",), _ERRNO),
        "fd_fdstat_get": Signature(("i32", "i32"), _ERRNO),
        "fd_fdstat_set_flags": Signature(("i32", "i32"), _ERRNO),
        "fd_prestat_dir_name": Signature(("i32", "i32", "i32"), _ERRNO),
        "fd_prestat_get": Signature(("i32", "i32"), _ERRNO),
        "fd_read": Signature(("i32", "i32", "i32", "i32"), _ERRNO),
        "fd_seek": Signature(("i32", "i64", "i32", "i32"), _ERRNO),
        "fd_write": Signature(("i32", "i32", "i32", "i32"), _ERRNO),
        "poll_oneoff": Signature(("i32", "i32", "i32", "i32"), _ERRNO),
        "proc_exit": Signature(("i32",)),
        "random_get": Signature(("i32", "i32"), _ERRNO),
        "sched_yield": Signature((), _ERRNO),
    }
)

#: What a kernel exports, of which `check_interface` says what is needed.
FUNCTIONS: Final[Mapping[str, Signature]] = MappingProxyType(
    {
        START: Signature(()),
        INITIALIZE: Signature(()),
        ALLOC: Signature(("i32",), ("i32",)),
        RUN: Signature(("i32", "i32"), ("i64",)),
    }
)


class KernelForm(StrEnum):
    """How a kernel is called."""

    REACTOR = "reactor"
    COMMAND = "command"


def check_kernel(wasm: bytes) -> KernelForm:
    """The form of the kernel in `wasm`. Raises `InvalidKernel` that names what offends, and the mend."""
    return check_interface(read_interface(wasm))


def check_interface(interface: ModuleInterface) -> KernelForm:
    """The form of a kernel with this interface. Raises `InvalidKernel` that names what offends."""
    for item in interface.imports:
        _check_import(item)
    kinds = {export.name: export.kind for export in interface.exports}
    if kinds.get(MEMORY) is not ExternKind.MEMORY:
        raise InvalidKernel(f"it does not export its memory as {MEMORY!r}", hint="Export it with that name.")
    if interface.table_elements > TABLE_ELEMENTS_MAX:
        raise InvalidKernel(
            f"its table has {interface.table_elements:,} elements; the limit is {TABLE_ELEMENTS_MAX:,}"
        )
    for export in interface.exports:
        expected = FUNCTIONS.get(export.name)
        if expected is not None and export.signature != expected:
            raise InvalidKernel(f"it exports {export.name} as {export.signature}; {ABI} has {expected}")
    return _form(set(kinds))


def _check_import(item: Import) -> None:
    if item.module != WASI_MODULE or item.name not in ALLOWED_IMPORTS:
        raise InvalidKernel(
            f"it imports {item}, which is not allowed in kernels",
            hint=f"A kernel has no files, network or threads. From {WASI_MODULE} it may import: "
            f"{', '.join(ALLOWED_IMPORTS)}.",
        )
    expected = ALLOWED_IMPORTS[item.name]
    if item.signature != expected:
        raise InvalidKernel(f"it imports {item} as {item.signature}; WASI has {expected}")


def _form(exports: set[str]) -> KernelForm:
    reactor = {ALLOC, RUN} & exports
    if START in exports and reactor:
        raise InvalidKernel(
            f"it exports {START} as well as {', '.join(sorted(reactor))}",
            hint="Build either a command or a reactor (-mexec-model=reactor), not both.",
        )
    if START in exports:
        return KernelForm.COMMAND
    if missing := {ALLOC, RUN} - exports:
        raise InvalidKernel(
            f"it does not export {' and '.join(sorted(missing))}",
            hint=f"Export {ALLOC} and {RUN} (TK_REACTOR in tradepost_kernel.h does), or {START}.",
        )
    return KernelForm.REACTOR
