"""What contracts run on: the real daemon, where there is one, and both brokers that a worker may have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tradepost.testing.kubo_daemon import KuboDaemon, find_ipfs
from tradepost_broker.testing import FakeWorker
from worker_sides import Side, worker_side


@pytest.fixture(scope="session")
def kubo_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    """A Kubo daemon of its own; skipped where there is no `ipfs`."""
    ipfs = find_ipfs()
    if ipfs is None:
        pytest.skip("no `ipfs` on the path, and TRADEPOST_IPFS names none: nothing to compare with")
    with KuboDaemon(ipfs, tmp_path_factory.mktemp("kubo")) as daemon:
        yield daemon


@pytest.fixture(params=["fake", "real"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    """A worker's fake broker, then the real one."""
    async with worker_side(request.param, tmp_path) as side:
        yield side


@pytest.fixture
async def worker(side: Side) -> AsyncIterator[FakeWorker]:
    """A device that is connected to it."""
    worker = await side.worker()
    yield worker
    await worker.disconnect()
