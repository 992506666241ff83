"""What publishing says of kernels that are expensive to compile, measured in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wasmtime import wat2wasm

from tradepost.errors import InvalidKernel
from tradepost_signing.keys import SigningKey
from tradepost_signing.publishing import compile_cost
from tradepost_signing.publishing.compile_cost import CompileCost, compile_warnings, measure_kernels
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_worker.runner.compile_cost import measure_compile_cost

PIPELINE = """
name = "large"
version = "1"
[inputs.x]
dtype = "F32"
shape = ["?"]
[[stage]]
name = "grow"
kernel = "grow.wasm"
inputs = { x = "input.x" }
outputs = ["x"]
[outputs]
x = "grow.x"
"""


def large_kernel(functions: int) -> bytes:
    """A kernel with so many functions that are not called, of about 60 bytes each."""
    add = "(local.set 0 (i32.add (local.get 0) (i32.const 123456789)))"
    bulk = "".join(f"(func (param i32) (result i32) {add * 6} (local.get 0))" for _ in range(functions))
    return bytes(
        wat2wasm(
            f"""(module (memory (export "memory") 1) {bulk}
            (func (export "kernel_alloc") (param i32) (result i32) (i32.const 1024))
            (func (export "kernel_run") (param i32 i32) (result i64) (i64.const 0)))"""
        )
    )


@pytest.fixture
def authored(tmp_path: Path) -> Path:
    (tmp_path / "grow.wasm").write_bytes(large_kernel(5000))
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    return tmp_path / "pipeline.toml"


@pytest.mark.parametrize(
    ("cost", "wall_s", "said"),
    [
        (CompileCost(stage="go", memory_bytes=100 << 20, cpu_s=1.0), 10.0, []),
        (
            CompileCost(stage="go", memory_bytes=1_150_000_000, cpu_s=1.0),
            10.0,
            ["stage go: compiling the kernel takes 1.15 GB of memory; workers that lend less refuse"],
        ),
        (
            CompileCost(stage="go", memory_bytes=1 << 20, cpu_s=30.0),
            30.0,
            ["Set limits.wall_ms to 45000 or more."],
        ),
        (CompileCost(stage="go", memory_bytes=1 << 20, cpu_s=30.0), 45.0, []),
        (CompileCost(stage="go", problem="no compiler"), 45.0, ["is unknown: no compiler"]),
    ],
    ids=["small", "memory", "time", "enough time", "unknown"],
)
def test_warnings(cost: CompileCost, wall_s: float, said: list[str]) -> None:
    warnings = compile_warnings([cost], wall_s=wall_s)
    assert len(warnings) == len(said)
    for warning, part in zip(warnings, said, strict=True):
        assert part in warning


def test_what_is_no_kernel_has_no_cost() -> None:
    _, cpu_s = measure_compile_cost(large_kernel(100))  # of memory, this process may have used more before
    assert cpu_s > 0
    with pytest.raises(InvalidKernel):
        measure_compile_cost(b"\0asm\1\0\0\0")


@pytest.mark.process
def test_a_large_kernel_of_a_pipeline_is_measured_in_a_process_of_its_own(authored: Path) -> None:
    (cost,) = measure_kernels(load_pipeline(authored))
    assert (cost.stage, cost.problem) == ("grow", "")
    assert cost.memory_bytes > 1 << 20


def test_a_small_kernel_is_not_measured(authored: Path) -> None:
    (authored.parent / "grow.wasm").write_bytes(large_kernel(1))
    assert measure_kernels(load_pipeline(authored)) == []


@pytest.mark.process
def test_what_cannot_be_measured_is_said(authored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (cost,) = measure_kernels(load_pipeline(authored))
    assert cost.problem == "the compiler ended with status 1"


@pytest.mark.process
def test_publishing_warns_and_reports_the_costs(authored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tradepost.cli import app

    monkeypatch.setattr(compile_cost, "WARN_MEMORY_BYTES", 1 << 20)
    key = authored.parent / "a.key"
    SigningKey.generate().save(key, passphrase=None)
    arguments = ["publish", str(authored), "--key", str(key), "--dry-run", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Warning: stage grow: compiling the kernel takes" in result.stderr
    assert '"compile_costs"' in result.stdout
