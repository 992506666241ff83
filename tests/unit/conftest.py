"""Fixtures for the tests of kernels: one sandbox, and the built-in kernels as functions on documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

import tradepost_kernels
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost_worker.runner.kernel_sandbox import Kernel, KernelRun, Sandbox

RunBytes = Callable[[str, bytes], KernelRun]
RunBuiltin = Callable[..., TensorDocument]


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox()


@pytest.fixture(scope="session")
def run_bytes(sandbox: Sandbox) -> RunBytes:
    """Runs a built-in kernel by name on bytes that need not be a document, under generous limits."""

    @cache
    def load(name: str) -> Kernel:
        return sandbox.load(tradepost_kernels.load(name))

    def run(name: str, document: bytes) -> KernelRun:
        return load(name).run(
            document, fuel=10**9, memory_bytes_max=64 << 20, output_bytes_max=64 << 20, wall_s_max=30.0
        )

    return run


@pytest.fixture(scope="session")
def run_builtin(run_bytes: RunBytes) -> RunBuiltin:
    """Runs a built-in kernel by name on tensors, with the metadata given as keywords."""

    def run(name: str, tensors: dict[str, Tensor | list[object]], /, **metadata: str) -> TensorDocument:
        arrays = {key: np.asarray(tensor) for key, tensor in tensors.items()}
        output = run_bytes(name, encode(TensorDocument(arrays, metadata))).output
        document = decode(output)
        assert encode(document) == output, "kernels write the canonical form"
        return document

    return run
