"""Nothing that a submitter or publisher chooses lowers an honest worker's score.

One account submits jobs with deadlines that nobody can meet, runs pipelines whose wall-clock limit is about
what honest devices need, and sends an input that takes more memory than the pipeline may use. Where the
market stops the account, the account lifts that and goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from counting_kernel import write_counting_pipeline
from market_records import MarketRecords, scores_of
from tradepost import Client
from tradepost.errors import (
    DeadlineExceeded,
    InputTooCostly,
    LeaseTimeout,
    PipelineQuarantined,
    TradepostError,
    WorkerLost,
)
from tradepost.receipts import verify_receipt
from tradepost.testing import LocalMarket, WorkerPlan

pytestmark = pytest.mark.acceptance

HOPELESS_JOBS = 60
HOPELESS_S = 0.003
#: About a tenth of a second of work.
COUNT = 50_000_000
#: Of the time that the work took: below, just below, and just above what it needs.
SHARES = (0.5, 0.9, 1.2)
TERMS = {"max_price": "0.05", "confidence": 0.9}


@pytest.fixture
def market(tmp_path: Path) -> Iterator[LocalMarket]:
    plans = [
        *(WorkerPlan(name=f"w{n}", owner=f"owner{n}", price=f"0.00{n}", capacity=2) for n in (1, 2, 3)),
        WorkerPlan(name="auditor", owner="operator", price="0.001", stake="0", auditor=True),
    ]
    with LocalMarket(workers=plans, folder=tmp_path / "market") as running:
        yield running


def write_large_output_pipeline(folder: Path) -> Path:
    """A model whose output has 2^20 times as many values as its input says."""
    folder.mkdir()
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["count"], to=TensorProto.INT64),
            helper.make_node("Mul", ["count", "million"], ["size"]),
            helper.make_node("Expand", ["x", "size"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["y"], keepdims=1),
        ],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("million", TensorProto.INT64, [1], [1 << 20])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "pipeline.toml").write_text("""
        name = "large"
        version = "1.0.0"
        [inputs]
        x = { dtype = "F32", shape = [1] }
        [[stage]]
        name = "model"
        model = "model.onnx"
        inputs = { x = "input.x" }
        outputs = ["y"]
        [outputs]
        y = "model.y"
    """)
    return folder / "pipeline.toml"


class Submitter:
    """An account that wants to do harm, and what its jobs ended with."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.ends: Counter[type[TradepostError] | None] = Counter()

    def submit(self, pipeline: str, value: float, **terms: float) -> None:
        """Submit a job and wait for its end; lift the quarantine that it meets."""
        inputs = {"x": np.full(1, value, np.float32)}
        end: type[TradepostError] | None = None
        try:
            self._client.submit(pipeline, inputs, **TERMS, **terms).result(timeout=120)
        except TradepostError as error:
            end = type(error)
            if isinstance(error, PipelineQuarantined):
                self._client.lift_quarantine(pipeline)
        self.ends[end] += 1


def test_what_an_account_chooses_lowers_no_score(market: LocalMarket, tmp_path: Path) -> None:
    counting = market.publish(write_counting_pipeline(tmp_path / "counting", count=COUNT))
    with Client(market.url, api_key=market.api_key, give_up_s=60) as client:
        first = [
            client.submit(counting, {"x": np.full(1, n, np.float32)}, **TERMS).result(timeout=120)
            for n in range(3)
        ]
        scores = scores_of(market)
        funds = client.balance()
        hopeless, tight, fitting, large = (Submitter(client) for _ in range(4))
        for n in range(HOPELESS_JOBS):
            hopeless.submit(counting, n, deadline_s=HOPELESS_S)
        receipts = [verify_receipt(one) for result in first for one in result.receipts]
        needed_us = min(receipt.stages[0].wall_us for receipt in receipts)
        for share in SHARES:
            wall_ms = max(1, int(share * needed_us / 1000))
            toml = write_counting_pipeline(
                tmp_path / f"tight-{int(100 * share)}", count=COUNT, wall_ms=wall_ms
            )
            pipeline = market.publish(toml)
            for n in range(3):
                tight.submit(pipeline, n)
        pipeline = market.publish(write_large_output_pipeline(tmp_path / "large"))
        fitting.submit(pipeline, 1)
        large.submit(pipeline, 1 << 12)
        spent = funds - client.balance()
    records = MarketRecords.of(market)
    print(f"ends: {hopeless.ends}, {tight.ends}, {large.ends}; {spent} credits spent")

    records.check_nobody_is_blamed(scores)
    # The broker looks at deadlines every so often: a result that comes before it looks is in time.
    assert hopeless.ends.keys() <= {None, DeadlineExceeded, PipelineQuarantined, WorkerLost}
    assert hopeless.ends[DeadlineExceeded] > 0
    assert hopeless.ends.total() == HOPELESS_JOBS
    assert tight.ends.keys() <= {None, LeaseTimeout, PipelineQuarantined, WorkerLost}
    assert fitting.ends == {None: 1}
    assert large.ends.keys() <= {InputTooCostly, PipelineQuarantined, WorkerLost}
    codes = {lease.problem.code for lease in records.leases if lease.problem is not None}
    assert codes >= {DeadlineExceeded.code(), LeaseTimeout.code(), InputTooCostly.code()}, "each was tried"
