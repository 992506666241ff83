"""What can go wrong with a job: one typed error, equal in SDK, command and HTTP, and the books right after.

Each case is run through all three surfaces against one real market. What a job may cost is stated: nothing,
except for a verified failure (a trap, no fuel, a model that refuses its input), which is work that was done.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import wasmtime
from onnx import TensorProto, helper

from tradepost import Client, Requirements, TensorDocument, TradepostError
from tradepost.errors import EXIT_CODES, Fault
from tradepost.money import to_microcredits
from tradepost.pipeline.tensors import encode
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

PRICE_CAP = "0.05"
CONFIDENCE = 0.9  # two newcomers who agree reach it
ABSENT = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
KERNEL = """
(module
  (memory (export "memory") 4)
  (func (export "kernel_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "kernel_run") (param i32 i32) (result i64) {body}))
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job that fails: what is asked, and the error that must come back on every surface."""

    pipeline: str
    code: str
    fault: Fault
    stage: str | None = None
    charged: bool = False
    inputs: bytes | None = None
    max_price: str = PRICE_CAP
    isolation: tuple[str, ...] = ()


def document(**tensors: Any) -> bytes:
    return encode(TensorDocument(tensors=tensors))


CASES = {
    "unknown pipeline": Case(pipeline=ABSENT, code="unknown-pipeline", fault=Fault.SUBMITTER),
    "inline input too large": Case(
        pipeline="noop",
        inputs=document(x=np.zeros(300_000, np.float32)),
        code="inline-input-too-large",
        fault=Fault.SUBMITTER,
    ),
    "input of another shape": Case(
        pipeline="noop",
        inputs=document(x=np.zeros((2, 2), np.float32)),
        code="invalid-input",
        fault=Fault.SUBMITTER,
    ),
    "price cap too low": Case(
        pipeline="noop", max_price="0.000001", code="price-cap-too-low", fault=Fault.MARKET
    ),
    "no worker with the capability": Case(
        pipeline="noop",
        isolation=("enclave",),
        code="no-eligible-worker",
        fault=Fault.MARKET,
    ),
    "untrusted pipeline": Case(pipeline="untrusted", code="untrusted-pipeline", fault=Fault.PUBLISHER),
    "kernel trap": Case(
        pipeline="trap", code="kernel-trap", fault=Fault.PUBLISHER, stage="broken", charged=True
    ),
    "kernel out of fuel": Case(
        pipeline="loop", code="kernel-out-of-fuel", fault=Fault.PUBLISHER, stage="broken", charged=True
    ),
    "model failure": Case(
        pipeline="gather", code="model-failure", fault=Fault.PUBLISHER, stage="model", charged=True
    ),
}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMarket]:
    plans = [
        WorkerPlan(name=f"w{n}", owner=f"owner{n}", price=f"0.00{n}", stake="1", capacity=2) for n in (1, 2)
    ]
    with LocalMarket(workers=plans, folder=tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module")
def pipelines(market: LocalMarket, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pipelines")
    published = {
        name: market.publish(write_kernel_pipeline(folder / name, body))
        for name, body in {
            "noop": "(i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))"
            " (i64.extend_i32_u (local.get 1)))",
            "trap": "unreachable",
            "loop": "(loop (br 0)) unreachable",
        }.items()
    }
    published["gather"] = market.publish(write_gather_pipeline(folder / "gather"))
    stranger = folder / "stranger.key"
    market.run(["keygen", "--out", str(stranger), "--no-passphrase"])
    published["untrusted"] = market.publish(
        write_kernel_pipeline(folder / "untrusted", "unreachable"), key=stranger
    )
    return published


def write_kernel_pipeline(folder: Path, body: str) -> Path:
    folder.mkdir()
    (folder / "kernel.wasm").write_bytes(wasmtime.wat2wasm(KERNEL.format(body=body)))
    (folder / "pipeline.toml").write_text(f"""
        name = "{folder.name}"
        version = "1.0.0"
        [inputs]
        x = {{ dtype = "F32", shape = ["?"] }}
        [[stage]]
        name = "broken"
        kernel = "kernel.wasm"
        inputs = {{ x = "input.x" }}
        outputs = ["x"]
        fuel = 10_000_000
        [outputs]
        x = "broken.x"
    """)
    return folder / "pipeline.toml"


def write_gather_pipeline(folder: Path) -> Path:
    """A model that looks up an index which its input gives: out of range fails at run time."""
    folder.mkdir()
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "pipeline.toml").write_text("""
        name = "gather"
        version = "1.0.0"
        [inputs]
        x = { dtype = "F32", shape = ["?"] }
        [[stage]]
        name = "model"
        model = "model.onnx"
        inputs = { x = "input.x" }
        outputs = ["y"]
        [outputs]
        y = "model.y"
    """)
    return folder / "pipeline.toml"


# The three surfaces: each runs the case and returns the error's code, fault, stage and hint.


def by_sdk(market: LocalMarket, pipeline: str, case: Case) -> dict[str, Any]:
    requirements = Requirements(isolation=case.isolation)
    with Client(market.url, api_key=market.api_key) as client, pytest.raises(TradepostError) as caught:
        client.submit(
            pipeline,
            input_of(case),
            max_price=case.max_price,
            confidence=CONFIDENCE,
            patience_s=0,
            requirements=requirements,
            inline=True,
        ).result(timeout=300)
    error = caught.value
    return {"code": error.code(), "fault": error.fault.value, "stage": error.stage, "hint": error.hint}


def by_command(market: LocalMarket, pipeline: str, case: Case, folder: Path) -> dict[str, Any]:
    path = folder / "input.safetensors"
    path.write_bytes(input_of(case))
    command = [sys.executable, "-m", "tradepost", "submit", pipeline, "--document", str(path), "--json"]
    command += [
        "--max-price",
        case.max_price,
        "--patience-s",
        "0",
        "--confidence",
        str(CONFIDENCE),
        "--broker",
        market.url,
        "--inline",
    ]
    for layer in case.isolation:
        command += ["--isolation", layer]
    environment = os.environ | {"TRADEPOST_API_KEY": market.api_key}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == EXIT_CODES[case.fault], run.stderr
    return dict(json.loads(run.stderr.strip().splitlines()[-1]))


def by_http(market: LocalMarket, pipeline: str, case: Case) -> dict[str, Any]:
    body = {
        "pipeline": pipeline,
        "input": base64.b64encode(input_of(case)).decode(),
        "max_price_microcredits": to_microcredits(case.max_price),
        "patience_s": 0,
        "confidence": CONFIDENCE,
        "idempotency_key": secrets.token_hex(8),
        "requirements": {"isolation": case.isolation},
    }
    try:
        view = call(market, "POST", "/v1/jobs", body)
        while view.get("finished_at") is None:
            view = call(market, "GET", f"/v1/jobs/{view['job']}?wait_s=30")
    except urllib.error.HTTPError as refused:
        return problem_in(refused)
    return dict(view["problem"])


def problem_in(refused: urllib.error.HTTPError) -> dict[str, Any]:
    problem: dict[str, Any] = json.load(refused)
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert problem["status"] == refused.code
    return problem


def call(market: LocalMarket, method: str, path: str, body: Any = None) -> dict[str, Any]:
    request = urllib.request.Request(
        market.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {market.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return dict(json.load(response))


def input_of(case: Case) -> bytes:
    if case.inputs is not None:
        return case.inputs
    return document(x=np.full(4, 99 if case.pipeline == "gather" else 0, np.float32))


def account(market: LocalMarket) -> tuple[Decimal, Decimal]:
    view = call(market, "GET", "/v1/account")
    return Decimal(view["available_microcredits"]), Decimal(view["reserved_microcredits"])


@pytest.mark.parametrize("surface", ["sdk", "command", "http"])
@pytest.mark.parametrize("name", CASES)
def test_a_job_that_fails_says_why_and_leaves_the_books_right(
    market: LocalMarket, pipelines: dict[str, str], tmp_path: Path, name: str, surface: str
) -> None:
    case = CASES[name]
    pipeline = pipelines.get(case.pipeline, case.pipeline)
    before, _ = account(market)
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "sdk": lambda: by_sdk(market, pipeline, case),
        "command": lambda: by_command(market, pipeline, case, tmp_path),
        "http": lambda: by_http(market, pipeline, case),
    }
    error = run[surface]()
    assert (error["code"], error["fault"], error.get("stage")) == (case.code, case.fault.value, case.stage)
    assert error["hint"]
    after, reserved = account(market)
    assert reserved == 0
    assert (after < before) if case.charged else (after == before)


def test_the_books_balance_after_all_of_it(market: LocalMarket, pipelines: dict[str, str]) -> None:
    folder = market.folder_in_use / "broker"
    books = market.run(["broker", "verify-books", "--data-dir", str(folder), "--json"])
    assert books["differences"] == [], books


def test_an_unsigned_pipeline_is_not_published(market: LocalMarket, pipelines: dict[str, str]) -> None:
    view = call(market, "GET", f"/v1/pipelines/{pipelines['noop']}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(market, "POST", "/v1/pipelines", {"manifest": view["manifest"], "bundle": ""})
    problem = problem_in(caught.value)
    assert (problem["code"], problem["fault"]) == ("unsigned-artifact", "publisher")


def test_an_input_that_was_never_uploaded_is_named(market: LocalMarket, pipelines: dict[str, str]) -> None:
    body = {
        "pipeline": pipelines["noop"],
        "input_cid": ABSENT,
        "max_price_microcredits": 50_000,
        "idempotency_key": secrets.token_hex(8),
    }
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(market, "POST", "/v1/jobs", body)
    problem = problem_in(caught.value)
    assert (problem["code"], problem["fault"]) == ("unknown-cid", "submitter")
    assert ABSENT in problem["detail"]


def test_a_broker_that_is_down_is_a_typed_error_of_the_command(tmp_path: Path, refusing_port: int) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    command = [sys.executable, "-m", "tradepost", "submit", ABSENT, "--tensor", f"x={tmp_path / 'x.bin'}"]
    command += ["--max-price", "1", "--give-up-s", "0", "--broker", f"http://127.0.0.1:{refusing_port}"]
    environment = os.environ | {"TRADEPOST_API_KEY": "key"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == EXIT_CODES[Fault.NETWORK]
    assert "The broker cannot be reached." in run.stderr
    assert "Check that the broker is running" in run.stderr
