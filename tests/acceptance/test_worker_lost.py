"""A worker that dies in the middle of a lease: the job goes to another, nobody is paid for nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from counting_kernel import counting_kernel
from tradepost import Client
from tradepost.protocol import JobStatus
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

#: Some seconds of work.
COUNT = 2_000_000_000
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
wall_ms = 600_000
"""


def test_a_killed_workers_job_is_finished_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_BROKER_MARKET_RECONNECT_S", "0.5")
    (tmp_path / "slow.wasm").write_bytes(counting_kernel(COUNT))
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
            job = client.submit(
                pipeline, {"x": np.ones(3, np.float32)}, max_price="0.01", confidence=0.7, deadline_s=600
            )
            while client.job(job.id).status is not JobStatus.RUNNING:
                pass
            os.killpg(first.process.pid, signal.SIGKILL)
            result = job.result(timeout=600)
            after = client.balance()
        folder = tmp_path / "market" / "broker"
        books = market.run(["broker", "verify-books", "--data-dir", str(folder), "--json"])
    assert result["x"].tolist() == [1, 1, 1]
    assert result.verification.agreed == (second.id,)
    assert before - after == result.price
    assert books["differences"] == [], books
