"""Requests are rejected while the disk is full, and what was begun is written when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adding_core import AddingCore, Funding, KeepInput, running
from tradepost.errors import DiskFull, Fault, TradepostError
from tradepost_broker.engine.engine import Engine, Outcome
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import Instruction, NotifyFinished
from tradepost_broker.storage.database_checks import typed_errors
from tradepost_broker.storage.shell_records import ApiKey
from tradepost_broker.storage.store import Store
from tradepost_broker.testing import ManualClock


def finished(released: list[Instruction]) -> list[str]:
    return [one.job for one in released if isinstance(one, NotifyFinished)]


@contextmanager
def full_database(store: Store) -> Iterator[None]:
    """Within this, the database of `store` cannot grow."""
    pages = store._write.execute("PRAGMA page_count").fetchone()[0]
    store._write.execute(f"PRAGMA max_page_count = {pages}")
    yield
    store._write.execute(f"PRAGMA max_page_count = {1 << 30}")


async def test_a_full_disk_rejects_requests_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, released, blocked = Store(tmp_path / "db"), list[Instruction](), list[bool]()
    store._write.execute("PRAGMA foreign_keys=OFF")  # inputs without jobs
    async with running(store, released=released, blocked=blocked) as engine:
        await engine.ask(Funding(5, "before"))
        with full_database(store):
            begun = asyncio.create_task(engine.ask(KeepInput("input")))
            funding = asyncio.create_task(engine.ask(Funding(7, "begun")))
            for asked in (begun, funding):
                with pytest.raises(DiskFull, match="the disk is full; the request may still be") as caught:
                    await asked
                assert "Free space on the disk of the broker's data folder" in caught.value.hint
                assert caught.value.fault is Fault.OPERATOR
            with pytest.raises(DiskFull, match="the disk is full; nothing was done"):
                await engine.ask(Funding(11, "rejected"))
            assert finished(released) == ["before"]
            told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            engine.submit(Funding(2, "waits"), told.set_result)
        assert not isinstance(await told, TradepostError)
        assert await engine.ask(Funding(1, "after"))
    assert finished(released) == ["before", "begun", "waits", "after"]
    again = Store(tmp_path / "db")
    assert again.get(Account, "credits:alice") == Account(
        id="credits:alice", available_microcredits=5 + 7 + 2 + 1
    )
    assert [seq for seq, _ in again.journal()] == [1, 2, 3, 4]
    assert blocked == [True, False]
    assert again.get(ApiKey, "rejected") is None
    again.close()
    assert [one.action for one in caplog.records if hasattr(one, "action")].count("disk_full") == 1


async def test_an_engine_that_stops_on_a_full_disk_raises_that(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    store._write.execute("PRAGMA foreign_keys=OFF")
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=ManualClock())
    task = asyncio.create_task(engine.run())
    with full_database(store):
        with pytest.raises(DiskFull):
            await engine.ask(KeepInput("input"))
        engine.stop()
        with pytest.raises(DiskFull, match="database or disk is full"), typed_errors(tmp_path / "db"):
            await task
    store.close()
