"""Fixtures for the tests with real servers: a broker, and a bench for agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_worker.testing.agent_bench import AgentBench, agent_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[AgentBench]:
    async with agent_bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate limits of a broker that starts after this allow their burst alone, however long that takes."""
    monkeypatch.setattr("tradepost_broker.assembly.time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path) as broker:
        yield broker
