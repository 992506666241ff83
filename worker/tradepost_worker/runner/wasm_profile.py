"""The Wasm profile: an engine that is the same on every machine, with only the features that kernels need.

Cranelift alone, canonical NaNs (their bits are otherwise the processor's choice), and no proposal whose
results may differ between machines (threads, relaxed SIMD) or that only adds surface.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from wasmtime import Config, Engine, Module

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

#: Every option of the engine that this profile sets.
OPTIONS: Final[Mapping[str, object]] = {
    "strategy": "cranelift",
    "cranelift_opt_level": "speed",
    "cranelift_nan_canonicalization": True,
    "consume_fuel": True,
    "epoch_interruption": True,
    "max_wasm_stack": STACK_BYTES_MAX,
    "shared_memory": False,
    "gc_support": False,  # no externref
    # What a memory starts with is copied, which costs fuel. Mapping it would cost none, but a runner that is
    # locked down may not, and pages differ in size: fuel would depend on the device.
    "memory_init_cow": False,
    # A sandboxed runner has no business starting a thread per core for each kernel.
    "parallel_compilation": False,
    **{f"wasm_{feature}": True for feature in _FEATURES_ON},
    **{f"wasm_{feature}": False for feature in _FEATURES_OFF},
}

_EMPTY_MODULE: Final = b"\0asm\1\0\0\0"


def new_engine(options: Mapping[str, object] = OPTIONS) -> Engine:
    """An engine with this profile."""
    config = Config()
    for name, value in options.items():
        setattr(config, name, value)
    return Engine(config)


def engine_hash(engine: Engine, options: Mapping[str, object] = OPTIONS) -> str:
    """What compiled code depends on besides its module, as 64 hexadecimal digits.

    An empty module's compiled form states all that the engine compares before it takes compiled code: its
    version, target, the processor's features, the compiler's flags, its own settings. The options beside it
    change the hash even where the engine would not mind.
    """
    stated = repr((ENGINE_VERSION, sorted(options.items()))).encode()
    return hashlib.sha256(stated + Module(engine, _EMPTY_MODULE).serialize()).hexdigest()
