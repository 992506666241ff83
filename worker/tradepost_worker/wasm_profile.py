"""The Wasm profile: an engine that behaves alike on every machine, with as little in it as kernels need.

Cranelift alone, canonical NaNs (their bits are otherwise the processor's choice), and no proposal whose
results may differ between machines (threads, relaxed SIMD) or that only adds surface.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from wasmtime import Config, Engine

#: What a receipt names as the engine that ran a kernel. Fuel is comparable within one such version only.
ENGINE_VERSION: Final = f"wasmtime/{version('wasmtime')}"

#: The native stack of Wasm frames. Well under any thread's stack, which wasmtime cannot check by itself.
STACK_BYTES_MAX: Final = 512 << 10

_FEATURES_ON: Final = ("bulk_memory", "multi_value", "reference_types", "simd")
_FEATURES_OFF: Final = (
    "component_model",
    "custom_page_sizes",
    "exceptions",
    "function_references",
    "gc",
    "memory64",
    "multi_memory",
    "relaxed_simd",
    "stack_switching",
    "tail_call",
    "threads",
    "wide_arithmetic",
)


def new_engine() -> Engine:
    """An engine with this profile."""
    config = Config()
    config.strategy = "cranelift"
    config.cranelift_opt_level = "speed"
    config.cranelift_nan_canonicalization = True
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = STACK_BYTES_MAX
    config.shared_memory = False
    config.gc_support = False  # no externref
    # What a memory starts with is copied, which costs fuel. Mapping it would cost none, but a runner that is
    # locked down may not, and pages differ in size: fuel would depend on the device.
    config.memory_init_cow = False
    # A sandboxed runner has no business starting a thread per core for each kernel.
    config.parallel_compilation = False
    for feature in _FEATURES_ON:
        setattr(config, f"wasm_{feature}", True)
    for feature in _FEATURES_OFF:
        setattr(config, f"wasm_{feature}", False)
    return Engine(config)
