"""`client.estimate`: what is sent, what comes back, and what is refused before anything is sent."""

from __future__ import annotations

import copy
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tradepost import AsyncClient, Client, Estimate, Requirements
from tradepost.client.inputs import document_bytes
from tradepost.errors import InvalidCall, InvalidInput, PriceCapTooLow, TradepostError, UnknownPipeline
from tradepost.protocol import EstimateRequest, TypicalPrice
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
DOCUMENT = Path(__file__).parents[4] / "docs" / "sdk.md"
INPUTS = {"x": np.ones(2, np.float32)}


def test_only_the_size_of_the_input_is_sent(client: Client, fake: FakeBrokerThread) -> None:
    client.estimate(
        PIPELINE,
        INPUTS,
        max_price="0.5",
        confidence=0.9,
        deadline_s=60,
        requirements=Requirements(memory_bytes=5),
    )
    client.estimate(PIPELINE, 77)
    size_bytes = len(document_bytes(INPUTS))
    assert fake.broker.estimates == [
        EstimateRequest(
            pipeline=PIPELINE,
            input_bytes=size_bytes,
            max_price_microcredits=500_000,
            confidence=0.9,
            deadline_s=60.0,
            requirements=Requirements(memory_bytes=5),
        ),
        EstimateRequest(pipeline=PIPELINE, input_bytes=77),
    ]
    assert fake.broker.requests == []


def test_prices_are_in_credits_and_what_is_unknown_is_none(client: Client, fake: FakeBrokerThread) -> None:
    found = client.estimate(PIPELINE, INPUTS)
    assert (found.cap, found.typical_price) == (Decimal("0.001"), None)
    assert (found.latency_p50_s, found.in_time, found.problem) == (None, None, None)
    found.raise_for_problem()
    assert repr(found) == "<Estimate: cap 0.001 credits, 1 result, latency unknown>"
    fake.broker.estimate = msgspec.structs.replace(
        fake.broker.estimate,
        typical_price=TypicalPrice(price_microcredits=2_500, jobs=9, since=5.0),
        latency_p50_s=1.25,
    )
    found = client.estimate(PIPELINE, INPUTS)
    assert (found.typical_price, found.typical_jobs, found.latency_p50_s) == (Decimal("0.0025"), 9, 1.25)
    for again in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert type(again) is Estimate
        assert again == found


def test_the_error_that_the_job_would_fail_with_is_typed(client: Client, fake: FakeBrokerThread) -> None:
    problem = PriceCapTooLow("too little").to_problem()
    fake.broker.estimate = msgspec.structs.replace(fake.broker.estimate, problem=problem)
    found = client.estimate(PIPELINE, INPUTS)
    assert repr(found) == "<Estimate: price-cap-too-low>"
    with pytest.raises(PriceCapTooLow, match="too little"):
        found.raise_for_problem()


@pytest.mark.parametrize(
    ("inputs", "options", "error"),
    [
        (0, {}, InvalidCall),
        (True, {}, InvalidCall),
        (1 << 60, {}, InvalidCall),
        ("x", {}, InvalidInput),
        (INPUTS, {"max_price": 0}, InvalidCall),
        (INPUTS, {"confidence": 1}, InvalidCall),
        (INPUTS, {"deadline_s": 0}, InvalidCall),
        (INPUTS, {"deadline_s": 0.0009}, InvalidCall),
        (INPUTS, {"requirements": {}}, InvalidCall),
    ],
)
def test_arguments_are_checked_before_anything_is_sent(
    client: Client, fake: FakeBrokerThread, inputs: Any, options: dict[str, Any], error: type[TradepostError]
) -> None:
    with pytest.raises(error):
        client.estimate(PIPELINE, inputs, **options)
    with pytest.raises(UnknownPipeline):
        client.estimate("nonsense", INPUTS)
    assert fake.broker.estimates == []


def test_the_documented_example_runs(client: Client, fake: FakeBrokerThread) -> None:
    section = DOCUMENT.read_text().split("## Before submitting")[1]
    [example] = re.findall(r"^```python\n(.*?)^```", section.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    names = {"client": client, "pipeline": PIPELINE, "image": np.ones(2, np.float32)}
    exec(example, names)
    assert [one.confidence for one in fake.broker.estimates] == [0.99]
    assert [one.max_price_microcredits for one in fake.broker.requests] == [1000]


async def test_asyncio_has_the_same_call(fake: FakeBrokerThread) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        assert (await client.estimate(PIPELINE, INPUTS)).results == 1
