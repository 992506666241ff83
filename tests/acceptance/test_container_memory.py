"""A worker in a container of 512 MiB offers no more than that, and gets no pipeline that needs more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from control_groups import limited_groups
from counting_kernel import write_counting_pipeline
from market_records import MarketRecords, scores_of
from tradepost import Client, Requirements
from tradepost.errors import NoEligibleWorker
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

MIB = 1 << 20
LIMIT_BYTES = 512 * MIB
#: A shell enters the group that it is given, and becomes the command that follows.
ENTER = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')
#: What docs/worker.md says that a small container needs.
SETTINGS = ("env", f"TRADEPOST_WORKER_MEMORY_FREE_BYTES_MIN={32 * MIB}")


@pytest.fixture
def container() -> Iterator[Path]:
    """A control group with 512 MiB of memory."""
    with limited_groups({"memory": {"memory.limit_in_bytes": LIMIT_BYTES}}) as [path]:
        yield path


def test_a_worker_in_a_container_offers_what_the_container_has(container: Path, tmp_path: Path) -> None:
    plans = [
        WorkerPlan(name="small", owner="small", price="0.001", launcher=(*ENTER, str(container), *SETTINGS)),
        WorkerPlan(name="large", owner="large", price="0.005"),
    ]
    inputs = {"x": np.ones(3, np.float32)}
    terms = {"max_price": "0.05", "confidence": 0.7, "patience_s": 0}
    on_small = Requirements(owners_only=("small",))
    with LocalMarket(workers=plans, folder=tmp_path / "market") as market:
        large, small = sorted(market.running, key=lambda worker: worker.plan.name)
        scores = scores_of(market)
        little = market.publish(write_counting_pipeline(tmp_path / "little", count=1_000))
        much = market.publish(write_counting_pipeline(tmp_path / "much", count=1_000, memory_bytes=2 << 30))
        with Client(market.url, api_key=market.api_key) as client:
            done = client.submit(little, inputs, requirements=on_small, **terms).result(timeout=120)
            with pytest.raises(NoEligibleWorker) as refused:
                client.submit(much, inputs, requirements=on_small, **terms).result(timeout=120)
            elsewhere = client.submit(much, inputs, **terms).result(timeout=120)
        log = market.log(small)
        records = MarketRecords.of(market)

    assert done.verification.agreed == (small.id,)
    assert elsewhere.verification.agreed == (large.id,)
    assert "too little memory (2 GiB needed)" in refused.value.detail
    assert refused.value.facts["lack_memory"] == 1
    offer = records.workers[small.id].offer
    assert offer is not None
    assert offer.capabilities.memory_bytes <= LIMIT_BYTES
    granted = {(records.jobs[lease.job].pipeline, lease.worker) for lease in records.leases}
    assert granted == {(little, small.id), (much, large.id)}
    records.check_nobody_is_blamed(scores)
    assert "A control group (a container) limits this device to 512 MiB of memory" in log
    assert f"pipelines that need more than {offer.capabilities.memory_bytes // MIB} MiB" in log
