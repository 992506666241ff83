"""The worker's SQLite database: ends of leases that the broker has not acknowledged, and settlements."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS lease_end (lease TEXT PRIMARY KEY, end BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settled (
    lease TEXT PRIMARY KEY, at REAL NOT NULL, verdict TEXT NOT NULL, earned_microcredits INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS lease_pipeline (lease TEXT PRIMARY KEY, pipeline TEXT NOT NULL) STRICT;
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database for writing; it and its folder are made if they are absent."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = sqlite3.connect(path, check_same_thread=False)
    database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
    return database


def read_row(path: Path, query: str, values: tuple[object, ...]) -> tuple[int, ...] | None:
    """The first row of a query; `None` if there is none, or no database."""
    return next(iter(read_rows(path, query, values)), None)


def read_rows(path: Path, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """The rows of a query, read beside a worker that may be running; none if there is no database."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(query, values).fetchall()
