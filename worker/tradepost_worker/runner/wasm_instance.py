"""An instance of a kernel, called through the C API for speed; and facts that only that API reports.

The binding's own `Func.__call__` looks the function's type up again at every call, and `Instance.exports`
wraps every export: together more than half of the 180 us that an empty kernel took. The ABI check has
established every type, so this one module goes to the C API beneath, through names that the binding keeps to
itself; the dependency is pinned to one major version.
"""

from __future__ import annotations

from ctypes import byref, c_void_p

from wasmtime import InstancePre, Memory, Module, Store, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._func import enter_wasm

from tradepost.pipeline.kernel_abi import FUNCTIONS, MEMORY


class WasmInstance:
    """One instance in `store`, of a module that passed the ABI check.

    Raises `wasmtime.Trap` or what a host function raised, as `call` does, and `WasmtimeError` if the device
    has no room for it.
    """

    def __init__(self, instance_pre: InstancePre, store: Store) -> None:
        self.store = store
        self._instance = instance_pre.instantiate(store)._instance
        memory = self._export(MEMORY)
        assert memory is not None  # the ABI check saw it
        self.memory = Memory._from_raw(memory.of.memory)

    def has(self, name: str) -> bool:
        """Whether there is an export of this name."""
        return self._export(name) is not None

    def call(self, name: str, *arguments: int) -> int:
        """Call the exported function `name` of the ABI with i32 arguments; 0 if it has no result."""
        function = self._export(name)
        assert function is not None  # the ABI check saw it, or has() did
        signature = FUNCTIONS[name]
        parameters = (ffi.wasmtime_val_t * len(arguments))()
        for parameter, argument in zip(parameters, arguments, strict=True):
            parameter.kind = ffi.WASMTIME_I32
            parameter.of.i32 = argument
        results = (ffi.wasmtime_val_t * len(signature.results))()
        with enter_wasm(self.store) as trap:
            error = ffi.wasmtime_func_call(
                self.store._context(),
                byref(function.of.func),
                parameters,
                len(parameters),
                results,
                len(results),
                trap,
            )
            if error:
                raise WasmtimeError._from_ptr(error)
        if not signature.results:
            return 0
        result: int = results[0].of.i64 if signature.results == ("i64",) else results[0].of.i32
        return result

    def _export(self, name: str) -> ffi.wasmtime_extern_t | None:
        item, key = ffi.wasmtime_extern_t(), name.encode()
        found = ffi.wasmtime_instance_export_get(
            self.store._context(), byref(self._instance), key, len(key), byref(item)
        )
        return item if found else None


def image_bytes(module: Module) -> int:
    """The size of a module's compiled code in memory."""
    start, end = c_void_p(), c_void_p()
    ffi.wasmtime_module_image_range(module.ptr(), byref(start), byref(end))
    return (end.value or 0) - (start.value or 0)
