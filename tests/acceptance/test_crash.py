"""SIGKILL in the middle of the work: no acknowledged job is lost, none runs twice, and the books balance."""

from __future__ import annotations

import concurrent.futures
import random
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from tradepost import Client
from tradepost.pipeline.tensors import decode
from tradepost.protocol import JobStatus
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

JOBS = 200
SEED = 20_261
DATA = files("tradepost.demo") / "data"


def test_a_broker_killed_twice_loses_nothing_and_pays_nobody_twice(tmp_path: Path) -> None:
    moments = sorted(random.Random(SEED).sample(range(10, JOBS - 40), 2))
    print(f"seed {SEED}: the broker is killed after {moments} results")
    images = decode((DATA / "held_out.safetensors").read_bytes())["images"]
    plans = [
        *(WorkerPlan(name=f"w{n}", owner=f"owner{n}", price=f"0.00{n}", capacity=2) for n in (1, 2, 3)),
        WorkerPlan(name="auditor", owner="operator", price="0.001", stake="0", auditor=True),
    ]
    with LocalMarket(workers=plans, folder=tmp_path) as market:
        pipeline = market.publish(Path(str(DATA / "pipeline.toml")))
        with Client(market.url, api_key=market.api_key, give_up_s=300) as client:
            before = client.balance()
            with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
                # Submissions go on while the broker dies; some are acknowledged and some are not.
                submitting = [
                    pool.submit(
                        client.submit,
                        pipeline,
                        {"image": images[n]},
                        max_price="0.05",
                        confidence=0.9,
                        idempotency_key=f"image-{n}",
                    )
                    for n in range(JOBS)
                ]
                waiting = [
                    pool.submit(lambda one=one: one.result().result(timeout=600)) for one in submitting
                ]
                finished = concurrent.futures.as_completed(waiting)
                for count, _ in enumerate(finished, start=1):
                    if count in moments:
                        market.kill_broker()
                        market.start_broker()
            results = [one.result() for one in waiting]
            again = client.submit(
                pipeline, {"image": images[0]}, max_price="0.05", confidence=0.9, idempotency_key="image-0"
            )
            assert again.id == results[0].job
            assert again.result(timeout=600).document == results[0].document
            after = client.balance()
            views = [client.job(result.job) for result in results]
        books = market.run(["broker", "verify-books", "--data-dir", str(tmp_path / "broker"), "--json"])

    assert len({result.job for result in results}) == JOBS
    assert all(view.status is JobStatus.ACCEPTED for view in views)
    assert before - after == sum((result.price for result in results), start=Decimal(0))
    assert books["differences"] == [], books
    assert books["compared"]["job"] == JOBS
