"""A kernel that costs too much to compile: the owner's log and the submitter learn why it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from counting_kernel import write_kernel_pipeline
from market_records import MarketRecords
from tradepost import Client
from tradepost.errors import NoEligibleWorker
from tradepost.testing import LocalMarket, WorkerPlan
from tradepost_worker.testing.hostile.module_builders import assembled, leb

pytestmark = pytest.mark.acceptance

#: One branch to more targets than the compiler takes.
TARGETS = 1_000_000
WHY = "needs more memory or time than this device or its compiler provides"


def test_a_kernel_that_costs_too_much_to_compile_is_refused_in_the_owners_log(tmp_path: Path) -> None:
    table = b"\x0e" + leb(TARGETS) + bytes(TARGETS + 1)
    kernel = assembled(b"\0\x02\x40\x20\0" + table + b"\x0b\x42\0\x0b")
    plans = [WorkerPlan(name="w1", owner="owner1", price="0.001")]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        pipeline = market.publish(write_kernel_pipeline(tmp_path / "costly", kernel, stage="branch"))
        with Client(market.url, api_key=market.api_key) as client:
            terms = {"max_price": "0.05", "confidence": 0.7, "patience_s": 0}
            with pytest.raises(NoEligibleWorker) as refused:
                client.submit(pipeline, {"x": np.ones(3, np.float32)}, **terms).result(timeout=120)
            funds = client.balance()
        log = market.log(market.running[0])
        records = MarketRecords.of(market)
    assert f"1 refused the pipeline (This pipeline {WHY}" in refused.value.detail
    [lease] = records.leases
    assert (
        f"Gave back lease {lease.id}, refused (pipeline {pipeline}, stage branch): This pipeline {WHY}" in log
    )
    assert funds == 1000
    records.check_nobody_is_blamed({})
