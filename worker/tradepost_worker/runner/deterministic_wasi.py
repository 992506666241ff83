"""WASI preview 1 for pure functions: the host calls that `tradepost-kernel/1` allows, made deterministic.

A kernel must give the same output and use the same fuel on every device, so nothing here tells it where or
when it runs: stdin is the input document, stdout is the output document, the clock stands still, randomness
is a stream that the input document seeds, and there are no files, arguments or environment.

Pointers come from the guest: each is checked against the guest's memory, and a wild one gives `EFAULT`. Host
work is paid for in fuel before it is done, so a kernel's fuel bounds the host's time as well.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Final

from wasmtime import Caller, FuncType, Linker, Memory, Store, ValType

from tradepost.errors import KernelTrap
from tradepost.pipeline.kernel_abi import ALLOWED_IMPORTS, MEMORY, WASI_MODULE
from tradepost.pipeline.wasm_module import Signature

#: What a host call costs, in fuel: about the time that Wasm code takes for as much.
CALL_FUEL: Final = 10_000
#: What a byte that a host call moves costs, in fuel. Wasmtime's own bulk memory instructions cost the same.
BYTE_FUEL: Final = 1
RANDOM_BYTE_FUEL: Final = 8

#: 2000-01-01T00:00:00Z. Not zero, which Go's runtime takes for a broken clock.
CLOCK_NS: Final = 946_684_800 * 1_000_000_000
_CLOCK_RESOLUTION_NS: Final = 1
_CLOCKS: Final = 4

STDERR_BYTES_MAX: Final = 64 << 10
_VECTORS_MAX: Final = 1024
_SUBSCRIPTIONS_MAX: Final = 1024

_SUCCESS: Final = 0
_EBADF: Final = 8
_EFAULT: Final = 21
_EINVAL: Final = 28
_ESPIPE: Final = 70

_STDIN, _STDOUT, _STDERR = range(3)
_STREAMS: Final = (_STDIN, _STDOUT, _STDERR)
_RIGHT_READ: Final = 1 << 1
_RIGHT_WRITE: Final = 1 << 6

_VALUE_TYPES: Final = {"i32": ValType.i32, "i64": ValType.i64}
_UNSIGNED: Final = {"i32": (1 << 32) - 1, "i64": (1 << 64) - 1}


class OutOfBounds(Exception):
    """A guest's pointer and length reach beyond its memory."""


class FuelSpent(Exception):
    """A host call costs more fuel than the run has left."""


