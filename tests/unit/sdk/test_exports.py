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
    modules = "sys, tradepost, tradepost.pipeline.manifest, tradepost.receipts"
    code = f"import {modules}; print({heavy!r} in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_content_needs_no_extra_until_kubo_is_named() -> None:
    code = """
import sys
sys.modules.update({"requests": None, "ipfshttpclient": None})
import tradepost.commands.content
from tradepost.content.transfer.kubo import Kubo
from tradepost.errors import MissingExtra
try:
    Kubo()
except MissingExtra as error:
    print(error.hint)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "Install it: pip install 'tradepost[ipfs]'"
