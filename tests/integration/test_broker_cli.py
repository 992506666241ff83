"""The operator's commands, against a broker that runs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result
from yarl import URL

from tradepost.errors import (
    BrokerUnavailable,
    CannotListen,
    DatabaseDamaged,
    DataFolderInUse,
    Fault,
    InvalidCommandLine,
    InvalidOperatorToken,
    InvalidRequest,
    InvalidSettings,
    MissingDatabase,
    TransferConflict,
    UnknownJob,
)
from tradepost_broker.app import running_broker
from tradepost_broker.cli import app
from tradepost_broker.settings import MARKET, Settings
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path / "data") as broker:
        yield broker


async def command(tmp_path: Path, *arguments: str) -> Result:
    """`tradepost broker …` on the data folder, in a thread, as it runs a loop of its own."""
    result = await asyncio.to_thread(
        CliRunner().invoke, app, [*arguments, "--data-dir", str(tmp_path / "data")]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def as_json(tmp_path: Path, *arguments: str) -> Any:
    return json.loads((await command(tmp_path, *arguments, "--json")).stdout)


async def test_an_account_from_nothing_to_a_paid_job(broker: LocalBroker, tmp_path: Path) -> None:
    made = await as_json(tmp_path, "account", "create", "alice", "--credits", "1.5")
    assert made["available_microcredits"] == 1_500_000
    funded = await as_json(tmp_path, "fund", "alice", "0.25", "--transfer", "t")
    assert funded["available_microcredits"] == 1_750_000
    key = made["api_key"]
    pipeline = await broker.publish(key)
    issued = await as_json(tmp_path, "token", "--owner", "bob", "--stake", "2")
    assert issued["token"].endswith(f".{broker.running.parts.broker.id}")
    worker = await broker.worker("bob", serve=True)
    job = (await broker.submit(key, pipeline)).job
    view = await broker.result(key, job)

    (listed,) = await as_json(tmp_path, "workers")
    assert (listed["owner"], listed["held_microcredits"]) == ("bob", view.price_microcredits)
    (summary,) = await as_json(tmp_path, "jobs")
    assert (summary["job"], summary["status"]) == (job, "accepted")
    explained = await as_json(tmp_path, "explain", job)
    assert [lease["worker"] for lease in explained["leases"]] == [worker.id]
    assert explained["leases"][0]["sole_bidder"] is True
    for arguments in (("workers",), ("jobs",), ("explain", job)):
        assert (await command(tmp_path, *arguments)).stdout.strip()
    told = (await command(tmp_path, "explain", job)).stdout
    assert "the sole bidder: no other offer competed" in told
    await worker.disconnect()


async def test_an_explanation_names_the_worker_of_each_finding(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    workers = [await broker.worker(name, serve=True) for name in ("ann", "bob", "cid", "dan")]
    job = (await broker.submit(key, await broker.publish(key), confidence=0.9)).job
    await broker.result(key, job)
    told = (await command(tmp_path, "explain", job)).stdout
    found = {line for line in told.splitlines() if line.startswith("found: ")}
    assert len(found) > 1
    assert found <= {f"found: agreed, worker {worker.id[:12]}" for worker in workers}
    for worker in workers:
        await worker.disconnect()


async def test_names_are_shown_as_workers_gave_them(broker: LocalBroker, tmp_path: Path) -> None:
    worker = FakeWorker(broker.session, broker.url)
    await worker.join(await broker.token("bob"), device="[/b]")
    assert "[/b]" in (await command(tmp_path, "workers")).stdout


async def test_the_books_verify_while_the_broker_runs(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    worker = await broker.worker(serve=True)
    await broker.result(key, (await broker.submit(key, await broker.publish(key))).job)
    report = await as_json(tmp_path, "verify-books")
    assert report["differences"] == []
    assert (report["compared"]["job"], report["compared"]["lease"], report["starts"]) == (1, 1, 1)
    assert report["events"] >= 7
    people = (await command(tmp_path, "verify-books")).stdout
    assert "replayed to the same records" in people
    await worker.disconnect()


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE accounts SET available = available + 1 WHERE id = 'credits:alice'",
        "UPDATE transfers SET amount = amount - 1",
        "DELETE FROM journal WHERE kind = 'funded'",
        "UPDATE workers SET standing = 'expelled'",
        "INSERT INTO transfers SELECT 'x', debit, credit, amount, kind, at, '', '' FROM transfers LIMIT 1",
        "DELETE FROM workers",
        "INSERT INTO api_keys VALUES ('k', 'mallory', 1.0)",
        "UPDATE api_keys SET account = 'mallory'",
        "UPDATE join_tokens SET stake = stake + 1",
    ],
)
async def test_books_that_were_tampered_with_do_not_verify(tmp_path: Path, tampering: str) -> None:
    async with local_broker(tmp_path / "data") as broker:
        await broker.account()
        await broker.worker(connect=False)
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'broker.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text(tampering))
    engine.dispose()
    with pytest.raises(DatabaseDamaged, match="the ledger and the records differ"):
        await command(tmp_path, "verify-books")


async def test_refusals_are_typed(broker: LocalBroker, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no account nobody"):
        await command(tmp_path, "fund", "nobody", "1")
    for job in ("nope", "../../healthz", "..", "a/b?c=d#e", "%2e%2e", "größe"):
        with pytest.raises(UnknownJob, match=re.escape(job)) as caught:
            await command(tmp_path, "explain", job)
        assert "`tradepost broker jobs`" in caught.value.hint
    with pytest.raises(InvalidRequest, match="empty"):
        await command(tmp_path, "explain", "")


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (("account", "create", "alice", "--credits", "0.0000001"), "at most 6 decimal places"),
        (
            ("account", "create", "Not A Name"),
            "'Not A Name': the account's name does not have the right form",
        ),
        (("account", "create", ""), "use lower-case letters, digits"),
        (("fund", "alice", "0"), "0 credits: give more than 0"),
        (("fund", "alice", "nan"), "the amount is 'nan'; it must be a number of credits"),
        (("fund", "ALICE", "1"), "the account's name"),
        (("token", "--ttl", "0"), "--ttl is 0 seconds"),
        (("token", "--owner", ""), "the owner's name"),
    ],
)
async def test_arguments_are_checked_in_plain_words(
    tmp_path: Path, arguments: tuple[str, ...], detail: str
) -> None:
    """Also without a broker: the command line is wrong wherever it would be sent."""
    with pytest.raises(InvalidCommandLine) as caught:
        await command(tmp_path, *arguments)
    assert detail in caught.value.detail
    assert caught.value.fault is Fault.OPERATOR


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e999", "٣"])
async def test_seconds_are_plain_finite_numbers(tmp_path: Path, seconds: str) -> None:
    refused = await command(tmp_path, "token", "--ttl", seconds)
    assert refused.exit_code == 2
    assert "it must be a number at least 0" in " ".join(refused.stderr.split())


async def test_a_transfer_id_that_is_used_again_says_what_it_did(broker: LocalBroker, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        await command(tmp_path, "account", "create", name)
    for _ in range(2):
        funded = await as_json(tmp_path, "fund", "alice", "0.25", "--transfer", "invoice-17")
        assert funded["available_microcredits"] == 250_000
    for arguments in (("alice", "0.5"), ("bob", "0.25")):
        with pytest.raises(TransferConflict, match=r"invoice-17 gave alice 0\.25 credits") as caught:
            await command(tmp_path, "fund", *arguments, "--transfer", "invoice-17")
        assert "--transfer" in caught.value.hint


async def test_a_table_that_is_none_in_the_settings_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broker.toml").write_text("market = 3\n")
    for options in ({}, {MARKET: {"hold_s": None}}, {MARKET: {"hold_s": 3.0}}):
        with pytest.raises(InvalidSettings, match=r"market (must be|is) a table"):
            Settings.load(options={"data_dir": tmp_path / "data", **options})


async def test_without_a_broker_the_commands_say_so(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable):
        await command(tmp_path, "workers")
    with pytest.raises(MissingDatabase, match=r"broker\.sqlite3"):
        await command(tmp_path, "verify-books")
    async with local_broker(tmp_path / "data"):
        pass
    with pytest.raises(BrokerUnavailable):
        await command(tmp_path, "workers")


async def test_migrate_makes_the_database(tmp_path: Path) -> None:
    assert (await command(tmp_path, "migrate")).exit_code == 0
    assert (tmp_path / "data" / "broker.sqlite3").exists()


async def test_two_brokers_cannot_share_a_folder(broker: LocalBroker, tmp_path: Path) -> None:
    with pytest.raises(DataFolderInUse, match="another broker"):
        async with local_broker(tmp_path / "data"):
            pass


async def test_a_damaged_operator_token_is_named(tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("short\n")
    with pytest.raises(InvalidOperatorToken, match=r"operator\.token"):
        async with local_broker(tmp_path):
            pass


async def test_a_port_that_is_taken_is_named(broker: LocalBroker, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "other", port=broker.running.port)
    with pytest.raises(CannotListen, match=str(broker.running.port)):
        async with running_broker(settings):
            pass


async def test_secrets_are_readable_by_the_operator_only(broker: LocalBroker, tmp_path: Path) -> None:
    for name in ("operator.token", "identity.pem"):
        assert (tmp_path / "data" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


async def test_the_commands_reach_a_broker_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issued = trustme.CA().issue_cert("market.example.org")
    certificate, private_key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for pem in issued.cert_chain_pems:
        pem.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(private_key)
    config = tmp_path / "data" / "broker.toml"
    config.parent.mkdir()
    config.write_text(f'host = "0.0.0.0"\nport = 0\ntls_cert = "{certificate}"\ntls_key = "{private_key}"\n')
    async with running_broker(Settings.load(options={"data_dir": tmp_path / "data"})) as running:
        assert running.url.startswith("https://127.0.0.1:")
        made = await as_json(tmp_path, "account", "create", "alice")
        assert made["account"] == "alice"
    monkeypatch.setattr("tradepost_broker.web.connections._TLS_HANDSHAKE_S", 0.05)
    async with running_broker(Settings.load(options={"data_dir": tmp_path / "data"})) as running:
        port = URL(running.url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(180):
            assert await reader.read() == b"", "who never begins the handshake holds a descriptor"
        writer.close()
