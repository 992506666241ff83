"""The worker's SQLite database: ends of leases that the broker has not acknowledged, settlements, findings.

Its schema has a version, `PRAGMA user_version`. Opening it for writing runs the migrations that it lacks,
each in one transaction with the new version, so a crash leaves the version before or the version after. A
database that was written before versions were counted is version 1. `status` and `earnings` read beside a
running worker and migrate nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tradepost.atomic_files import ASIDE_PREFIX, OWNER_ONLY, sync_folder
from tradepost.errors import DatabaseDamaged, DatabaseForeign, DatabaseTooNew, DatabaseUnusable
from tradepost.file_status import why_no_file

#: The statements that lead to version 1, 2 and so on. Released ones are never edited: devices have run them.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # Version 1 was made without its number, so its tables may exist.
        "CREATE TABLE IF NOT EXISTS lease_end (lease TEXT PRIMARY KEY, end BLOB NOT NULL) STRICT",
        """CREATE TABLE IF NOT EXISTS settled (
            lease TEXT PRIMARY KEY, at REAL NOT NULL, verdict TEXT NOT NULL,
            earned_microcredits INTEGER NOT NULL, reason TEXT NOT NULL
        ) STRICT""",
        "CREATE TABLE IF NOT EXISTS lease_pipeline (lease TEXT PRIMARY KEY, pipeline TEXT NOT NULL) STRICT",
    ),
    (
        """CREATE TABLE finding (
            lease TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, stage TEXT NOT NULL,
            detail TEXT NOT NULL,
            PRIMARY KEY (lease, kind)
        ) STRICT""",
    ),
    (
        """CREATE TABLE refusal (
            pipeline TEXT PRIMARY KEY, at REAL NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL
        ) STRICT""",
    ),
)
SCHEMA_VERSION: Final = len(MIGRATIONS)
#: In a worker's database of every version.
_OLDEST_TABLE: Final = "lease_end"

#: SQLite's primary result codes (the low byte of the extended ones) for a file that is not a sound database.
_DAMAGED_CODES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_database(path: Path, *, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> sqlite3.Connection:
    """Open the database for writing, at the newest version; it and its folder are made if they are absent.

    Raises `DatabaseTooNew`, `DatabaseDamaged`, `DatabaseForeign` or `DatabaseUnusable`.
    """
    with typed_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _exists(path):
            _create(path)
        database = sqlite3.connect(path, check_same_thread=False)
        try:
            _require_known(database, path, known=len(migrations))
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            for version in range(_version(database) + 1, len(migrations) + 1):
                _migrate(database, migrations[version - 1], to=version)
        except BaseException:
            database.close()
            raise
    return database


def read_row(path: Path, query: str, values: tuple[object, ...]) -> tuple[int, ...] | None:
    """The first row of a query; `None` if there is none, or no database. Raises as `read_rows`."""
    return next(iter(read_rows(path, query, values)), None)


def read_rows(
    path: Path, query: str, values: tuple[object, ...], *, since_version: int = 0
) -> list[tuple[Any, ...]]:
    """The rows of a query, read beside a worker that may be running; none if there is no database.

    A database before `since_version`, which has what is asked for, has no rows either: the next worker to run
    upgrades it. Raises `DatabaseTooNew`, `DatabaseDamaged` or `DatabaseUnusable`.
    """
    if not _exists(path):
        return []
    with typed_errors(path), closing(_connect_to_read(path)) as database:
        _require_known(database, path, known=SCHEMA_VERSION)
        if _version(database) < since_version or not _tables(database):
            return []
        return database.execute(query, values).fetchall()


def check_database(path: Path) -> None:
    """Raise `DatabaseTooNew`, `DatabaseDamaged`, `DatabaseForeign` or `DatabaseUnusable` unless every page of
    the database is sound and its version is known. One that does not exist is sound."""
    if not _exists(path):
        return
    with typed_errors(path), closing(_connect_to_read(path)) as database:
        _require_known(database, path, known=SCHEMA_VERSION)
        found = [row[0] for row in database.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise _damaged(path, "; ".join(found))


def _exists(path: Path) -> bool:
    """Whether there is a database.

    Raises `DatabaseUnusable` for what is no file, and `DatabaseDamaged` for a file without a byte: a
    database is created complete, so what was in it has been lost.
    """
    if problem := why_no_file(path):
        raise DatabaseUnusable(problem, hint="Move it away: the database belongs there.", path=str(path))
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatabaseUnusable(f"{path}: {error.strerror}", path=str(path)) from None
    if not size_bytes:
        raise _damaged(path, "the file is empty")
    return True


def _create(path: Path) -> None:
    """Create a database with its first tables, complete or not at all."""
    aside = path.with_name(f"{ASIDE_PREFIX}{secrets.token_hex(8)}")
    try:
        with closing(sqlite3.connect(aside)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            _migrate(database, MIGRATIONS[0], to=1)
        aside.chmod(OWNER_ONLY)
        # What a database left that is not there any more, SQLite would apply to this one.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _tables(database: sqlite3.Connection) -> set[str]:
    rows = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {name for (name,) in rows}


def _require_known(database: sqlite3.Connection, path: Path, *, known: int) -> None:
    """Raise unless this is a worker's database, of a version up to `known`."""
    tables = _tables(database)
    if _OLDEST_TABLE not in tables and (tables or _version(database)):
        raise DatabaseForeign(f"{path} has no table {_OLDEST_TABLE}", path=str(path))
    if (version := _version(database)) > known:
        raise DatabaseTooNew(
            f"{path} has schema version {version}; this program supports versions up to {known}",
            hint="Upgrade this program: pip install -U 'tradepost[worker]'",
            path=str(path),
            version=version,
            known_version=known,
        )
    if version < 0:
        raise DatabaseDamaged(f"{path} has schema version {version}, which no program writes", path=str(path))


def _migrate(database: sqlite3.Connection, statements: tuple[str, ...], *, to: int) -> None:
    """One migration in one transaction; nothing changes if it fails, or another process was first."""
    database.execute("BEGIN EXCLUSIVE")
    try:
        if _version(database) < to:
            for statement in statements:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {to}")
        database.commit()
    except BaseException:
        database.rollback()
        raise


@contextmanager
def typed_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, by their codes."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED_CODES:
            raise _damaged(path, str(error)) from None
        raise DatabaseUnusable(f"{path}: {error}", path=str(path)) from None
    except OSError as error:
        raise DatabaseUnusable(f"{path}: {error.strerror}", path=str(path)) from None


def _damaged(path: Path, problem: str) -> DatabaseDamaged:
    return DatabaseDamaged(f"{path}: {problem}", path=str(path))
