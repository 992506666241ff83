"""The host calls of the sandbox: what they answer, and that wild arguments never escape."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wasmtime import wat2wasm

from tradepost.errors import KernelOutOfFuel, KernelTrap
from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS, WASI_MODULE
from tradepost_worker.runner.deterministic_wasi import CALL_FUEL, CLOCK_NS, STDERR_BYTES_MAX
from tradepost_worker.runner.kernel_sandbox import Kernel, KernelRun, Sandbox

SUCCESS, EBADF, EFAULT, EINVAL, ESPIPE = 0, 8, 21, 28, 70
STDIN, STDOUT, STDERR = range(3)
EDGES = st.sampled_from([0, 1, 2, 3, 64, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(
    0, 0xFFFFFFFF
)


def prober(name: str) -> bytes:
    """A reactor that calls one host function with arguments from its input.

    Input: eight i64 arguments, then what lies at address 1024. Output: the errno, then 1024 bytes from there.
    """
    signature = ALLOWED_IMPORTS[name]
    loads = [f"(i64.load (i32.const {2048 + 8 * index}))" for index in range(len(signature.parameters))]
    arguments = " ".join(
        load if kind == "i64" else f"(i32.wrap_i64 {load})"
        for load, kind in zip(loads, signature.parameters, strict=True)
    )
    call = f"(call $f {arguments})"
    return bytes(
        wat2wasm(f"""(module
        (import "{WASI_MODULE}" "{name}" (func $f (param {" ".join(signature.parameters)})
            (result {" ".join(signature.results)})))
        (memory (export "memory") 1)
        (func (export "kernel_alloc") (param i32) (result i32) (i32.const 2048))
        (func (export "kernel_run") (param i32 i32) (result i64)
            (memory.copy (i32.const 1024) (i32.const 2112) (i32.const 512))
            (i32.store (i32.const 1020) {call if signature.results else call + "(i32.const 0)"})
            (i64.const {1020 << 32 | 1028})))""")
    )


class Prober:
    """Calls host functions, each in a fresh run."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._kernels: dict[str, Kernel] = {
            name: sandbox.load(prober(name)) for name in ALLOWED_IMPORTS if name != "proc_exit"
        }

    def run(self, name: str, *arguments: int, memory: bytes = b"") -> KernelRun:
        document = struct.pack("<8Q", *arguments, *[0] * (8 - len(arguments))) + memory
        return self._kernels[name].run(
            document, fuel=10**7, memory_bytes_max=1 << 20, output_bytes_max=1 << 20, wall_s_max=30.0
        )

    def __call__(self, name: str, *arguments: int, memory: bytes = b"") -> tuple[int, bytes]:
        """The errno, and the guest's memory from address 1024 on."""
        output = self.run(name, *arguments, memory=memory).output
        return int.from_bytes(output[:4], "little"), output[4:]


@pytest.fixture(scope="module")
def call(sandbox: Sandbox) -> Prober:
    return Prober(sandbox)


def test_there_are_no_arguments_and_no_environment(call: Prober) -> None:
    for name in ("args_sizes_get", "environ_sizes_get"):
        errno, memory = call(name, 1024, 1032, memory=b"\xff" * 16)
        assert (errno, memory[:16]) == (SUCCESS, b"\0\0\0\0\xff\xff\xff\xff" * 2)
    assert call("args_get", 1024, 1032)[0] == call("environ_get", 1024, 1032)[0] == SUCCESS


def test_the_clock_stands_still_and_is_not_zero(call: Prober) -> None:
    for clock in range(4):
        errno, memory = call("clock_time_get", clock, 1, 1024)
        assert (errno, memory[:8]) == (SUCCESS, struct.pack("<Q", CLOCK_NS))
        errno, memory = call("clock_res_get", clock, 1024)
        assert (errno, memory[:8]) == (SUCCESS, struct.pack("<Q", 1))
    assert call("clock_time_get", 4, 1, 1024)[0] == EINVAL


def test_randomness_is_a_function_of_the_document(call: Prober) -> None:
    arguments = struct.pack("<8Q", 1024, 100, *[0] * 6)
    errno, memory = call("random_get", 1024, 100)
    expected = hashlib.shake_256(hashlib.sha256(arguments).digest() + bytes(8)).digest(100)
    assert (errno, memory[:100]) == (SUCCESS, expected)
    assert call("random_get", 1024, 100, memory=b"x")[1][:100] != expected


