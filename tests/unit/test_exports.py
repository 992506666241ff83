"""Packages: their public names exist, and importing one does not drag in what it does not need."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = [
    "tradepost",
    "tradepost.content",
    "tradepost.errors",
    "tradepost.testing",
    "tradepost_broker",
    "tradepost_kernels",
    "tradepost_reputation",
    "tradepost_signing",
    "tradepost_worker",
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists_and_is_told(package: str) -> None:
    module = import_module(package)
    assert (module.__doc__ or "").strip()
    for name in getattr(module, "__all__", []):
        assert getattr(module, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = import_module("tradepost").nothing


@pytest.mark.parametrize("heavy", ["aiohttp", "onnxruntime", "wasmtime", "sqlalchemy", "sigstore"])
def test_importing_the_contract_is_light(heavy: str) -> None:
    code = f"import sys, tradepost, tradepost.manifest, tradepost.receipts; print({heavy!r} in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
