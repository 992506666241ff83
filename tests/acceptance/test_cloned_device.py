"""Two worker processes with one copied state folder: one is told so, and leaves the market to the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from counting_kernel import write_counting_pipeline
from market_records import MarketRecords
from tradepost import Client
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance


def test_two_devices_with_one_copied_state_folder_do_not_replace_each_other(tmp_path: Path) -> None:
    plans = [WorkerPlan(name="first", owner="owner1", price="0.001")]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        [first] = market.running
        pipeline = market.publish(write_counting_pipeline(tmp_path / "counting", count=1_000))
        copied = tmp_path / "copied"
        shutil.copytree(market.state_dir(first.plan), copied)
        copy = market.start_copy(first, copied)
        market.wait_until(lambda: "Not connected: " in market.log(first), first)
        with Client(market.url, api_key=market.api_key) as client:
            job = client.submit(pipeline, {"x": np.ones(3, np.float32)}, max_price="0.05", confidence=0.7)
            result = job.result(timeout=120)
        status = market.status(first)
        logs = market.log(first), market.log(copy)
        records = MarketRecords.of(market)
    assert result["x"].tolist() == [1, 1, 1]
    assert logs[0].count("Connected to ") == logs[1].count("Connected to ") == 1
    assert "another device connected with the key" in logs[0]
    assert "Its state folder was copied. Stop one of the devices, and join it anew" in logs[0]
    assert "Not connected: " not in logs[1]
    assert f"Lease {records.leases[0].id} is accepted" in logs[1]
    assert not status["connected"]
    assert "another device connected with the key" in status["sentence"]
    records.check_nobody_is_blamed({})
