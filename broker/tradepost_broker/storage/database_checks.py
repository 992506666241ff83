"""Finds out whether a database may be used, before anything in it changes, and types SQLite's errors.

A file that is empty, or that lacks what its market has recorded, must not be taken for a new market: the
accounts of the old one would be gone without a word.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from tradepost.errors import DatabaseDamaged, DatabaseTooNew, DatabaseUnusable, DiskFull, MissingDatabase
from tradepost_broker.storage.tables import metadata

RESTORE: Final = (
    "Keep the damaged file, put a backup in its place while no broker runs, and check it with "
    "`tradepost broker verify-books`."
)
#: What is left on a disk when a write that failed is taken for one that found no room.
_FREE_BYTES_MIN: Final = 1 << 20

#: SQLite's primary result codes, the low byte of the extended ones.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_UNUSABLE: Final = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_PROTOCOL,
)


@contextmanager
def typed_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file at `path` into ours, by their codes. Others are defects, and stay.

    Raises `DatabaseDamaged`, `DatabaseUnusable` or `DiskFull`.
    """
    try:
        yield
    except DBAPIError as error:
        _raise_typed(path, error.orig, error)
    except sqlite3.Error as error:
        _raise_typed(path, error, error)


def _raise_typed(path: Path, error: BaseException | None, wrapped: Exception) -> NoReturn:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_disk_full(error, path):
        raise disk_full(path.parent, str(error)) from wrapped
    if code in _DAMAGED:
        raise DatabaseDamaged(f"{path}: {error}", hint=RESTORE, path=str(path)) from wrapped
    if code in (*_UNUSABLE, sqlite3.SQLITE_IOERR):
        raise DatabaseUnusable(f"{path}: {error}", path=str(path)) from wrapped
    raise wrapped


def is_disk_full(error: BaseException | None, path: Path) -> bool:
    """Whether SQLite's `error` about the database at `path` is for want of room on its disk."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_IOERR:
        return shutil.disk_usage(path.parent).free < _FREE_BYTES_MIN
    return code == sqlite3.SQLITE_FULL


def disk_full(folder: Path, problem: str) -> DiskFull:
    """The error of a broker that stops since its disk is full."""
    return DiskFull(
        f"{folder}: {problem}",
        hint=f"Free space on the disk of {folder}, or move the folder to a larger disk, then start the "
        "broker again. Nothing that it acknowledged is lost.",
        path=str(folder),
    )


def require_database(path: Path) -> None:
    """Raise `MissingDatabase` unless there is a file with content at `path`, `DatabaseUnusable` if it is no
    file, or `DatabaseDamaged` for an empty file beside a log that has content."""
    try:
        is_file, size_bytes = path.is_file(), path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise MissingDatabase(f"{path} does not exist", path=str(path)) from None
    except OSError as error:
        raise DatabaseUnusable(f"{path}: {error.strerror}", path=str(path)) from None
    if not is_file:
        raise DatabaseUnusable(
            f"{path} is not a file", hint="Move it away, or set another --data-dir.", path=str(path)
        )
    if not size_bytes:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            # SQLite would delete the log, the only copy of what it holds.
            raise DatabaseDamaged(f"{path} is empty, but {log.name} is not", hint=RESTORE, path=str(path))
        raise MissingDatabase(f"{path} is empty", path=str(path))


def require_starts(path: Path, starts: int) -> None:
    """Raise `DatabaseDamaged` unless a broker has started on this database."""
    if not starts:
        raise DatabaseDamaged(
            f"{path} records no start of a broker: it is new, or was copied without {path.name}-wal",
            hint=f"Restore a backup that `sqlite3 {path.name} '.backup FILE'` made, or copy the whole data "
            f"folder, {path.name}-wal included, while no broker runs.",
            path=str(path),
        )


def require_known_schema(connection: Connection, path: Path, scripts: ScriptDirectory) -> str | None:
    """The revision of the database; `None` if it has no tables.

    Raises `DatabaseTooNew`, or `DatabaseDamaged` where tables are missing.
    """
    revision = MigrationContext.configure(connection).get_current_revision()
    tables = set(inspect(connection).get_table_names())
    if revision is None:
        if tables:
            raise DatabaseDamaged(f"{path} has tables, but no schema version", hint=RESTORE, path=str(path))
        return None
    newest = scripts.get_current_head()
    try:
        scripts.get_revision(revision)
    except CommandError:
        raise DatabaseTooNew(
            f"{path} has schema version {revision}; this program supports versions up to {newest}",
            hint="Upgrade: pip install -U 'tradepost[broker]'",
            path=str(path),
            version=revision,
            known_version=newest,
        ) from None
    if revision == newest and (missing := sorted(metadata.tables.keys() - tables)):
        raise DatabaseDamaged(f"{path} lacks the table {missing[0]}", hint=RESTORE, path=str(path))
    return revision


def require_current_schema(connection: Connection, path: Path, scripts: ScriptDirectory) -> None:
    """Raise as `require_known_schema`, and unless the database has this program's schema."""
    revision, newest = require_known_schema(connection, path, scripts), scripts.get_current_head()
    if revision is None:
        raise MissingDatabase(f"{path} has no tables", path=str(path))
    if revision != newest:
        raise DatabaseUnusable(
            f"{path} has schema version {revision}; this program's is {newest}",
            hint="Upgrade the database with `tradepost broker migrate`.",
            path=str(path),
        )


def require_sound_pages(connection: Connection, path: Path) -> None:
    """Raise `DatabaseDamaged` if SQLite finds a page that does not fit the others. Reads the whole file."""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise DatabaseDamaged(f"{path}: {'; '.join(found)}", hint=RESTORE, path=str(path))
