"""Hostile kernels: modules that loop, hoard, or cost the compiler dearly.

Each case names the verdicts that count as contained; `RETURNED` where the attack must simply come to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from tradepost_worker.testing.hostile.cases import (
    FUEL_ENDLESS,
    INVALID_KERNEL,
    RETURNED,
    TIMEOUT,
    TOO_COSTLY,
    TRAP,
    Case,
    wasm_case,
)
from tradepost_worker.testing.hostile.module_builders import (
    ALLOC_BODY,
    ECHO,
    ECHO_BODY,
    EXPORTS,
    LOOP,
    MEMORY,
    TYPES,
    assembled,
    command,
    imported,
    leb,
    module,
    reactor,
)
from tradepost_worker.testing.hostile.module_lies import lying_cases

OUT_OF_FUEL: Final = "kernel-out-of-fuel"
MEMORY_EXCEEDED: Final = "kernel-memory-exceeded"
CRASHED: Final = "runner-failed"
_DEADLINE_S: Final = 1.0
_LOAD_S: Final = 2.0


def wasm_cases() -> list[Case]:
    """Every hostile kernel, with names that are its own."""
    groups = (_loops(), _hoards(), _bombs(), lying_cases())
    return [case for group in groups for case in group]


def _endless(name: str, build: Callable[[], bytes]) -> Case:
    """A kernel that only its deadline ends."""
    return Case(
        name=name,
        engine="wasm",
        build=build,
        verdicts=(TIMEOUT,),
        wall_s=_DEADLINE_S,
        fuel=FUEL_ENDLESS,
    )


def _loops() -> Iterator[Case]:
    start = f"(func $loop {LOOP}) (start $loop)"
    calls = "(func $ping (call $pong)) (func $pong)"
    recursion = "(func $deeper (param i64) (result i64) (i64.add (call $deeper (local.get 0)) (local.get 0)))"
    wide = " ".join(f"(local $v{n} v128)" for n in range(500))
    wide_uses = " ".join(f"(local.set $v{n} (v128.load (local.get 0)))" for n in range(500))
    wide_keeps = " ".join(f"(v128.store (local.get 0) (local.get $v{n}))" for n in range(500))
    yield _endless("endless loop", lambda: reactor(f"{LOOP} unreachable"))
    yield _endless(
        "endless loop of calls", lambda: reactor("(loop $l (call $ping) (br $l)) unreachable", more=calls)
    )
    yield _endless("endless loop in the start function", lambda: reactor(more=start))
    yield _endless(
        "endless loop in _initialize", lambda: reactor(more=f'(func (export "_initialize") {LOOP})')
    )
    yield _endless("endless loop in kernel_alloc", lambda: reactor(alloc=f"{LOOP} unreachable"))
    yield _endless("endless loop in a command", lambda: command(LOOP))
    yield _endless(
        "endless memory.fill",
        lambda: reactor(
            "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 262144)) (br $l)) unreachable"
        ),
    )
    yield _endless(
        "endless overlapping memory.copy",
        lambda: reactor(
            "(loop $l (memory.copy (i32.const 1) (i32.const 0) (i32.const 262143)) (br $l)) unreachable"
        ),
    )
    yield _endless(
        "endless br_table", lambda: reactor("(loop $l (br_table $l $l $l (local.get 0))) unreachable")
    )
    for name, arguments in (
        ("sched_yield", ""),
        ("fd_write", "(i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0)"),
        ("random_get", "(i32.const 0) (i32.const 200000)"),
        ("poll_oneoff", "(i32.const 0) (i32.const 60000) (i32.const 1000) (i32.const 0)"),
    ):
        yield _endless(f"endless {name}", partial(_host_loop, name, arguments))
    yield wasm_case("a loop paid for in fuel", lambda: reactor(f"{LOOP} unreachable"), OUT_OF_FUEL)
    yield wasm_case("host calls paid for in fuel", lambda: _host_loop("sched_yield", ""), OUT_OF_FUEL)
    yield wasm_case("a start function paid in fuel", lambda: reactor(more=start), OUT_OF_FUEL, fuel=1_000_000)
    yield wasm_case(
        "deep recursion", lambda: reactor("(call $deeper (i64.const 1))", more=recursion), CRASHED, TRAP
    )
    yield wasm_case(
        "deep recursion with large frames",
        lambda: reactor(
            "(call $f (i32.const 0)) (i64.const 0)",
            more=f"(func $f (param i32) {wide} {wide_uses} (call $f (local.get 0)) {wide_keeps})",
        ),
        TRAP,
    )
    yield wasm_case(
        "deep recursion through a table",
        lambda: reactor(
            "(call_indirect (type $t) (i32.const 0)) (i64.const 0)",
            more="(type $t (func)) (table 1 funcref) (elem (i32.const 0) $r) "
            "(func $r (call_indirect (type $t) (i32.const 0)) (call_indirect (type $t) (i32.const 0)))",
        ),
        TRAP,
    )
    yield wasm_case(
        "stdout without end",
        lambda: command(
            """(i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 200000))
            (loop $l (drop (call $host (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))) (br $l))""",
            imports=imported("fd_write"),
        ),
        TRAP,
        OUT_OF_FUEL,
        fuel=1_000_000_000,
    )


def _host_loop(name: str, arguments: str) -> bytes:
    return reactor(f"(loop $l (drop (call $host {arguments})) (br $l)) unreachable", imports=imported(name))


def _hoards() -> Iterator[Case]:
    grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) "
    table_grow = "(drop (table.grow $t (ref.null func) (i32.const 50000000))) "
    yield wasm_case("memory.grow to the limit", lambda: reactor(grow + ECHO), RETURNED)
    yield wasm_case(
        "memory.grow by 4 GiB", lambda: reactor("(drop (memory.grow (i32.const 65535))) " + ECHO), RETURNED
    )
    yield wasm_case("grows, then touches it all", lambda: reactor(grow + _touch_all()), TRAP)
    yield wasm_case("4 GiB of memory at the start", lambda: reactor(memory="65536"), MEMORY_EXCEEDED)
    yield wasm_case("more than 4 GiB of memory", lambda: reactor(memory="65537"), INVALID_KERNEL)
    yield wasm_case(
        "a table of 50,000,000", lambda: reactor(more="(table $t 50000000 funcref)"), INVALID_KERNEL
    )
    yield wasm_case(
        "table.grow to 50 million",
        lambda: reactor(table_grow + ECHO, more="(table $t 1 funcref)"),
        RETURNED,
    )
    yield wasm_case(
        "table.grow without end",
        lambda: reactor(
            "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 64)) (i32.const -1)))) "
            + ECHO,
            more="(table $t 1 funcref)",
        ),
        RETURNED,
        OUT_OF_FUEL,
    )
    yield wasm_case("two memories", lambda: reactor(more="(memory 1)"), INVALID_KERNEL)
    yield wasm_case("two tables", lambda: reactor(more="(table 1 funcref) (table 1 funcref)"), INVALID_KERNEL)
    yield wasm_case("a 64-bit memory", lambda: reactor(memory="i64 4"), INVALID_KERNEL)
    yield wasm_case("a shared memory", lambda: reactor(memory="4 4 shared"), INVALID_KERNEL)
    yield wasm_case("a table of externref", lambda: reactor(more="(table 1 externref)"), INVALID_KERNEL)
    yield wasm_case("alloc finds no room", lambda: reactor(alloc="(i32.const 0)"), MEMORY_EXCEEDED)


def _touch_all() -> str:
    return "(loop $t (i32.store (local.get $at) (i32.const 1)) " + (
        "(local.set $at (i32.add (local.get $at) (i32.const 4096))) (br $t)) unreachable"
    )


def _bombs() -> Iterator[Case]:
    """What costs the compiler more than its size promises, or claims to be larger than it is."""
    slow = (RETURNED, TOO_COSTLY, INVALID_KERNEL, TRAP, OUT_OF_FUEL)
    yield wasm_case("a passive segment of 15 MiB", lambda: _data(b"\1", 15 << 20), RETURNED)
    yield wasm_case("a data segment beyond memory", lambda: _data(b"\0\x41\0\x0b", 1 << 20), TRAP)
    yield wasm_case("20 MiB of module", lambda: _data(b"\1", 20 << 20), INVALID_KERNEL)
    yield wasm_case(
        "a custom section of 15 MiB", lambda: reactor() + b"\0" + leb(15 << 20) + bytes(15 << 20), RETURNED
    )
    yield wasm_case(
        "4 billion functions in 5 bytes",
        lambda: module(TYPES, (3, leb((1 << 32) - 1)), MEMORY, EXPORTS),
        INVALID_KERNEL,
    )
    yield wasm_case("4 billion types", lambda: module((1, leb((1 << 32) - 1))), INVALID_KERNEL)
    yield wasm_case(
        "4 billion locals", lambda: assembled(b"\1" + leb((1 << 32) - 1) + b"\x7e\x42\0\x0b"), INVALID_KERNEL
    )
    yield wasm_case(
        "50,000 vector locals",
        lambda: assembled(b"\1" + leb(49_000) + b"\x7b\x42\0\x0b"),
        *slow,
        load_s=_LOAD_S,
    )
    yield wasm_case("100,000 functions", lambda: _many_functions(100_000), *slow, load_s=_LOAD_S)
    yield wasm_case(
        "100,000 nested blocks",
        lambda: assembled(b"\0" + b"\x02\x40" * 100_000 + b"\x0b" * 100_000 + b"\x42\0\x0b"),
        *slow,
        load_s=_LOAD_S,
    )
    yield wasm_case(
        "a br_table of 1 million targets",
        lambda: assembled(b"\0\x02\x40\x20\0\x0e" + leb(1_000_000) + bytes(1_000_001) + b"\x0b\x42\0\x0b"),
        *slow,
        load_s=_LOAD_S,
    )
    yield wasm_case(
        "3,000 br_tables of 1,000 targets",
        lambda: assembled(
            b"\0" + (b"\x02\x40\x20\0\x0e" + leb(1_000) + bytes(1_001) + b"\x0b") * 3_000 + b"\x42\0\x0b"
        ),
        *slow,
        load_s=_LOAD_S,
    )
    yield wasm_case(
        "an expression of 1 million values", lambda: _wide_expression(1_000_000), *slow, load_s=_LOAD_S
    )
    yield wasm_case("1 million loads in one function", lambda: _loads(1_000_000), *slow, load_s=_LOAD_S)
    yield wasm_case("2,000 loops over 2,000 locals", lambda: _phi_bomb(2_000, 2_000), *slow, load_s=_LOAD_S)
    yield wasm_case("a data count that lies", lambda: _data(b"\1", 16, count=1 << 30), INVALID_KERNEL)


def _data(mode: bytes, size: int, *, count: int = 1) -> bytes:
    data = b"\1" + mode + leb(size) + bytes(size)
    echo = assembled(ECHO_BODY, before_code=((12, leb(count)),))
    return echo + b"\x0b" + leb(len(data)) + data


def _many_functions(count: int) -> bytes:
    bodies = leb(len(ALLOC_BODY)) + ALLOC_BODY + leb(len(ECHO_BODY)) + ECHO_BODY + b"\2\0\x0b" * count
    return module(
        TYPES,
        (3, leb(count + 2) + b"\0\1" + b"\2" * count),
        MEMORY,
        EXPORTS,
        (10, leb(count + 2) + bodies),
    )


def _wide_expression(count: int) -> bytes:
    return assembled(b"\0" + b"\x20\0" * (count + 1) + b"\x6a" * count + b"\xad\x0b")


def _loads(count: int) -> bytes:
    return assembled(b"\0\x20\0" + b"\x28\2\0" * count + b"\xad\x0b")


def _phi_bomb(loops: int, local_count: int) -> bytes:
    """Every local changes in every loop, which a compiler in SSA form pays for with their product."""
    changes = b"".join(
        b"\x20" + leb(2 + n) + b"\x20\0\x7c".replace(b"\x20\0", b"\x42\1") + b"\x21" + leb(2 + n)
        for n in range(local_count)
    )
    loop = b"\x03\x40" + changes + b"\x20\0\x0d\0\x0b"
    room = (15 << 20) // len(loop)
    return assembled(b"\1" + leb(local_count) + b"\x7e" + loop * min(loops, room) + b"\x42\0\x0b")