def test_streams_are_pipes_and_nothing_else_is_open(call: Prober) -> None:
    for fd in (STDIN, STDOUT, STDERR):
        errno, memory = call("fd_fdstat_get", fd, 1024)
        assert (errno, memory[0]) == (SUCCESS, 0)
        assert call("fd_seek", fd, 0, 0, 1024)[0] == ESPIPE
        assert call("fd_close", fd)[0] == call("fd_fdstat_set_flags", fd, 4)[0] == SUCCESS
        assert call("fd_prestat_get", fd, 1024)[0] == EBADF
    for fd in (3, 0xFFFFFFFF):
        assert call("fd_fdstat_get", fd, 1024)[0] == call("fd_seek", fd, 0, 0, 1024)[0] == EBADF
        assert call("fd_close", fd)[0] == call("fd_fdstat_set_flags", fd, 0)[0] == EBADF
        assert call("fd_prestat_get", fd, 1024)[0] == call("fd_prestat_dir_name", fd, 1024, 9)[0] == EBADF
        assert call("fd_read", fd, 1024, 1, 1032)[0] == call("fd_write", fd, 1024, 1, 1032)[0] == EBADF


def test_a_reactor_has_an_empty_stdin_and_nobody_reads_its_stdout(call: Prober) -> None:
    vector = struct.pack("<II", 1100, 5)
    errno, memory = call("fd_read", STDIN, 1024, 1, 1032, memory=vector + b"\xff" * 4)
    assert (errno, memory[8:12]) == (SUCCESS, bytes(4))
    errno, memory = call("fd_write", STDOUT, 1024, 1, 1032, memory=vector)
    assert (errno, memory[8:12]) == (SUCCESS, struct.pack("<I", 5))


def test_stderr_is_kept_up_to_its_cap(call: Prober) -> None:
    once = struct.pack("<II", 1100, 5).ljust(76) + b"hello"
    assert call.run("fd_write", STDERR, 1024, 1, 1032, memory=once).stderr == "hello"
    often = struct.pack("<II", 0, 65535) * 2
    assert len(call.run("fd_write", STDERR, 1024, 2, 1100, memory=often).stderr) == STDERR_BYTES_MAX


def test_bad_vectors(call: Prober) -> None:
    for name, fd in (("fd_read", STDIN), ("fd_write", STDERR)):
        assert call(name, fd, 1024, 1025, 1032)[0] == EINVAL
        assert call(name, fd, 65529, 1, 1032)[0] == EFAULT, "the vectors"
        assert call(name, fd, 1024, 1, 1032, memory=struct.pack("<II", 65532, 5))[0] == EFAULT, "the buffer"
        assert call(name, fd, 1024, 0, 65533)[0] == EFAULT, "the result"
    huge = struct.pack("<II", 0, 0xFFFFFFFF) * 2
    assert call("fd_write", STDERR, 1024, 2, 1100, memory=huge)[0] == EINVAL


def test_everything_that_is_polled_is_ready(call: Prober) -> None:
    subscriptions = struct.pack("<QB39x", 77, 0) + struct.pack("<QB39x", 78, 1)
    errno, memory = call("poll_oneoff", 1024, 1200, 2, 1300, memory=subscriptions)
    assert errno == SUCCESS
    assert memory[176:240] == struct.pack("<QHB21x", 77, 0, 0) + struct.pack("<QHB21x", 78, 0, 1)
    assert memory[276:280] == struct.pack("<I", 2)
    assert call("poll_oneoff", 1024, 1200, 0, 1300)[0] == EINVAL
    assert call("poll_oneoff", 1024, 1200, 1025, 1300)[0] == EINVAL


def test_host_calls_cost_fuel(call: Prober) -> None:
    base = call.run("sched_yield").fuel_used
    assert CALL_FUEL < base < CALL_FUEL + 1000
    assert call.run("random_get", 1024, 1000).fuel_used == pytest.approx(base + 8000, abs=50)
    vector = struct.pack("<II", 0, 60000)
    assert call.run("fd_write", STDERR, 1024, 1, 1032, memory=vector).fuel_used == pytest.approx(
        base + 60000, abs=50
    )


@given(
    name=st.sampled_from([name for name in ALLOWED_IMPORTS if name != "proc_exit"]),
    arguments=st.tuples(EDGES, EDGES, EDGES, EDGES),
    vectors=st.lists(st.tuples(EDGES, EDGES), max_size=8),
)
@example(name="random_get", arguments=(0xFFFFFFFF, 0xFFFFFFFF, 0, 0), vectors=[])
@example(name="fd_write", arguments=(1, 1024, 2, 0), vectors=[(0, 0x7FFFFFFF), (0, 1)])
def test_wild_arguments_give_an_errno_or_a_typed_error_every_time_the_same(
    call: Prober, name: str, arguments: tuple[int, ...], vectors: list[tuple[int, int]]
) -> None:
    memory = b"".join(struct.pack("<II", *vector) for vector in vectors)

    def outcome() -> object:
        try:
            return call.run(name, *arguments, memory=memory)
        except (KernelOutOfFuel, KernelTrap) as error:
            return error.to_problem()

    assert outcome() == outcome()
