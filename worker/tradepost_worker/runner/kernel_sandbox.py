"""The Wasm sandbox: runs an untrusted kernel as a pure function, within fuel, memory, output and time.

Every run gets a fresh store and instance, so nothing survives from one job to the next, and the engine's
profile (`wasm_profile`) gives one behaviour on every machine. Two outcomes still depend on the device, and
say so: a stack overflow (`reason="stack-overflow"`: frames differ between machines) and `LeaseTimeout`.

Fuel is paid from instantiation on: start function, `_initialize`, `kernel_alloc`, the kernel, host calls.

The wasmtime binding keeps a host function's exception in one place per process, so runs take turns; workers
get their parallelism from processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from wasmtime import InstancePre, Linker, Module, Store, Trap, TrapCode, WasmtimeError

from tradepost.errors import (
    InvalidKernel,
    KernelError,
    KernelMemoryExceeded,
    KernelOutOfFuel,
    KernelTrap,
    LeaseTimeout,
    PipelineTooCostly,
    SandboxUnavailable,
    TradepostError,
)
from tradepost.pipeline import kernel_abi
from tradepost.pipeline.kernel_abi import KernelForm
from tradepost.pipeline.wasm_module import read_interface
from tradepost_worker.runner.deterministic_wasi import (
    FuelSpent,
    GuestMemory,
    KernelExit,
    OutOfBounds,
    WasiHost,
    WasiSession,
    output_too_large,
)
from tradepost_worker.runner.run_deadline import RunDeadline
from tradepost_worker.runner.wasm_instance import WasmInstance, image_bytes
from tradepost_worker.runner.wasm_profile import new_engine

MESSAGE_BYTES_MAX: Final = 1 << 10
_U32: Final = (1 << 32) - 1

_turn = threading.Lock()


@dataclass(frozen=True)
class KernelRun:
    """A finished run: the output document, the fuel it took, and what the kernel wrote to stderr."""

    output: bytes
    fuel_used: int
    stderr: str


@dataclass(frozen=True)
class _Limits:
    fuel: int
    memory_bytes_max: int
    output_bytes_max: int
    wall_s_max: float


class Sandbox:
    """One engine with the profile of `tradepost-kernel/1`. Make it after forking, not before."""

    def __init__(self) -> None:
        self.engine = new_engine()
        self._linker = Linker(self.engine)
        self.host = WasiHost(self._linker)
        self.deadline = RunDeadline()

    def load(self, wasm: bytes, compiled: bytes | None = None) -> Kernel:
        """Check a kernel, and compile it unless `compiled` fits this engine.

        Raises `InvalidKernel`, or `PipelineTooCostly` for a valid module that this device cannot compile.

        Compiling a stranger's module costs time and memory in proportion to its size: do it in a process
        that may be lost. `compiled` is native code that will run as it is: it must come from a kernel's
        `serialize`, by a way on which nobody could change it.
        """
        interface = read_interface(wasm)
        form = kernel_abi.check_interface(interface)
        module = None if compiled is None else self._restore(compiled)
        was_compiled_here = module is None
        if module is None:
            module = self._compile(wasm)
        try:
            instance_pre = self._linker.instantiate_pre(module)
        except WasmtimeError as error:
            raise InvalidKernel(f"it cannot be linked: {error}") from None
        return Kernel(
            self,
            module,
            instance_pre,
            form,
            memory_bytes_min=interface.memory_bytes,
            was_compiled_here=was_compiled_here,
        )

    def _compile(self, wasm: bytes) -> Module:
        try:
            return Module(self.engine, wasm)
        except WasmtimeError as error:
            self._require_valid(wasm)
            # Code that cannot be mapped, for example, which says nothing of the module.
            raise PipelineTooCostly(
                f"the module is valid but cannot be compiled on this device: {error}"
            ) from None

    def _require_valid(self, wasm: bytes) -> None:
        try:
            Module.validate(self.engine, wasm)
        except WasmtimeError as error:
            raise InvalidKernel(f"it cannot be compiled: {error}") from None

    def _restore(self, compiled: bytes) -> Module | None:
        """The module, or `None` if the engine says that this was compiled for another one."""
        try:
            return Module.deserialize(self.engine, compiled)
        except WasmtimeError:
            return None


class Kernel:
    """A compiled kernel, made by `Sandbox.load`. It has no state: `run` is a pure function."""

    def __init__(
        self,
        sandbox: Sandbox,
        module: Module,
        instance_pre: InstancePre,
        form: KernelForm,
        *,
        memory_bytes_min: int,
        was_compiled_here: bool,
    ) -> None:
        self.form = form
        self.memory_bytes_min = memory_bytes_min
        self.was_compiled_here = was_compiled_here
        self._sandbox = sandbox
        self._module = module
        self._instance_pre = instance_pre

    def serialize(self, *, bytes_max: int) -> bytes | None:
        """Its compiled code, for `Sandbox.load`; `None` if it has more than `bytes_max` bytes."""
        if image_bytes(self._module) > bytes_max:  # before memory is taken for it
            return None
        compiled = bytes(self._module.serialize())
        return compiled if len(compiled) <= bytes_max else None

    def run(
        self,
        document: bytes,
        *,
        fuel: int,
        memory_bytes_max: int,
        output_bytes_max: int,
        wall_s_max: float,
    ) -> KernelRun:
        """The output document for the input `document`, neither of which is decoded here.

        The same kernel, document, fuel and limits give the same output, fuel and stderr, or the same error:
        `KernelOutOfFuel`, `KernelMemoryExceeded`, `KernelTrap` (fact `reason`), or `KernelError` with the
        kernel's own message. Only `LeaseTimeout`, and a trap with reason "stack-overflow", depend on the
        device; `SandboxUnavailable` says that the device has no memory for an instance.
        """
        limits = _Limits(fuel, memory_bytes_max, output_bytes_max, wall_s_max)
        if self.memory_bytes_min > memory_bytes_max:
            raise _memory_exceeded(limits, f"its initial memory is {self.memory_bytes_min:,} bytes")
        with _turn, Store(self._sandbox.engine) as store:
            # One unit more than allowed. The engine looks at loops and calls only, so code without any may
            # overdraw; a run is within its fuel exactly if that unit is left.
            store.set_fuel(fuel + 1)
            store.set_epoch_deadline(1)  # the next epoch, which the deadline below begins if need be
            store.set_limits(
                memory_size=memory_bytes_max,
                table_elements=kernel_abi.TABLE_ELEMENTS_MAX,
                instances=1,
                tables=1,
                memories=1,
            )
            with self._session(store, document, limits) as session, _typed_errors(session, limits):
                with self._sandbox.deadline.limit(wall_s_max, self._sandbox.engine.increment_epoch):
                    output = self._call(store, session, document, limits)
                left = store.get_fuel()
                if not left:
                    raise FuelSpent
                return KernelRun(output, fuel + 1 - left, session.stderr.decode(errors="replace"))

    @contextmanager
    def _session(self, store: Store, document: bytes, limits: _Limits) -> Iterator[WasiSession]:
        host = self._sandbox.host
        host.session = session = WasiSession(
            store,
            document,
            is_command=self.form is KernelForm.COMMAND,
            stdout_bytes_max=limits.output_bytes_max,
        )
        try:
            yield session
        finally:
            host.session = None

    def _call(self, store: Store, session: WasiSession, document: bytes, limits: _Limits) -> bytes:
        try:
            instance = self._instantiate(store)
            if self.form is KernelForm.REACTOR:
                return _call_reactor(instance, document, limits)
            instance.call(kernel_abi.START)
        except KernelExit as exit_:
            if self.form is KernelForm.REACTOR:
                raise KernelTrap("a reactor called proc_exit; it must return", reason="exit") from None
            if exit_.status:
                message = session.stderr or f"exit status {exit_.status}".encode()
                raise _kernel_error(message, limits) from None
        return bytes(session.stdout)

    def _instantiate(self, store: Store) -> WasmInstance:
        try:
            return WasmInstance(self._instance_pre, store)
        except WasmtimeError as error:
            # The module compiled and fits its limits, so it is the device that has no room.
            raise SandboxUnavailable(f"wasmtime cannot make an instance: {error}") from None


def _call_reactor(instance: WasmInstance, document: bytes, limits: _Limits) -> bytes:
    memory = GuestMemory(instance.memory, instance.store)
    try:
        if instance.has(kernel_abi.INITIALIZE):
            instance.call(kernel_abi.INITIALIZE)
        pointer = instance.call(kernel_abi.ALLOC, len(document)) & _U32
        if pointer == 0:
            raise _memory_exceeded(limits, f"it has no room for an input of {len(document):,} bytes")
        memory.write(pointer, document)
        result = instance.call(kernel_abi.RUN, pointer, len(document))
        pointer, length = result >> 32 & _U32 >> 1, result & _U32
        if result < 0:
            memory.check(pointer, length)
            raise _kernel_error(memory.read(pointer, min(length, MESSAGE_BYTES_MAX)), limits)
        if length > limits.output_bytes_max:
            raise output_too_large(length, limits.output_bytes_max)
        return memory.read(pointer, length)
    except OutOfBounds as error:
        raise KernelTrap(f"it returned a region outside its memory: {error}", reason="bad-pointer") from None


@contextmanager
def _typed_errors(session: WasiSession, limits: _Limits) -> Iterator[None]:
    """Turn what the engine raises into errors that say whose fault it is."""
    try:
        yield
    except FuelSpent:
        code: TrapCode | None = TrapCode.OUT_OF_FUEL
    except Trap as trap:
        code = trap.trap_code
    else:
        return
    if code is TrapCode.OUT_OF_FUEL:
        raise KernelOutOfFuel(f"it used all of its {limits.fuel:,} units of fuel", fuel=limits.fuel)
    if code is TrapCode.INTERRUPT:
        raise LeaseTimeout(f"the kernel was still running after {limits.wall_s_max:g} s")
    reason = "unknown" if code is None else code.name.lower().replace("_", "-")
    stderr = session.stderr[:MESSAGE_BYTES_MAX].decode(errors="replace").strip()
    raise KernelTrap(f"{reason}: {stderr}" if stderr else reason, reason=reason)


def _kernel_error(message: bytes | bytearray, limits: _Limits) -> TradepostError:
    text = message[:MESSAGE_BYTES_MAX].decode(errors="replace").strip()
    if text == kernel_abi.OUT_OF_MEMORY:
        return _memory_exceeded(limits, "it reported that memory ran out")
    return KernelError(text or "the kernel gave no message")


def _memory_exceeded(limits: _Limits, what: str) -> KernelMemoryExceeded:
    return KernelMemoryExceeded(
        f"{what}; the limit is {limits.memory_bytes_max:,} bytes", memory_bytes_max=limits.memory_bytes_max
    )
