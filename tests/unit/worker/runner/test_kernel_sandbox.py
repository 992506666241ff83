"""The sandbox: pure runs, deterministic fuel, and a typed error for everything a kernel can do wrong."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import (
    InvalidKernel,
    KernelError,
    KernelMemoryExceeded,
    KernelOutOfFuel,
    KernelTrap,
    LeaseTimeout,
    TradepostError,
)
from tradepost.pipeline.kernel_abi import KernelForm
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost_worker.runner.kernel_sandbox import MESSAGE_BYTES_MAX, KernelRun, Sandbox

DOCUMENT = encode(TensorDocument({"x": np.arange(5, dtype="f4")}))

#: A reactor whose parts can be replaced one at a time; as it stands it returns its input.
ALLOC = '(func (export "kernel_alloc") (param i32) (result i32) (i32.const 1024))'
IDENTITY = (
    "(i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))"
)
EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
RANDOM = '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))'


def region(pointer: int, length: int, *, is_error: bool = False) -> str:
    value = pointer << 32 | length
    return f"(i64.const {value - (1 << 63) if is_error else value})"


@dataclass(frozen=True)
class Limits:
    fuel: int = 1_000_000
    memory_bytes_max: int = 4 << 20
    output_bytes_max: int = 1 << 20
    wall_s_max: float = 30.0


def reactor(body: str = IDENTITY, *, parts: str = "", alloc: str = ALLOC, pages: int = 1) -> bytes:
    return bytes(
        wat2wasm(
            f"""(module {parts} (memory (export "memory") {pages}) {alloc}
            (func (export "kernel_run") (param i32 i32) (result i64) {body}))"""
        )
    )


def run(sandbox: Sandbox, wasm: bytes, document: bytes = DOCUMENT, limits: Limits | None = None) -> KernelRun:
    limits = limits or Limits()
    return sandbox.load(wasm).run(document, **vars(limits))


# What a run is


def test_a_run_gives_the_output_and_its_fuel(sandbox: Sandbox) -> None:
    result = run(sandbox, reactor())
    assert result.output == DOCUMENT
    assert 0 < result.fuel_used < 100
    assert result.stderr == ""


def test_the_same_run_gives_the_same_result_and_state_never_survives(sandbox: Sandbox) -> None:
    body = """(global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (i32.store8 (i32.const 0) (global.get $runs))"""
    counts = reactor(body + region(0, 1), parts="(global $runs (mut i32) (i32.const 0))")
    kernel = sandbox.load(counts)
    first, second = (kernel.run(DOCUMENT, **vars(Limits())) for _ in range(2))
    assert first == second
    assert first.output == b"\x01"


def test_initialize_runs_first_and_everything_is_paid_for(sandbox: Sandbox) -> None:
    loop = """(local i32) (loop
    (br_if 0 (i32.lt_u (local.tee {0} (i32.add (local.get {0}) (i32.const 1))) (i32.const 1000))))"""
    initialize = f'(func (export "_initialize") {loop.format(0)} (i32.store8 (i32.const 9) (i32.const 42)))'
    start = f"(func $start {loop.format(0)}) (start $start)"
    alloc = f'(func (export "kernel_alloc") (param i32) (result i32) {loop.format(1)} (i32.const 1024))'
    plain = run(sandbox, reactor(region(9, 1)))
    initialized = run(sandbox, reactor(region(9, 1), parts=initialize))
    assert plain.output == b"\0"
    assert initialized.output == b"\x2a"
    assert initialized.fuel_used > plain.fuel_used + 1000
    assert run(sandbox, reactor(region(9, 1), parts=start)).fuel_used > plain.fuel_used + 1000
    assert run(sandbox, reactor(region(9, 1), alloc=alloc)).fuel_used > plain.fuel_used + 1000


@pytest.mark.process
def test_fuel_is_the_same_in_another_process(sandbox: Sandbox) -> None:
    document = encode(TensorDocument({"scores": np.linspace(-3, 3, 50, dtype="f4")}, {"k": "5"}))
    program = f"""
import tradepost_kernels
from tradepost_worker.runner.kernel_sandbox import Sandbox
kernel = Sandbox().load(tradepost_kernels.load("topk"))
print(kernel.run({document!r}, fuel=10**7, memory_bytes_max=1 << 22, output_bytes_max=9999, wall_s_max=30.0))
"""
    here = run(sandbox, tradepost_kernels.load("topk"), document, Limits(fuel=10**7, output_bytes_max=9999))
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == repr(here)


def test_nans_are_canonical(sandbox: Sandbox) -> None:
    body = "(f32.store (i32.const 0) (f32.mul (f32.const -nan:0x200001) (f32.const 1)))" + region(0, 4)
    assert run(sandbox, reactor(body)).output == b"\x00\x00\xc0\x7f"


def test_an_empty_document_and_an_empty_output(sandbox: Sandbox) -> None:
    assert run(sandbox, reactor(), b"").output == b""


def test_an_empty_memory(sandbox: Sandbox) -> None:
    for document in (DOCUMENT, b""):
        with pytest.raises(KernelTrap, match="outside its memory"):
            run(sandbox, reactor(pages=0), document)
    nothing = "(i32.const 0)"
    body = f"(drop (call $write (i32.const 2) {nothing} {nothing} {nothing}))"
    command = f'(module {WRITE} (memory (export "memory") 0) (func (export "_start") {body}))'
    assert run(sandbox, bytes(wat2wasm(command))).output == b""


# Fuel and time


def test_exactly_enough_fuel_is_enough(sandbox: Sandbox) -> None:
    fuel = run(sandbox, reactor()).fuel_used
    assert run(sandbox, reactor(), limits=Limits(fuel=fuel)).fuel_used == fuel
    for too_little in range(fuel):
        with pytest.raises(KernelOutOfFuel) as caught:
            run(sandbox, reactor(), limits=Limits(fuel=too_little))
        assert caught.value.facts == {"fuel": too_little}


def test_an_endless_loop_runs_out_of_fuel(sandbox: Sandbox) -> None:
    with pytest.raises(KernelOutOfFuel, match="1,000,000"):
        run(sandbox, reactor("(loop (br 0)) unreachable"))


def test_host_work_is_paid_for_before_it_is_done(sandbox: Sandbox) -> None:
    body = "(drop (call $random (i32.const 0) (i32.const 4000000))) unreachable"
    with pytest.raises(KernelOutOfFuel, match="1,000,000"):
        run(sandbox, reactor(body, parts=RANDOM, pages=64), limits=Limits(memory_bytes_max=64 << 16))


def test_the_clock_on_the_wall_is_the_backstop(sandbox: Sandbox) -> None:
    endless = reactor("(loop (br 0)) unreachable")
    with pytest.raises(LeaseTimeout, match=r"0\.05 s"):
        run(sandbox, endless, limits=Limits(fuel=1 << 62, wall_s_max=0.05))
    assert run(sandbox, reactor()).output == DOCUMENT, "the interrupt was for that run only"


# Memory


def test_memory_that_a_kernel_starts_with_counts(sandbox: Sandbox) -> None:
    run(sandbox, reactor(pages=64))
    with pytest.raises(KernelMemoryExceeded, match="4,259,840") as caught:
        run(sandbox, reactor(pages=65))
    assert caught.value.facts == {"memory_bytes_max": 4 << 20}


def test_growing_beyond_the_limit_is_refused_and_reported(sandbox: Sandbox) -> None:
    grow = '(func (export "kernel_alloc") (param i32) (result i32) (memory.grow (i32.const {})))'
    # The old size in pages serves as a pointer here, and -1 as one outside memory.
    assert run(sandbox, reactor(alloc=grow.format(63))).output == DOCUMENT
    with pytest.raises(KernelTrap, match="outside its memory"):
        run(sandbox, reactor(alloc=grow.format(64)))
    with pytest.raises(KernelMemoryExceeded, match="input"):
        run(sandbox, reactor(alloc=ALLOC.replace("1024", "0")))


def test_a_kernel_may_say_that_memory_ran_out(sandbox: Sandbox) -> None:
    data = '(data (i32.const 64) "out of memory")'
    with pytest.raises(KernelMemoryExceeded):
        run(sandbox, reactor(region(64, 13, is_error=True), parts=data))


# Errors of the kernel


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 65533)))" + IDENTITY, "memory-out-of-bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))" + IDENTITY, "integer-division-by-zero"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))" + IDENTITY, "bad-conversion-to-integer"),
        (region(65535, 2), "bad-pointer"),
        (region(0x7FFFFFFF, 0xFFFFFFFF), "output-too-large"),
        (region(65535, 2, is_error=True), "bad-pointer"),
        (region(0, 65536), "output-too-large"),
    ],
)
def test_traps_say_why(sandbox: Sandbox, body: str, reason: str) -> None:
    with pytest.raises(KernelTrap) as caught:
        run(sandbox, reactor(body), limits=Limits(output_bytes_max=65535))
    assert caught.value.facts["reason"] == reason


def test_a_stack_overflow_is_marked_because_it_depends_on_the_device(sandbox: Sandbox) -> None:
    endless = "(func $f (param i32) (result i32) (i32.add (i32.const 1) (call $f (local.get 0))))"
    with pytest.raises(KernelTrap) as caught:
        run(sandbox, reactor("(drop (call $f (i32.const 0)))" + IDENTITY, parts=endless))
    assert caught.value.facts == {"reason": "stack-overflow"}


def test_a_trap_carries_what_the_kernel_wrote_to_stderr(sandbox: Sandbox) -> None:
    data = '(data (i32.const 0) "\\10\\00\\00\\00\\05\\00\\00\\00") (data (i32.const 16) "panic")'
    body = "(drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable"
    with pytest.raises(KernelTrap, match="unreachable: panic"):
        run(sandbox, reactor(body, parts=WRITE + data))


def test_traps_while_instantiating_are_the_kernel_s(sandbox: Sandbox) -> None:
    with pytest.raises(KernelTrap, match="unreachable"):
        run(sandbox, reactor(parts="(func $start unreachable) (start $start)"))
    with pytest.raises(KernelTrap, match="memory-out-of-bounds"):
        run(sandbox, reactor(parts='(data (i32.const 65536) "x")'))


def test_a_reactor_may_not_exit(sandbox: Sandbox) -> None:
    with pytest.raises(KernelTrap, match="proc_exit"):
        run(sandbox, reactor("(call $exit (i32.const 0)) unreachable", parts=EXIT))
    with pytest.raises(KernelTrap, match="proc_exit"):
        run(sandbox, reactor(parts=f"{EXIT} (func $start (call $exit (i32.const 0))) (start $start)"))


def test_the_kernel_s_own_message(sandbox: Sandbox) -> None:
    data = '(data (i32.const 64) "no \\1b[31mimage \\ff")'
    with pytest.raises(KernelError) as caught:
        run(sandbox, reactor(region(64, 15, is_error=True), parts=data))
    assert caught.value.to_problem().detail == r"no \x1b[31mimage �", "no broken UTF-8, no control characters"
    with pytest.raises(KernelError, match="no message"):
        run(sandbox, reactor(region(0, 0, is_error=True)))
    with pytest.raises(KernelError) as caught:
        run(
            sandbox,
            reactor(
                "(memory.fill (i32.const 0) (i32.const 97) (i32.const 5000))" + region(0, 5000, is_error=True)
            ),
        )
    assert caught.value.detail == "a" * MESSAGE_BYTES_MAX


# Loading


@pytest.mark.parametrize(
    "body",
    [
        "(drop (i32x4.relaxed_trunc_f32x4_s (v128.const i32x4 0 0 0 0)))" + IDENTITY,
        "(drop (i32.atomic.load (i32.const 0)))" + IDENTITY,
        "(return_call $f)",
        "(drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0))) drop" + IDENTITY,
        "(drop (ref.i31 (i32.const 0)))" + IDENTITY,
        "(i32.const 0)",
    ],
)
def test_what_the_profile_lacks_does_not_compile(sandbox: Sandbox, body: str) -> None:
    with pytest.raises(InvalidKernel, match="cannot be compiled"):
        sandbox.load(reactor(body, parts="(func $f (result i64) (i64.const 0))"))


def test_simd_and_bulk_memory_are_there(sandbox: Sandbox) -> None:
    body = """(memory.copy (i32.const 0) (i32.const 1) (i32.const 8))
    (drop (i32x4.add (v128.const i32x4 0 0 0 0) (v128.const i32x4 0 0 0 0)))"""
    assert run(sandbox, reactor(body + IDENTITY)).output == DOCUMENT


def test_the_abi_is_checked_before_compiling(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidKernel, match=r"env\.f"):
        sandbox.load(reactor(parts='(import "env" "f" (func))'))
    with pytest.raises(InvalidKernel, match="0asm"):
        sandbox.load(b"(module)")


def test_built_in_kernels_have_the_form_that_the_lock_says(sandbox: Sandbox) -> None:
    forms = {name: sandbox.load(tradepost_kernels.load(name)).form for name in tradepost_kernels.names()}
    assert forms == {name: tradepost_kernels.info(name).form for name in forms}
    assert KernelForm.COMMAND in forms.values()


# Threads


def test_runs_from_many_threads_do_not_mix_their_outcomes(sandbox: Sandbox) -> None:
    kernels = {
        "exit": sandbox.load(reactor("(call $exit (i32.const 0)) unreachable", parts=EXIT)),
        "unreachable": sandbox.load(reactor("unreachable")),
        "": Sandbox().load(reactor()),
    }

    def outcome(expected: str) -> str:
        try:
            kernels[expected].run(DOCUMENT, **vars(replace(Limits(), fuel=10**7)))
        except TradepostError as error:
            return str(error.facts["reason"])
        return ""

    wanted = list(kernels) * 100
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, wanted)) == wanted
