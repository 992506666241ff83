"""The committed kernels are what their sources build to, from any folder, and the index checks the lock."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import tradepost_kernels
from tradepost.errors import ContentMismatch, InvalidKernel
from tradepost_kernels import index

ROOT = Path(__file__).parents[3] / "wasm_kernels"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_builder", ROOT / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.process
def test_every_kernel_is_built_again_bit_for_bit(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: pytest.Cache
) -> None:
    # The toolchain's own C library is kept between runs; the kernels are compiled anew each time.
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(cache.mkdir(f"zig-{builder.ZIGLANG}")))
    moved = tmp_path / "another checkout"
    shutil.copytree(ROOT / "kernel-sources", moved)
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    assert builder.differences(builder.build(compiled, sources=moved), compiled) == []


def test_a_difference_is_named(builder: ModuleType, tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    shutil.copytree(ROOT / "tradepost_kernels" / "compiled", compiled)
    with (compiled / "topk.wasm").open("ab") as file:
        file.write(b"\0")
    assert builder.differences({}, compiled) == ["topk.wasm", "kernels.lock.json"]


def test_the_index_knows_every_kernel() -> None:
    assert set(tradepost_kernels.names()) == {source.stem for source in (ROOT / "kernel-sources").glob("*.c")}
    for name in tradepost_kernels.names():
        described = tradepost_kernels.info(name)
        assert len(tradepost_kernels.load(name)) == described.bytes
        assert described.licence == "Apache-2.0"
        assert f"{name}.c" in described.sources
    with pytest.raises(InvalidKernel, match="'nope'") as caught:
        tradepost_kernels.load("nope")
    assert "topk" in caught.value.hint


def test_the_headers_are_those_that_the_kernels_were_built_with() -> None:
    assert {path.name for path in tradepost_kernels.headers().iterdir()} == {
        name
        for kernel in tradepost_kernels.names()
        for name in tradepost_kernels.info(kernel).sources
        if name.endswith(".h")
    }


def test_bytes_that_are_not_locked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "tradepost_kernels", tmp_path / "package")
    (tmp_path / "package" / "compiled" / "noop.wasm").write_bytes(tradepost_kernels.load("topk"))
    monkeypatch.setattr(index, "files", lambda _: tmp_path / "package")
    with pytest.raises(ContentMismatch, match="noop"):
        tradepost_kernels.load("noop")
