"""A device whose clock is wrong works, keeps its reputation, and says how wrong its clock is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counting_kernel import write_counting_pipeline
from market_records import MarketRecords, scores_of
from tradepost import Client
from tradepost.testing import LocalMarket, RunningWorker, WorkerPlan

pytestmark = pytest.mark.acceptance

JOBS = 4
HOUR_S = 3600
DAY_S = 24 * HOUR_S
#: What Python imports first of all; it shifts every clock that tells the time of day.
SITECUSTOMIZE = """
import os, time

ahead_s = int(os.environ["CLOCK_AHEAD_S"])
read_s, read_ns, form = time.time, time.time_ns, time.strftime

class Shown:
    # An object, since `logging` keeps `time.localtime` in a class, where a function would become a method.
    def __init__(self, real):
        self.real = real

    def __call__(self, at=None):
        return self.real(time.time() if at is None else at)

time.time = lambda: read_s() + ahead_s
time.time_ns = lambda: read_ns() + ahead_s * 10**9
time.localtime, time.gmtime = Shown(time.localtime), Shown(time.gmtime)
time.strftime = lambda form_, at=None: form(form_, time.localtime() if at is None else at)
"""


def device_whose_clock_is_ahead(folder: Path, name: str, ahead_s: int, price: str) -> WorkerPlan:
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = f"PYTHONPATH={os.pathsep.join(places)}", f"CLOCK_AHEAD_S={ahead_s}"
    return WorkerPlan(name=name, owner=name, price=price, capacity=2, launcher=("env", *variables))


def sentence(market: LocalMarket, worker: RunningWorker) -> str:
    return str(market.status(worker)["sentence"])


def test_devices_whose_clocks_are_wrong_work_and_are_not_blamed(tmp_path: Path) -> None:
    folder = tmp_path / "shifted"
    folder.mkdir()
    plans = [
        device_whose_clock_is_ahead(folder, "ahead", HOUR_S, "0.001"),
        device_whose_clock_is_ahead(folder, "behind", -HOUR_S, "0.002"),
        device_whose_clock_is_ahead(folder, "never-set", -3 * DAY_S, "0.001"),
    ]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        ahead, behind, never_set = sorted(market.running, key=lambda worker: worker.plan.name)
        market.wait_until(lambda: market.view(never_set)["capacity"] == 0, never_set)
        scores = scores_of(market)
        pipeline = market.publish(write_counting_pipeline(tmp_path / "counting", count=1_000))
        with Client(market.url, api_key=market.api_key) as client:
            inputs = ({"x": np.full(3, n, np.float32)} for n in range(JOBS))
            results = list(client.map(pipeline, inputs, max_price="0.05", confidence=0.9))
        shown = {worker.plan.name: sentence(market, worker) for worker in market.running}
        set_right = replace(ahead, plan=replace(ahead.plan, launcher=()))
        shown["set right meanwhile"] = sentence(market, set_right)
        logs = {worker.plan.name: market.log(worker) for worker in market.running}
        records = MarketRecords.of(market)

    assert [result["x"].tolist() for result in results] == [[n] * 3 for n in range(JOBS)]
    assert {worker for result in results for worker in result.verification.agreed} == {ahead.id, behind.id}
    records.check_nobody_is_blamed(scores)
    assert never_set.id not in {lease.worker for lease in records.leases}
    assert "; this device's clock is 60 min ahead of the broker's clock" in shown["ahead"]
    assert "; this device's clock is 60 min behind the broker's clock" in shown["behind"]
    assert shown["never-set"].startswith("Paused: this device's clock is 3.0 days behind the broker's clock")
    assert not [text for text in shown.values() if " -" in text], shown
    assert not [name for name, text in logs.items() if "Traceback" in text], logs
    for name, skew in {"ahead": "60 min ahead of", "behind": "60 min behind"}.items():
        assert f"This device's clock is {skew} the broker's clock. Leases do not depend on it" in logs[name]
    assert "Paused: this device's clock is 3.0 days behind the broker's clock." in logs["never-set"]
