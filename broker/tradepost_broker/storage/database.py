"""Connections to the broker's SQLite database, and the schema's migrations.

Write-ahead logging lets readers go on while the one writer commits; `synchronous=FULL` makes a commit wait
until the disk has it. Transactions begin where SQLAlchemy begins them, not where `sqlite3` guesses.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event

from tradepost.errors import invariant

_BUSY_MS: Final = 5_000
#: A transaction that writes takes the lock first, so that it never has to give up in its middle.
BEGIN: Final = "BEGIN IMMEDIATE"
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}")


def open_writer(path: Path) -> Connection:
    """The connection that writes, after bringing the schema at `path` up to this version's."""
    migrate(path)
    engine = _engine(path, _PRAGMAS)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(BEGIN)

    return engine.connect()


def open_reader(path: Path) -> Connection:
    """A connection that cannot write; each statement sees what is committed when it runs."""
    engine = _engine(path, (*_PRAGMAS, "query_only=ON"))
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def open_snapshot(path: Path) -> Connection:
    """A connection that cannot write, and sees what is committed now for as long as it is open."""
    connection = _engine(path, (*_PRAGMAS, "query_only=ON")).connect()
    connection.exec_driver_sql("BEGIN")
    connection.exec_driver_sql("SELECT 1 FROM journal LIMIT 1")  # a snapshot starts at its first read
    return connection


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection below `connection`, which lives as long."""
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


def close(connection: Connection) -> None:
    """Close a connection and the engine that was made for it; what was not committed is gone."""
    connection.close()
    connection.engine.dispose()


def migrate(path: Path) -> None:
    """Create the database at `path`, or upgrade its schema, in one transaction.

    Raises `InvariantBroken` if a migration leaves a row that refers to no row.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Rebuilding a table drops the old one, which foreign keys forbid where other tables refer to it.
    engine = _engine(path, (*_PRAGMAS, "foreign_keys=OFF"))
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        config = Config()
        config.set_main_option("script_location", "tradepost_broker.storage:migrations")
        config.attributes["connection"] = connection
        before = _revision(connection)
        command.upgrade(config, "head")
        if _revision(connection) != before:
            dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            invariant(not dangling, f"{len(dangling)} rows refer to rows that a migration removed")
        connection.commit()
    engine.dispose()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _engine(path: Path, pragmas: tuple[str, ...]) -> Engine:
    # One connection for each engine; the committing thread borrows the writer's while nobody else uses it.
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 begins no transactions of its own
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    return engine
