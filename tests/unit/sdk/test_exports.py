"""Packages: their public names exist, and importing one does not drag in what it does not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOP = {
    "tradepost": "sdk",
    "tradepost_broker": "broker",
    "tradepost_kernels": "wasm_kernels",
    "tradepost_reputation": "reputation",
    "tradepost_signing": "signing",
    "tradepost_worker": "worker",
}
#: Folders of code that a database tool runs by their paths.
NOT_IMPORTED = {"tradepost_broker.storage.migrations"}


def _packages() -> dict[str, Path]:
    """Every package, and its `__init__`."""
    return {
        ".".join(path.parent.relative_to(ROOT / folder).parts): path
        for top, folder in TOP.items()
        for path in sorted((ROOT / folder / top).rglob("__init__.py"))
    }


def _public_names(package: str, source: str) -> set[str]:
    """The public names that an `__init__` defines, or imports from the distribution."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in TOP:
            found |= {alias.asname or alias.name for alias in node.names}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(statement.name)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found.add(statement.target.id)
    return {name for name in found if not name.startswith("_")}


PACKAGES = {name: path for name, path in _packages().items() if name not in NOT_IMPORTED}


def test_the_packages_are_found() -> None:
    assert len(PACKAGES) > 30
    assert set(TOP) <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_exports_its_public_names(package: str) -> None:
    module = import_module(package)
    assert (module.__doc__ or "").strip()
    exported = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    assert set(exported) == _public_names(package, PACKAGES[package].read_text(encoding="utf-8"))
    for name in exported:
        assert getattr(module, name) is not None


def test_a_public_name_that_is_not_exported_is_found() -> None:
    source = """
from collections.abc import Mapping
from tradepost.content import Cid, parse_cid as _parse
LIMIT: int = 1
OTHER = 2
_private = 3
def function() -> None: ...
class Kind: ...
"""
    assert _public_names("tradepost", source) == {"Cid", "LIMIT", "OTHER", "function", "Kind"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = import_module("tradepost").nothing


@pytest.mark.process
@pytest.mark.parametrize("heavy", ["aiohttp", "onnxruntime", "wasmtime", "sqlalchemy", "sigstore"])
def test_importing_the_contract_is_light(heavy: str) -> None:
    modules = "sys, tradepost, tradepost.pipeline.manifest, tradepost.receipts"
    code = f"import {modules}; print({heavy!r} in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.process
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
