"""`tradepost kernel`: what it prints, and the errors that it leaves to the root command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.errors import (
    InvalidInput,
    InvalidKernel,
    KernelError,
    KernelOutOfFuel,
    KernelTrap,
    TradepostError,
)
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost_worker.commands.run_kernel import app


def ok(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: str) -> TradepostError:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, TradepostError)
    return error


@pytest.fixture
def scores(tmp_path: Path) -> str:
    np.save(tmp_path / "scores.npy", np.array([1, 3, 2], "f4"))
    return f"scores={tmp_path / 'scores.npy'}"


def test_run_prints_the_output_and_the_fuel(scores: str, tmp_path: Path) -> None:
    arguments = ("run", "topk", "--tensor", scores, "--metadata", "k=2", "--metadata", "activation=none")
    result = json.loads(ok(*arguments, "--json"))
    assert result["tensors"] == {"index": [[1, 2]], "score": [[3, 2]]}
    assert result["fuel_used"] > 1000
    assert "index [1, 2]: [[1 2]]" in ok(*arguments)
    ok(*arguments, "--output", str(tmp_path / "out.safetensors"))
    assert decode((tmp_path / "out.safetensors").read_bytes())["score"].tolist() == [[3, 2]]


def test_run_takes_a_document_whose_metadata_options_override(tmp_path: Path) -> None:
    document = TensorDocument({"scores": np.array([1, 3, 2], "f4")}, {"k": "3", "activation": "none"})
    (tmp_path / "in.safetensors").write_bytes(encode(document))
    arguments = ("run", "builtin:topk", "--document", str(tmp_path / "in.safetensors"), "--json")
    assert json.loads(ok(*arguments))["tensors"]["index"] == [[1, 2, 0]]
    assert json.loads(ok(*arguments, "--metadata", "k=1"))["tensors"]["index"] == [[1]]


def test_errors_are_typed(scores: str, tmp_path: Path) -> None:
    assert isinstance(refusal("run", "topk", "--tensor", scores, "--fuel", "10"), KernelOutOfFuel)
    assert isinstance(refusal("run", "topk", "--tensor", scores, "--metadata", "k=4"), KernelError)
    assert isinstance(refusal("run", "topk", "--tensor", scores, "--metadata", "k"), InvalidInput)
    assert isinstance(refusal("run", "topk"), InvalidInput)
    assert isinstance(refusal("run", "nope", "--tensor", scores), InvalidKernel)
    assert isinstance(refusal("run", str(tmp_path / "absent.wasm"), "--tensor", scores), InvalidKernel)


def test_a_result_that_is_no_document_is_the_kernel_s_fault(scores: str, tmp_path: Path) -> None:
    (tmp_path / "empty.wasm").write_bytes(
        wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))')
    )
    error = refusal("run", str(tmp_path / "empty.wasm"), "--tensor", scores)
    assert isinstance(error, KernelTrap)
    assert error.facts == {"reason": "bad-document"}


def test_list_names_every_kernel() -> None:
    lines = ok("list").splitlines()
    assert [line.split()[0] for line in lines] == tradepost_kernels.names()
    assert json.loads(ok("list", "--json"))["topk"]["form"] == "reactor"


def test_inspect_shows_the_interface(tmp_path: Path) -> None:
    facts = json.loads(ok("inspect", "checksum", "--json"))
    assert facts["form"] == "command"
    assert facts["imports"] == ["fd_read", "fd_write", "proc_exit"]
    assert facts["sha256"] == tradepost_kernels.info("checksum").sha256
    assert facts["cid"].startswith("bafk")
    assert "imports: none" in ok("inspect", "noop")
    (tmp_path / "bad.wasm").write_bytes(b"(module)")
    assert isinstance(refusal("inspect", str(tmp_path / "bad.wasm")), InvalidKernel)
