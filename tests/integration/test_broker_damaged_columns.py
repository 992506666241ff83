"""Whatever column of bytes is damaged: verifications and a start name it, and never end with a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.errors import DatabaseDamaged, TradepostError
from tradepost.protocol import JobStatus
from tradepost_broker.storage.tables import metadata
from tradepost_broker.testing import local_broker

COLUMNS = sorted(
    (table.name, column.name)
    for table in metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, LargeBinary)
    or (table.name, column.name) in {("runs", "at"), ("journal", "at")}
)
#: Nothing of these is in the market below, or it is derived and NULL.
EMPTY = {"set_aside.event", "owner_pairs.body", "collusion_findings.body", "log_nodes.hash"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a broker that has run a job, and stopped."""
    folder = tmp_path_factory.mktemp("stopped")

    async def fill() -> None:
        async with local_broker(folder) as broker:
            key = await broker.account()
            worker = await broker.worker(serve=True)
            job = (await broker.submit(key, await broker.publish(key))).job
            assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
            await worker.disconnect()

    asyncio.run(fill())
    return folder


def damages(value: object) -> Iterator[object]:
    """What may be in the place of a value: one with another end, and another type."""
    if isinstance(value, bytes) and value:
        yield value[:-1] + bytes([value[-1] ^ 1])
    yield "text"


async def start(folder: Path) -> None:
    async with local_broker(folder) as broker:
        await broker.tick()


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[".".join(one) for one in COLUMNS])
def test_a_damaged_column_is_named(stopped: Path, tmp_path: Path, table: str, column: str) -> None:
    folder = tmp_path / "data"
    with closing(sqlite3.connect(stopped / "broker.sqlite3")) as connection:
        found = connection.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
    if found is None:
        assert f"{table}.{column}" in EMPTY
        return
    for damaged in damages(found[0]):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stopped, folder)
        with closing(sqlite3.connect(folder / "broker.sqlite3")) as connection:
            connection.execute(f"UPDATE {table} SET {column} = ?", (damaged,))
            connection.commit()
        result = CliRunner().invoke(app, ["broker", "verify-books", "--data-dir", str(folder)])
        assert isinstance(result.exception, DatabaseDamaged), (damaged, result.exception)
        result = CliRunner().invoke(app, ["broker", "audit-log", "verify", "--data-dir", str(folder)])
        assert isinstance(result.exception, SystemExit | None | TradepostError), (damaged, result.exception)
        with contextlib.suppress(TradepostError):
            asyncio.run(start(folder))
