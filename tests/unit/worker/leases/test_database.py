"""A worker's database: old ones are upgraded, newer and damaged ones refused by name, nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tradepost.atomic_files import ASIDE_PREFIX
from tradepost.errors import (
    DatabaseDamaged,
    DatabaseForeign,
    DatabaseTooNew,
    DatabaseUnusable,
    RunnerFailed,
    TradepostError,
)
from tradepost_worker.commands.health_checks import Health
from tradepost_worker.commands.state_checks import examine_database
from tradepost_worker.commands.status import read_status
from tradepost_worker.commands.uninstall import check_nothing_lost
from tradepost_worker.leases.database import (
    MIGRATIONS,
    SCHEMA_VERSION,
    check_database,
    open_database,
    read_rows,
)
from tradepost_worker.leases.earnings import read_earnings, read_earnings_by_pipeline
from tradepost_worker.leases.findings import read_findings
from tradepost_worker.leases.lease_executor import give_back
from tradepost_worker.leases.outbox import Outbox, read_pending
from tradepost_worker.settings import load_settings
from tradepost_worker.state import StateFolder

#: What a worker ran before its databases had a version.
UNVERSIONED = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS lease_end (lease TEXT PRIMARY KEY, end BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settled (
    lease TEXT PRIMARY KEY, at REAL NOT NULL, verdict TEXT NOT NULL, earned_microcredits INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS lease_pipeline (lease TEXT PRIMARY KEY, pipeline TEXT NOT NULL) STRICT;
"""
END = give_back("l1", RunnerFailed("x"))
TABLES = ["finding", "lease_end", "lease_pipeline", "refusal", "settled"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker.sqlite"


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        return version


def schema_of(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        return [f"{name}: {' '.join(sql.split())}" for name, sql in rows]


def write_unversioned(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(UNVERSIONED)
        database.execute("INSERT INTO lease_end VALUES ('l1', ?)", (msgspec.msgpack.encode(END),))
        database.execute("INSERT INTO settled VALUES ('l0', 1000.0, 'accepted', 42, 'checked')")
        database.execute("INSERT INTO lease_pipeline VALUES ('l0', 'bafy')")
        database.commit()


def make_newer(path: Path) -> None:
    Outbox(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 500)


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
        database.execute("PRAGMA user_version = 1")


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "a disk that is not mounted" / "worker.sqlite")


def overwrite_pages(path: Path) -> None:
    write_unversioned(path)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


def test_a_database_of_before_versions_keeps_what_it_has(path: Path) -> None:
    write_unversioned(path)
    assert (read_pending(path), read_earnings(path).earned_microcredits) == (1, 42), "read before the upgrade"
    assert version_of(path) == 0
    outbox = Outbox(path)
    assert outbox.pending() == [END]
    outbox.close()
    assert version_of(path) == SCHEMA_VERSION
    assert read_earnings(path).earned_microcredits == 42
    assert [row.of for row in read_earnings_by_pipeline(path)] == ["bafy"]


def test_an_upgraded_schema_equals_a_fresh_one(path: Path, tmp_path: Path) -> None:
    write_unversioned(path)
    for one in (path, fresh := tmp_path / "fresh" / "worker.sqlite"):
        open_database(one).close()
    assert schema_of(path) == schema_of(fresh)
    assert [line.partition(":")[0] for line in schema_of(fresh)] == TABLES


def test_opening_again_changes_nothing(path: Path) -> None:
    open_database(path).close()
    before = schema_of(path)
    open_database(path).close()
    assert (schema_of(path), version_of(path)) == (before, SCHEMA_VERSION)


def test_a_migration_that_fails_leaves_the_version_before(path: Path) -> None:
    write_unversioned(path)
    broken = (*MIGRATIONS, ("ALTER TABLE settled ADD COLUMN note TEXT", "ALTER TABLE nothing ADD COLUMN x"))
    with pytest.raises(DatabaseUnusable, match="nothing"):
        open_database(path, migrations=broken)
    assert version_of(path) == len(MIGRATIONS)
    assert not any("note" in line for line in schema_of(path))
    whole = (*MIGRATIONS, ("ALTER TABLE settled ADD COLUMN note TEXT",))
    with closing(open_database(path, migrations=whole)) as database:
        assert database.execute("SELECT lease, note FROM settled").fetchall() == [("l0", None)]
    assert version_of(path) == len(whole)


def test_a_version_that_no_program_writes_is_damage(path: Path) -> None:
    open_database(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=-3")
    with pytest.raises(DatabaseDamaged, match="schema version -3"):
        open_database(path)


def test_a_newer_database_names_the_file_and_both_versions(path: Path) -> None:
    make_newer(path)
    with pytest.raises(DatabaseTooNew) as caught:
        open_database(path)
    error = caught.value
    assert str(path) in error.detail
    assert f"version {SCHEMA_VERSION + 1}" in error.detail
    assert f"up to {SCHEMA_VERSION}" in error.detail
    assert "pip install -U" in error.hint
    assert error.facts == {
        "path": str(path),
        "version": SCHEMA_VERSION + 1,
        "known_version": SCHEMA_VERSION,
    }
    assert version_of(path) == SCHEMA_VERSION + 1, "it is as it was"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (make_newer, DatabaseTooNew),
        (fill_with_garbage, DatabaseDamaged),
        (overwrite_pages, DatabaseDamaged),
        (Path.mkdir, DatabaseUnusable),
        (Path.touch, DatabaseDamaged),
        (make_foreign, DatabaseForeign),
        (link_to_nothing, DatabaseUnusable),
    ],
)
def test_every_command_that_reads_it_fails_with_a_typed_error(
    tmp_path: Path, spoil: Callable[[Path], None], kind: type[TradepostError]
) -> None:
    settings = load_settings({"state_dir": tmp_path}, {})
    state = StateFolder(tmp_path)
    spoil(state.database)
    with pytest.raises(kind, match=r"worker\.sqlite"):
        Outbox(state.database)  # as `run` opens it
    with pytest.raises(kind, match=r"worker\.sqlite"):
        read_status(settings)
    with pytest.raises(kind, match=r"worker\.sqlite"):
        read_earnings_by_pipeline(state.database)
    with pytest.raises(kind, match=r"worker\.sqlite"):
        check_nothing_lost(state, discard=False)
    check_nothing_lost(state, discard=True)  # so that such a worker can be uninstalled
    check = examine_database(state.database)
    assert check.health is Health.BROKEN
    assert "worker.sqlite" in check.says
    assert check.fix


def test_an_end_of_a_lease_that_cannot_be_decoded_is_damage(path: Path) -> None:
    write_unversioned(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE lease_end SET end = x'ff'")
        database.commit()
    with pytest.raises(DatabaseDamaged, match="unreadable"):
        Outbox(path)


def test_a_database_that_is_absent_has_no_rows(path: Path) -> None:
    check_database(path)
    assert read_rows(path, "SELECT * FROM settled", ()) == []
    assert examine_database(path).health is Health.OK
    assert not path.exists()


def test_a_database_before_a_table_has_no_rows_of_it(path: Path) -> None:
    write_unversioned(path)
    assert read_findings(path) == []


def test_a_database_is_created_complete_and_apart_from_what_another_left(path: Path) -> None:
    """A log without its database would be applied to the new one."""
    outbox = Outbox(path)
    left = path.with_name("worker.sqlite-wal").read_bytes()
    outbox.close()
    path.unlink()
    path.with_name("worker.sqlite-wal").write_bytes(left)
    open_database(path).close()
    check_database(path)
    assert not list(path.parent.glob(f"{ASIDE_PREFIX}*"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_foreign_database_is_left_as_it_is(path: Path) -> None:
    make_foreign(path)
    before = path.read_bytes()
    with pytest.raises(DatabaseForeign):
        open_database(path)
    assert path.read_bytes() == before


async def test_a_full_disk_is_a_typed_error(path: Path) -> None:
    outbox = Outbox(path)
    pages = outbox._database.execute("PRAGMA page_count").fetchone()[0]
    outbox._database.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(500):
        outbox.add(give_back(f"l{number}", RunnerFailed("x" * 500)))
    with pytest.raises(DatabaseUnusable, match="full"):
        await outbox.flush()
    outbox.close()
