"""The migrations lead to exactly the schema that `tables` declares."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from tradepost_broker.storage import database
from tradepost_broker.storage.tables import metadata

VERSION_TABLE = "alembic_version"


def schema_of(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {name: " ".join(sql.split()) for name, sql in rows if name != VERSION_TABLE}


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
