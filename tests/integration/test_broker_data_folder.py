"""The broker's data folder: any name will do, what cannot be used is a typed error, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tradepost.errors import (
    DatabaseDamaged,
    DatabaseTooNew,
    DatabaseUnusable,
    DataFolderUnusable,
    Fault,
    InvalidSettings,
    MissingDatabase,
    TradepostError,
)
from tradepost_broker.app import running_broker
from tradepost_broker.cli import app
from tradepost_broker.settings import Settings
from tradepost_broker.testing import SamplePipeline, local_broker
from tradepost_signing.keys import SigningKey

DATABASE = "broker.sqlite3"
WRITE_AHEAD_LOG = "broker.sqlite3-wal"


async def run_once(folder: Path) -> str:
    """Start a broker on `folder`, give alice credits, and stop it; the broker's id."""
    async with local_broker(folder) as broker:
        await broker.account(funds=1_000_000)
        return broker.running.parts.broker.id


async def command(*arguments: str) -> str:
    """What `tradepost broker …` prints. Raises what it raises. `run` stops as soon as it answers."""
    if arguments[0] == "run":  # it waits for signals, which only the main thread may do
        async with running_broker(Settings.load(options={"data_dir": Path(arguments[-1]), "port": 0})):
            return ""
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """The data folder of a broker that ran and stopped."""
    await run_once(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["market?a", "feature%2Fx", "a#b", "50% off", "größe", "file:x?mode=memory"])
async def test_a_folder_of_any_name_holds_the_whole_market(tmp_path: Path, name: str) -> None:
    await run_once(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    with closing(sqlite3.connect(tmp_path / name / DATABASE)) as ledger:
        assert ledger.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert "1 start," in await command("verify-books", "--data-dir", str(tmp_path / name))


@pytest.mark.parametrize("arguments", [("run",), ("migrate",)])
@pytest.mark.parametrize("place", ["/proc/x", "file", "file/below"])
async def test_a_folder_that_cannot_be_made_is_a_typed_error(
    tmp_path: Path, arguments: tuple[str, ...], place: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataFolderUnusable) as caught:
        await command(*arguments, "--data-dir", str(tmp_path / place))
    assert place in caught.value.detail
    assert "--data-dir" in caught.value.hint
    with pytest.raises(TradepostError):
        await command("verify-books", "--data-dir", str(tmp_path / place))


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"not a database, but as long as one. " * 1000)


def overwrite_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def drop_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE deliveries")


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty_the_schema(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")


def forget_the_starts(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM runs")


def forget_the_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM alembic_version")


@pytest.mark.parametrize("arguments", [("run",), ("migrate",), ("verify-books",)])
@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (make_newer, DatabaseTooNew),
        (fill_with_garbage, DatabaseDamaged),
        (overwrite_pages, DatabaseDamaged),
        (drop_a_table, DatabaseDamaged),
        (make_folder, DatabaseUnusable),
        (truncate, MissingDatabase),
        (Path.unlink, MissingDatabase),
        (empty_the_schema, MissingDatabase),
        (forget_the_starts, DatabaseDamaged),
        (forget_the_version, DatabaseDamaged),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value[0],
)
async def test_a_database_that_cannot_be_used_is_a_typed_error_and_stays_as_it_is(
    folder: Path, harm: Callable[[Path], None], error: type[TradepostError], arguments: tuple[str, ...]
) -> None:
    path = folder / DATABASE
    harm(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error) as caught:
        await command(*arguments, "--data-dir", str(folder))
    assert str(path) in caught.value.detail
    assert caught.value.hint
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_an_empty_file_does_not_discard_the_write_ahead_log_beside_it(tmp_path: Path) -> None:
    """SQLite deletes the log of an empty database, and with it the only copy of what was committed."""
    async with local_broker(tmp_path / "data") as broker:
        await broker.account(funds=1_000_000)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
    log = tmp_path / "copy" / WRITE_AHEAD_LOG
    before = log.read_bytes()
    assert before
    for keep_identity in (True, False):
        if not keep_identity:
            (tmp_path / "copy" / "identity.pem").unlink()
        truncate(tmp_path / "copy" / DATABASE)
        with pytest.raises(TradepostError):
            await command("run", "--data-dir", str(tmp_path / "copy"))
        assert log.read_bytes() == before


async def test_a_copy_without_its_write_ahead_log_is_not_accepted(tmp_path: Path) -> None:
    async with local_broker(tmp_path / "data") as broker:
        await broker.account(funds=1_000_000)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "copy" / WRITE_AHEAD_LOG).unlink()
    (tmp_path / "copy" / "broker.sqlite3-shm").unlink()
    for arguments in (("verify-books",), ("run",)):
        with pytest.raises((DatabaseDamaged, MissingDatabase)) as caught:
            await command(*arguments, "--data-dir", str(tmp_path / "copy"))
        assert "broker.sqlite3-wal" in caught.value.detail + caught.value.hint


async def test_a_market_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    first = await run_once(tmp_path / "data")
    assert await run_once(tmp_path / "data") == first
    assert "2 starts" in await command("verify-books", "--data-dir", str(tmp_path / "data"))


async def test_a_damaged_identity_says_what_to_restore(folder: Path) -> None:
    (folder / "identity.pem").write_text("damaged")
    with pytest.raises(
        DataFolderUnusable, match=r"identity\.pem is not an unencrypted private key"
    ) as caught:
        await command("run", "--data-dir", str(folder))
    assert "backup" in caught.value.hint


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    for name in ("cert.pem", "absent.pem"):
        path = tmp_path / name
        settings = Settings(data_dir=tmp_path / "data", port=0, tls_cert=path, tls_key=path)
        with pytest.raises(InvalidSettings, match=name) as caught:
            async with running_broker(settings):
                pass
        assert not any(word in caught.value.detail for word in ("Errno", "_ssl"))


