"""The migrations lead to exactly the schema that `tables` declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, Integer, create_engine, text

from tradepost.errors import InvariantBroken
from tradepost_broker.storage import database
from tradepost_broker.storage.tables import metadata

VERSION_TABLE = "alembic_version"


def schema_of(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    # SQLite writes the name of a table that was rebuilt in quotes.
    return {name: " ".join(sql.replace('"', "").split()) for name, sql in rows if name != VERSION_TABLE}


def test_a_migrated_schema_equals_a_fresh_one(tmp_path: Path) -> None:
    database.migrate(tmp_path / "migrated.sqlite3")
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.sqlite3'}")
    fresh = create_engine("sqlite://")
    with migrated.connect() as left, fresh.connect() as right:
        metadata.create_all(right)
        assert schema_of(left) == schema_of(right)
        assert compare_metadata(MigrationContext.configure(left), metadata) == []
    migrated.dispose()
    fresh.dispose()


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite3"
    database.migrate(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        before = schema_of(connection)
    database.migrate(path)
    with engine.connect() as connection:
        assert schema_of(connection) == before
    engine.dispose()


def test_the_database_is_as_durable_as_promised(tmp_path: Path) -> None:
    writer = database.open_writer(tmp_path / "broker.sqlite3")
    pragmas = {
        name: writer.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close(writer)


def _migrate_with(upgrade: Callable[[Operations], None], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate the database at `path` by `upgrade` alone, as the newest revision."""

    def run(config: Config, revision: str) -> None:
        context = MigrationContext.configure(config.attributes["connection"])
        upgrade(Operations(context))
        config.attributes["connection"].execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'next'"))

    with monkeypatch.context() as patch:
        patch.setattr(database.command, "upgrade", run)
        database.migrate(path)


def _rows(path: Path, query: str) -> list[Any]:
    reader = database.open_reader(path)
    rows = [tuple(row) for row in reader.exec_driver_sql(query)]
    database.close(reader)
    return rows


@pytest.fixture
def with_publication(tmp_path: Path) -> Path:
    """A database in which one row refers to another."""
    path = tmp_path / "broker.sqlite3"
    writer = database.open_writer(path)
    writer.exec_driver_sql("INSERT INTO pipelines (id, name, publisher, body) VALUES ('p', 'n', 'k', x'00')")
    writer.exec_driver_sql("INSERT INTO publications (id, account, body) VALUES ('p', 'alice', x'00')")
    writer.commit()
    database.close(writer)
    return path


def test_a_migration_can_rebuild_a_table_that_others_refer_to(
    with_publication: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuild(op: Operations) -> None:
        with op.batch_alter_table("pipelines", recreate="always") as pipelines:
            pipelines.add_column(Column("size_bytes", Integer(), nullable=True))

    _migrate_with(rebuild, with_publication, monkeypatch)
    assert _rows(with_publication, "SELECT id, size_bytes FROM pipelines") == [("p", None)]
    assert _rows(with_publication, "SELECT id, account FROM publications") == [("p", "alice")]


def test_a_migration_that_leaves_a_row_without_its_parent_changes_nothing(
    with_publication: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvariantBroken, match="1 rows refer"):
        _migrate_with(lambda op: op.execute("DELETE FROM pipelines"), with_publication, monkeypatch)
    assert _rows(with_publication, "SELECT id FROM pipelines") == [("p",)]
