"""A fake broker that doubles `x`, in a thread of its own, and a blocking client of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tradepost import Client, TensorDocument
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY


@pytest.fixture
def fake() -> Iterator[FakeBrokerThread]:
    with FakeBrokerThread(double) as running:
        yield running


@pytest.fixture
def client(fake: FakeBrokerThread) -> Iterator[Client]:
    with Client(fake.url, api_key=API_KEY) as opened:
        yield opened


def double(document: TensorDocument) -> TensorDocument:
    return TensorDocument(tensors={"y": document["x"] * np.float32(2)})