def test_a_home_folder_that_does_not_exist_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text("")
    for variables in ({}, {"TRADEPOST_BROKER_CONFIG": str(tmp_path / "broker.toml")}):
        with pytest.raises(InvalidSettings, match="nobody-has-this-name"):
            Settings.load(environment=variables, options={"data_dir": "~nobody-has-this-name/x"})


def test_an_empty_variable_is_not_given_and_an_empty_option_is_an_error() -> None:
    """Else the folder would be the one that the command happens to run in."""
    usual = Settings.load(environment={}).data_dir
    assert Settings.load(environment={"TRADEPOST_BROKER_DATA_DIR": ""}).data_dir == usual
    with pytest.raises(InvalidSettings, match="data_dir must be a path, not empty"):
        Settings.load(environment={}, options={"data_dir": ""})


def empty(path: Path) -> None:
    path.write_bytes(b"")


def destroy(path: Path) -> None:
    path.write_bytes(b"\xa5\x00 what a failing disk returns \n" * 64)


def of_another_program(path: Path) -> None:
    path.write_text('{"version": 3}\n' if path.suffix == ".json" else "[tool]\nline = 3\n")


def folder_in_place(path: Path) -> None:
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "a disk that is not mounted" / path.name)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


#: What each start writes anew, whatever it holds.
WRITTEN = ("url", "lock")


@pytest.mark.parametrize(
    "harm", [empty, destroy, of_another_program, folder_in_place, link_to_nothing, link_to_itself]
)
@pytest.mark.parametrize(
    "name", ["identity.pem", "operator.token", "broker.toml", "revocations.json", "blocks", *WRITTEN]
)
async def test_a_harmed_file_of_the_data_folder_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: Callable[[Path], None]
) -> None:
    (tmp_path / "operator.pub").write_bytes(SigningKey.generate().public_key.pem)
    monkeypatch.setenv("TRADEPOST_BROKER_REVOCATIONS_KEY", str(tmp_path / "operator.pub"))
    path = folder / name
    if name == "blocks":
        path.rename(tmp_path / "away")
    path.unlink(missing_ok=True)
    harm(path)
    if (
        (name in WRITTEN and path.is_file())
        or (name == "blocks" and path.is_dir())
        or (name == "broker.toml" and harm is empty)
    ):
        await command("run", "--data-dir", str(folder))
        return
    with pytest.raises(TradepostError) as caught:
        await command("run", "--data-dir", str(folder))
    assert str(path) in caught.value.detail
    assert caught.value.fault is Fault.OPERATOR
    assert caught.value.hint
    assert "keygen" not in caught.value.hint
    assert path.exists() or path.is_symlink(), "it is left as it was"


async def test_a_market_without_its_key_does_not_get_another_one(folder: Path) -> None:
    """Receipts and grants would be signed by a stranger, and no worker would connect."""
    (folder / "identity.pem").unlink()
    for arguments in (("run",), ("migrate",)):
        with pytest.raises(DataFolderUnusable, match=r"identity\.pem does not exist") as caught:
            await command(*arguments, "--data-dir", str(folder))
        assert "Restore identity.pem" in caught.value.hint
        assert not (folder / "identity.pem").exists()


async def test_a_first_start_that_was_cut_off_before_its_key_starts_again(folder: Path) -> None:
    """The key is made after the start is recorded, and before anything happens."""
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        logged = ("log_entries", "log_nodes", "log_edge", "checkpoints")
        for table in ("transfers", "api_keys", "accounts", "journal", *logged):
            database.execute(f"DELETE FROM {table}")
    (folder / "identity.pem").unlink()
    assert await run_once(folder)


async def test_a_restore_without_the_policy_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "broker.toml").write_text("[market]\nhold_s = 5\n")
    await command("run", "--data-dir", str(folder))
    (folder / "broker.toml").unlink()
    caplog.clear()
    await command("run", "--data-dir", str(folder))
    assert "hold_s from 5.0 to 600.0" in caplog.text
    caplog.clear()
    await command("run", "--data-dir", str(folder))
    assert "hold_s" not in caplog.text


async def test_documents_are_private_in_a_folder_that_others_may_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    await run_once(folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert (modes[DATABASE], modes["blocks"]) == (0o600, 0o700)
    assert "Other users" not in caplog.text
    (folder / DATABASE).chmod(0o644)
    (folder / "blocks").chmod(0o755)
    await run_once(folder)
    assert f"Other users of this machine may read blocks and {DATABASE} in {folder}" in caplog.text
    caplog.clear()
    folder.chmod(0o700)
    await run_once(folder)
    assert "Other users" not in caplog.text


async def test_a_restore_without_blocks_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = SamplePipeline()
    async with local_broker(tmp_path / "data") as broker:
        await broker.publish(await broker.account(), pipeline)
    shutil.rmtree(tmp_path / "data" / "blocks")
    await command("run", "--data-dir", str(tmp_path / "data"))
    # The manifest is in the database.
    assert f"{len(pipeline.blocks())} of the blocks of published pipelines are missing" in caplog.text


async def test_a_start_with_every_block_logs_no_missing_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = SamplePipeline()
    async with local_broker(tmp_path / "data") as broker:
        await broker.publish(await broker.account(), pipeline)
    async with local_broker(tmp_path / "data") as broker:
        assert await broker.call("GET", f"/ipfs/{pipeline.cid}?format=raw")
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
