"""A worker that dies in the middle of a lease: the job goes to another, nobody is paid for nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import wasmtime

from tradepost import Client
from tradepost.protocol import JobStatus
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

#: Counts to two thousand million, some seconds of work, then returns its input.
SLOW = """
(module
  (memory (export "memory") 4)
  (func (export "kernel_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "kernel_run") (param i32 i32) (result i64) (local i64)
    (loop
      (local.set 2 (i64.add (local.get 2) (i64.const 1)))
      (br_if 0 (i64.lt_u (local.get 2) (i64.const 2000000000))))
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))
"""
PIPELINE = """
name = "slow"
version = "1.0.0"
[inputs]
x = { dtype = "F32", shape = ["?"] }
[[stage]]
name = "slow"
kernel = "slow.wasm"
inputs = { x = "input.x" }
outputs = ["x"]
fuel = 100_000_000_000
[outputs]
x = "slow.x"
[limits]
wall_ms = 60_000
"""


def test_a_killed_workers_job_is_finished_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_BROKER_MARKET_RECONNECT_S", "0.5")
    (tmp_path / "slow.wasm").write_bytes(wasmtime.wat2wasm(SLOW))
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    plans = [
        WorkerPlan(name="first", owner="first", price="0.001"),
        WorkerPlan(name="second", owner="second", price="0.002"),
    ]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        pipeline = market.publish(tmp_path / "pipeline.toml")
        first, second = sorted(market.running, key=lambda worker: worker.plan.name)
        with Client(market.url, api_key=market.api_key) as client:
            before = client.balance()
            job = client.submit(pipeline, {"x": np.ones(3, np.float32)}, max_price="0.01", confidence=0.7)
            while client.job(job.id).status is not JobStatus.RUNNING:
                pass
            os.killpg(first.process.pid, signal.SIGKILL)
            result = job.result(timeout=120)
            after = client.balance()
        folder = tmp_path / "market" / "broker"
        books = market.run(["broker", "verify-books", "--data-dir", str(folder), "--json"])
    assert result["x"].tolist() == [1, 1, 1]
    assert result.verification.agreed == (second.id,)
    assert before - after == result.price
    assert books["differences"] == [], books
