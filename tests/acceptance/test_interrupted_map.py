"""Ctrl-C in a program that runs `client.map` cancels its jobs; only what was begun before is paid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from counting_kernel import write_counting_pipeline
from market_records import MarketRecords
from tradepost import Client
from tradepost.protocol import JobStatus
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

JOBS = 6
#: Far more work than the test lasts.
COUNT = 20_000_000_000
PROGRAM = """
import sys
import numpy as np
from tradepost import Client

inputs = ({"x": np.full(3, n, np.float32)} for n in range(int(sys.argv[2])))
try:
    with Client() as client:
        for result in client.map(sys.argv[1], inputs, max_price="0.05", confidence=0.7):
            print("a result")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_cancels_the_jobs_of_a_map(tmp_path: Path) -> None:
    plans = [WorkerPlan(name="w1", owner="owner1", price="0.001")]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        toml = write_counting_pipeline(tmp_path / "counting", count=COUNT, wall_ms=600_000)
        pipeline = market.publish(toml)
        environment = {**os.environ, "TRADEPOST_URL": market.url, "TRADEPOST_API_KEY": market.api_key}
        with Client(market.url, api_key=market.api_key) as client:
            funds = client.balance()

            def is_under_way() -> bool:
                states = [job.status for job in client.jobs().jobs]
                return len(states) == JOBS and JobStatus.RUNNING in states

            command = [sys.executable, "-c", PROGRAM, pipeline, str(JOBS)]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as program:
                market.wait_until(is_under_way, market.running[0])
                program.send_signal(signal.SIGINT)
                output, errors = program.communicate(timeout=60)
            jobs = client.jobs().jobs
            spent = funds - client.balance()
        records = MarketRecords.of(market)
    assert (program.returncode, output, errors) == (130, "", "")
    assert [job.status for job in jobs] == [JobStatus.CANCELLED] * JOBS
    [begun] = records.leases
    assert [job.job for job in jobs if job.price_microcredits] == [begun.job]
    assert spent == sum((Decimal(job.price_microcredits) for job in jobs), start=Decimal(0)) / 1_000_000
    records.check_nobody_is_blamed({})
