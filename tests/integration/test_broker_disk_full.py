"""A disk that fills up: new work is refused in time, work at hand ends, and the books verify afterwards.

On a real small tmpfs, since only a disk shows what is left when a write to it fails.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tradepost.content import Cid, add_bytes
from tradepost.errors import BrokerUnavailable, DiskFull
from tradepost.protocol import Grant
from tradepost_broker.market.ledger import credits_of
from tradepost_broker.market.model.events import Funded
from tradepost_broker.storage import database
from tradepost_broker.storage.disk_space import free_bytes_of
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import LocalBroker, SamplePipeline, local_broker

DISK_BYTES = 24 << 20
RESERVE_BYTES = 8 << 20
BLOCK_BYTES = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty tmpfs of `DISK_BYTES`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs needs the right to mount it: {mounted.stderr.strip()}")
    yield folder
    # Lazily: what an exception holds may have a file open until it is forgotten.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.asynccontextmanager
async def broker_on(disk: Path, **settings: Any) -> AsyncIterator[LocalBroker]:
    async with local_broker(disk / "data", disk_reserve_bytes=RESERVE_BYTES, **settings) as broker:
        yield broker


def fill(disk: Path) -> Path:
    """A file that takes what is left of the disk, and grows to take it again."""
    path = disk / "filler"
    with path.open("ab") as file:
        file.write(bytes(free_bytes_of(disk)))
    assert free_bytes_of(disk) == 0
    return path


def blocks_of(data: bytes) -> list[tuple[Cid, bytes]]:
    blocks: list[tuple[Cid, bytes]] = []
    add_bytes(data, put=lambda cid, block: blocks.append((cid, block)))
    return blocks


async def put_many(broker: LocalBroker, key: str, count: int) -> None:
    """Upload files of `BLOCK_BYTES`, no two of them equal."""
    for number in range(count):
        for cid, block in blocks_of(random.Random(number).randbytes(BLOCK_BYTES)):
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=block)


async def fund_until_it_fails(broker: LocalBroker) -> int:
    """Give alice a microcredit again and again; how often that was acknowledged."""
    funded = 0
    with contextlib.suppress(DiskFull):
        while True:  # until the room that the log already has is used up
            await broker.fund("alice", 1)
            funded += 1
    return funded


async def until_written(broker: LocalBroker) -> None:
    """Wait until the broker has noticed that there is room."""
    while True:
        with contextlib.suppress(DiskFull):
            await broker.fund("alice", 1)
            return


def fundings(broker: LocalBroker) -> list[Funded]:
    """What was given to alice, by the journal."""
    journal = broker.running.parts.store.journal()
    return [event for _, event in journal if isinstance(event, Funded) and event.account == "alice"]


def books_differ(disk: Path) -> list[str]:
    reader = Reader(database.open_snapshot(disk / "data" / "broker.sqlite3"))
    with contextlib.closing(reader):
        report = verify_books(reader)
    assert report.events
    return report.differences


async def test_new_work_ends_before_the_reserve_and_work_at_hand_goes_on(disk: Path) -> None:
    async with broker_on(disk) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        open_job = (await broker.submit(key, pipeline, patience_s=600, idempotency_key="known")).job
        with pytest.raises(DiskFull) as caught:
            await put_many(broker, key, DISK_BYTES // BLOCK_BYTES)
        assert caught.value.facts["kept_bytes"] == RESERVE_BYTES
        assert free_bytes_of(disk) > RESERVE_BYTES - BLOCK_BYTES // 2
        filler = disk / "filler"
        filler.write_bytes(bytes(BLOCK_BYTES))
        with pytest.raises(DiskFull):
            await broker.submit(key, pipeline)
        with pytest.raises(DiskFull):
            await broker.call("POST", "/v1/pipelines", key=key, body=SamplePipeline(name="other").request())
        assert (await broker.submit(key, pipeline, patience_s=600, idempotency_key="known")).job == open_job
        worker = await broker.worker(serve=True)
        assert (await broker.result(key, open_job)).price_microcredits > 0
        await worker.disconnect()
        filler.unlink()
    assert books_differ(disk) == []


async def test_a_broker_lives_through_a_disk_that_others_fill(disk: Path) -> None:
    async with broker_on(disk) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        filler = fill(disk)
        funded = await fund_until_it_fails(broker)
        for request in (broker.account("bob"), broker.fund("alice", 1), broker.token()):
            with pytest.raises(DiskFull, match="nothing was done") as caught:
                await request
            assert "Free space on the disk" in caught.value.hint
        with pytest.raises(DiskFull):
            await broker.submit(key, pipeline)
        engine = broker.running.parts.engine
        stands_at = engine.now()
        assert await broker.call("GET", "/healthz")
        assert engine.now() == stands_at  # so no lease expires meanwhile
        filler.unlink()
        await until_written(broker)
        assert engine.now() > stands_at
        await broker.account("bob")
        job = (await broker.submit(key, pipeline, patience_s=600)).job
        worker = await broker.worker(serve=True)
        assert (await broker.result(key, job)).price_microcredits > 0
        await worker.disconnect()
        # The request that met the full disk first was carried out, though its sender could not know.
        total = sum(one.amount_microcredits for one in fundings(broker))
        assert total == 100_000_000 + funded + 1 + 1
    assert books_differ(disk) == []


async def test_a_broker_that_is_stopped_on_a_full_disk_has_lost_nothing_acknowledged(disk: Path) -> None:
    async with broker_on(disk) as broker:
        await broker.account(funds=1_000)
        filler = fill(disk)
        funded = await fund_until_it_fails(broker)
    fill(disk)  # what the log took is free again
    with pytest.raises(DiskFull) as again:
        async with broker_on(disk):
            pass
    assert "Free space" in again.value.hint
    filler.unlink()
    async with broker_on(disk) as broker:
        assert (
            broker.running.parts.market.account(credits_of("alice")).available_microcredits >= 1_000 + funded
        )
    assert books_differ(disk) == []


async def test_a_new_market_on_a_full_disk_says_what_to_free(disk: Path) -> None:
    filler = fill(disk)
    with pytest.raises(DiskFull, match=str(disk)):
        async with broker_on(disk):
            pass
    filler.unlink()
    async with broker_on(disk) as broker:
        await broker.account()
    assert books_differ(disk) == []


async def test_an_output_that_finds_no_room_is_not_the_workers_fault(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await broker.account()
    await broker.submit(key, await broker.publish(key))
    worker = await broker.worker()
    grant = await worker.expect(Grant)
    monkeypatch.setattr(broker.running.parts.space, "reserve_bytes", 1 << 60)
    with pytest.raises(BrokerUnavailable, match="no room"):  # after which a worker tries again
        await worker.upload_output(grant, b"output")
    monkeypatch.undo()
    await worker.upload_output(grant, b"output")
    await worker.disconnect()
