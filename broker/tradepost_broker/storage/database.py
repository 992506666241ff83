"""Connections to the broker's SQLite database, and the schema's migrations.

Write-ahead logging lets readers go on while the one writer commits; `synchronous=FULL` makes a commit wait
until the disk has it. Transactions begin where SQLAlchemy begins them, not where `sqlite3` guesses.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event

from tradepost.errors import DataFolderUnusable, InvalidKey, MissingDatabase, invariant
from tradepost.identity import Identity
from tradepost_broker.storage.database_checks import (
    require_current_schema,
    require_database,
    require_known_schema,
    require_sound_pages,
    require_starts,
    typed_errors,
)

_BUSY_MS: Final = 5_000
#: A transaction that writes takes the lock first, so that it never has to give up in its middle.
BEGIN: Final = "BEGIN IMMEDIATE"
#: Has a connection wait so long for another process's lock.
WAIT: Final = f"PRAGMA busy_timeout={_BUSY_MS}"
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
    """A connection that cannot write, and sees what is committed now for as long as it is open.

    Raises `MissingDatabase`, `DatabaseTooNew`, `DatabaseDamaged` or `DatabaseUnusable` unless the database is
    sound and has this version's schema.
    """
    require_database(path)
    with typed_errors(path):
        connection = _reading_engine(path).connect()
        try:
            require_current_schema(connection, path, ScriptDirectory.from_config(_alembic()))
            require_sound_pages(connection, path)
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SELECT 1 FROM journal LIMIT 1")  # a snapshot starts at its first read
        except BaseException:
            close(connection)
            raise
    return connection


def require_own_market(path: Path, identity: Path) -> None:
    """Find out that `path` is the database of the market whose key is `identity`, or that neither exists.

    A new database beside a key would be a market without the accounts, jobs and reputations of the old one;
    with a new key, workers would refuse the market. Raises `DataFolderUnusable` without a key,
    `MissingDatabase`, `DatabaseTooNew`, `DatabaseDamaged` or `DatabaseUnusable`.
    """
    if not os.path.lexists(identity):
        if path.exists() and _has_journal(path):
            raise DataFolderUnusable(
                f"{identity} does not exist, but a market has run on {path.name} beside it",
                hint=f"Restore {identity.name} from a backup: workers refuse a broker that has another key. "
                "If it is lost, open a new market with an empty folder as --data-dir; devices join it anew.",
                path=str(identity.parent),
            )
        return
    require_identity(identity)
    try:
        require_database(path)
        with typed_errors(path), contextlib.closing(_reading_engine(path).connect()) as connection:
            if require_known_schema(connection, path, ScriptDirectory.from_config(_alembic())) is None:
                raise MissingDatabase(f"{path} has no tables", path=str(path))
            require_starts(path, connection.exec_driver_sql("SELECT count(*) FROM runs").scalar_one())
    except MissingDatabase as error:
        raise MissingDatabase(
            f"{error.detail}, but {identity.name} beside it shows that a market has run here",
            hint=f"Restore a backup, {path.name}-wal included if there is one. To open a new market, use an "
            "empty folder as --data-dir.",
            path=str(path),
        ) from None


def require_identity(path: Path) -> None:
    """Raise `DataFolderUnusable` unless the file at `path` is the private key of a broker."""
    try:
        Identity.load(path)
    except InvalidKey as error:
        raise DataFolderUnusable(
            error.detail,
            hint="Restore it from a backup: workers refuse a broker that has another key.",
            path=str(path.parent),
        ) from None


def _has_journal(path: Path) -> bool:
    """Whether anything has happened on the database at `path`, of whatever version it is."""
    with contextlib.suppress(MissingDatabase):
        require_database(path)
        with typed_errors(path), contextlib.closing(_reading_engine(path).connect()) as connection:
            if require_known_schema(connection, path, ScriptDirectory.from_config(_alembic())) is not None:
                return connection.exec_driver_sql("SELECT 1 FROM journal LIMIT 1").first() is not None
    return False


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

    Raises `DatabaseTooNew`, `DatabaseDamaged`, `DatabaseUnusable` or `DiskFull`, or `InvariantBroken` if a
    migration leaves a row that refers to no row. Nothing has changed then.
    """
    if path.exists() or path.is_symlink():
        with contextlib.suppress(MissingDatabase):  # an empty file becomes a database
            require_database(path)
    with typed_errors(path):
        # For this user alone, in a folder that others may read, too. SQLite's other files get its mode.
        with contextlib.suppress(OSError):  # it exists, or SQLite finds out why it cannot
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        _upgrade(path)


def _upgrade(path: Path) -> None:
    config = _alembic()
    # Rebuilding a table drops the old one, which foreign keys forbid where other tables refer to it.
    # What the file is is found out before the first pragma that may write into it.
    engine = _engine(path, (f"busy_timeout={_BUSY_MS}", "foreign_keys=OFF"))
    try:
        with engine.connect() as connection:
            before = require_known_schema(connection, path, ScriptDirectory.from_config(config))
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if _revision(connection) != before:
                dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                invariant(not dangling, f"{len(dangling)} rows refer to rows that a migration removed")
            connection.commit()
    finally:
        engine.dispose()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "tradepost_broker.storage:migrations")
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _reading_engine(path: Path) -> Engine:
    """For what may be no database of ours: no pragma that could write into it."""
    return _engine(path, (f"busy_timeout={_BUSY_MS}", "query_only=ON"))


def _engine(path: Path, pragmas: tuple[str, ...]) -> Engine:
    # One connection for each engine; the committing thread borrows the writer's while nobody else uses it.
    # The path is a part of its own: in the text of a URL, `?`, `#` and `%` in it would have a meaning.
    url = URL.create("sqlite", database=str(path.absolute()))
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 begins no transactions of its own
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    return engine
