"""Requirements on workers and preferences among them: what is sent, and what is refused before that."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tradepost import Client, EngineFloor, Preference, Requirements
from tradepost.client.job_request import PREFERENCES
from tradepost.errors import InvalidCall
from tradepost.testing.broker_thread import FakeBrokerThread

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
INPUTS = {"x": np.ones(2, np.float32)}


# Requirements


def test_filters_are_sent_as_they_are_and_what_is_unset_is_not_sent(
    client: Client, fake: FakeBrokerThread
) -> None:
    required = Requirements(
        providers=("cuda",),
        engines=(EngineFloor(engine="wasmtime", version="50.0"),),
        score_min=0.25,
        owners_only=["a", "b"],  # type: ignore[arg-type]
        owners_excluded=None,  # type: ignore[arg-type]
    )
    client.estimate(PIPELINE, INPUTS, requirements=required)
    [sent] = fake.broker.estimates
    assert msgspec.to_builtins(sent.requirements) == {
        "memory_bytes": 0,
        "isolation": (),
        "providers": ("cuda",),
        "engines": ({"engine": "wasmtime", "version": "50.0"},),
        "score_min": 0.25,
        "owners_only": ("a", "b"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("providers", "cuda"),
        ("providers", ("a",) * 17),
        ("providers", (5,)),
        ("engines", {"wasmtime": "50"}),
        ("engines", ("wasmtime",)),
        ("engines", (EngineFloor(engine="wasmtime", version="new"),)),
        ("score_min", 1.5),
        ("score_min", float("nan")),
        ("score_min", "high"),
        ("owners_only", ("No Such Name",)),
        ("owners_excluded", ("a",) * 65),
        ("owners_excluded", 5),
        ("owners_excluded", object()),
    ],
)
def test_filters_are_checked_before_anything_is_sent(
    client: Client, fake: FakeBrokerThread, name: str, value: Any
) -> None:
    with pytest.raises(InvalidCall, match=name):
        client.estimate(PIPELINE, INPUTS, requirements=Requirements(**{name: value}))
    assert fake.broker.estimates == []


# Preferences


def test_a_preference_is_a_name_or_weights(client: Client, fake: FakeBrokerThread) -> None:
    for preference in ("latency", Preference(load=3), None):
        client.submit(PIPELINE, INPUTS, max_price=1, preference=preference).result(60)
    named, weighed, without = (one.preference for one in fake.broker.requests)
    assert named == PREFERENCES["latency"]
    assert weighed == Preference(load=3.0)
    assert without is msgspec.UNSET


@pytest.mark.parametrize("name", list(PREFERENCES))
def test_a_named_preference_is_one_that_the_broker_takes(name: str) -> None:
    preference = PREFERENCES[name]
    assert msgspec.convert(msgspec.to_builtins(preference), Preference) == preference
    assert preference != Preference()


@pytest.mark.parametrize(
    "wrong", ["speed", 5, {}, Preference(price=0), Preference(latency=-1), Preference(load=float("nan"))]
)
def test_a_preference_is_checked_before_anything_is_sent(
    client: Client, fake: FakeBrokerThread, wrong: Any
) -> None:
    with pytest.raises(InvalidCall):
        client.submit(PIPELINE, INPUTS, max_price=1, preference=wrong)
    assert fake.broker.requests == []