class KernelExit(Exception):
    """The guest called `proc_exit`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class GuestMemory:
    """A guest's linear memory, in checked copies. Raises `OutOfBounds`.

    The base address is asked for at each access, because `memory.grow` may move it.
    """

    def __init__(self, memory: Memory, store: Store) -> None:
        self._memory = memory
        self._store = store

    def size_bytes(self) -> int:
        return self._memory.data_len(self._store)

    def check(self, pointer: int, length: int) -> None:
        if pointer + length > self.size_bytes():
            raise OutOfBounds(f"{length:,} bytes at {pointer:#x}")

    def read(self, pointer: int, length: int) -> bytes:
        self.check(pointer, length)
        return ctypes.string_at(self._address() + pointer, length) if length else b""

    def write(self, pointer: int, data: bytes) -> None:
        self.check(pointer, len(data))
        if data:
            ctypes.memmove(self._address() + pointer, data, len(data))

    def _address(self) -> int:
        """Where it begins in this process. Nowhere, if it is empty."""
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)


class WasiSession:
    """What one run of a kernel sees of the host, and what it wrote.

    The methods named as in `wasi_snapshot_preview1` are the host calls: unsigned arguments, an errno back.
    """

    def __init__(self, store: Store, document: bytes, *, is_command: bool, stdout_bytes_max: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._store = store
        self._memory: GuestMemory | None = None
        self._stdin = memoryview(document if is_command else b"")
        self._keeps_stdout = is_command
        self._stdout_bytes_max = stdout_bytes_max
        self._seed = hashlib.sha256(document)
        self._random_calls = 0

    def enter(self, caller: Caller) -> None:
        """Begin a host call: pay for it, and find the caller's memory."""
        self.pay(CALL_FUEL)
        if self._memory is None:
            memory = caller[MEMORY]
            assert isinstance(memory, Memory)  # the ABI check saw it exported
            self._memory = GuestMemory(memory, self._store)

    def pay(self, fuel: int) -> None:
        """Take `fuel` from the run. Raises `FuelSpent` unless some is left then."""
        left = self._store.get_fuel()
        if fuel >= left:
            raise FuelSpent
        self._store.set_fuel(left - fuel)

    @property
    def memory(self) -> GuestMemory:
        assert self._memory is not None  # enter() comes first
        return self._memory

    def args_get(self, _argv: int, _buffer: int) -> int:
        return _SUCCESS

    def args_sizes_get(self, count: int, size: int) -> int:
        self.memory.write(count, bytes(4))
        self.memory.write(size, bytes(4))
        return _SUCCESS

    environ_get = args_get
    environ_sizes_get = args_sizes_get

    def clock_res_get(self, clock: int, result: int) -> int:
        return self._write_time(clock, result, _CLOCK_RESOLUTION_NS)

    def clock_time_get(self, clock: int, _precision: int, result: int) -> int:
        return self._write_time(clock, result, CLOCK_NS)

    def _write_time(self, clock: int, result: int, time_ns: int) -> int:
        if clock >= _CLOCKS:
            return _EINVAL
        self.memory.write(result, struct.pack("<Q", time_ns))
        return _SUCCESS

    def fd_close(self, fd: int) -> int:
        return _SUCCESS if fd in _STREAMS else _EBADF

    def fd_fdstat_get(self, fd: int, result: int) -> int:
        if fd not in _STREAMS:
            return _EBADF
        rights = _RIGHT_READ if fd == _STDIN else _RIGHT_WRITE
        # File type 0 (unknown), as for a pipe: C's stdio buffers it fully.
        self.memory.write(result, struct.pack("<BxHxxxxQQ", 0, 0, rights, 0))
        return _SUCCESS

    def fd_fdstat_set_flags(self, fd: int, _flags: int) -> int:
        return _SUCCESS if fd in _STREAMS else _EBADF

    def fd_prestat_dir_name(self, _fd: int, _path: int, _length: int) -> int:
        return _EBADF

    def fd_prestat_get(self, _fd: int, _result: int) -> int:
        return _EBADF

    def fd_read(self, fd: int, vectors: int, count: int, result: int) -> int:
        if fd != _STDIN:
            return _EBADF
        if count > _VECTORS_MAX:
            return _EINVAL
        read_bytes = 0
        for pointer, length in self._vectors(vectors, count):
            self.memory.check(pointer, length)
            chunk = self._stdin[:length]
            self.pay(len(chunk) * BYTE_FUEL)
            self.memory.write(pointer, chunk.tobytes())
            self._stdin = self._stdin[len(chunk) :]
            read_bytes += len(chunk)
        self.memory.write(result, struct.pack("<I", read_bytes))
        return _SUCCESS

    def fd_seek(self, fd: int, _offset: int, _whence: int, _result: int) -> int:
        return _ESPIPE if fd in _STREAMS else _EBADF

    def fd_write(self, fd: int, vectors: int, count: int, result: int) -> int:
        if fd not in (_STDOUT, _STDERR):
            return _EBADF
        if count > _VECTORS_MAX:
            return _EINVAL
        chunks = list(self._vectors(vectors, count))
        written_bytes = sum(length for _, length in chunks)
        if written_bytes >= 1 << 31:
            return _EINVAL
        self.pay(written_bytes * BYTE_FUEL)
        for pointer, length in chunks:
            self.memory.check(pointer, length)
            if fd == _STDERR:
                kept_bytes = min(length, STDERR_BYTES_MAX - len(self.stderr))
                self.stderr += self.memory.read(pointer, kept_bytes)
            elif self._keeps_stdout:
                self._check_room(length)
                self.stdout += self.memory.read(pointer, length)
        self.memory.write(result, struct.pack("<I", written_bytes))
        return _SUCCESS

    def _vectors(self, vectors: int, count: int) -> Iterator[tuple[int, int]]:
        return struct.iter_unpack("<II", self.memory.read(vectors, count * 8))

    def _check_room(self, length: int) -> None:
        if len(self.stdout) + length > self._stdout_bytes_max:
            raise output_too_large(len(self.stdout) + length, self._stdout_bytes_max)

    def poll_oneoff(self, subscriptions: int, events: int, count: int, result: int) -> int:
        """Everything is ready at once: streams never block, and a clock that stands still has no timers."""
        if not 0 < count <= _SUBSCRIPTIONS_MAX:
            return _EINVAL
        ready = b"".join(
            struct.pack("<QHB21x", user_data, _SUCCESS, kind)
            for user_data, kind in struct.iter_unpack("<QB39x", self.memory.read(subscriptions, count * 48))
        )
        self.pay(len(ready) * BYTE_FUEL)
        self.memory.write(events, ready)
        self.memory.write(result, struct.pack("<I", count))
        return _SUCCESS

    def proc_exit(self, status: int) -> int:
        raise KernelExit(status)

    def random_get(self, buffer: int, length: int) -> int:
        """Call n gives the first bytes of SHAKE-256(SHA-256(document) || n), n as 8 bytes little-endian."""
        self.memory.check(buffer, length)
        self.pay(length * RANDOM_BYTE_FUEL)
        stream = hashlib.shake_256(self._seed.digest() + struct.pack("<Q", self._random_calls))
        self._random_calls += 1
        self.memory.write(buffer, stream.digest(length))
        return _SUCCESS

    def sched_yield(self) -> int:
        return _SUCCESS


class WasiHost:
    """The host functions of one linker; they serve `session`, which the sandbox sets for each run."""

    def __init__(self, linker: Linker) -> None:
        self.session: WasiSession | None = None
        for name, signature in ALLOWED_IMPORTS.items():
            parameters = [_VALUE_TYPES[value]() for value in signature.parameters]
            results = [_VALUE_TYPES[value]() for value in signature.results]
            handler = self._handler(getattr(WasiSession, name), signature)
            linker.define_func(WASI_MODULE, name, FuncType(parameters, results), handler, access_caller=True)

    def _handler(self, call: Callable[..., int], signature: Signature) -> Callable[..., int]:
        masks = [_UNSIGNED[value] for value in signature.parameters]

        def handle(caller: Caller, *arguments: int) -> int:
            session = self.session
            assert session is not None
            session.enter(caller)
            try:
                return call(session, *(value & mask for value, mask in zip(arguments, masks, strict=True)))
            except OutOfBounds:
                return _EFAULT

        return handle


def output_too_large(output_bytes: int, output_bytes_max: int) -> KernelTrap:
    """The error for an output document over its limit."""
    return KernelTrap(
        f"its output has at least {output_bytes:,} bytes; the limit is {output_bytes_max:,}",
        hint="Make the kernel's output smaller, or raise the stage's memory_bytes in pipeline.toml.",
        reason="output-too-large",
    )
