"""A receipt proves that the broker logged it, and whatever is changed in the database is noticed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tradepost.audit_log.checkpoint import Checkpoint, verifier_key, verify_checkpoint
from tradepost.audit_log.merkle import leaf_hash, root_of
from tradepost.audit_log.proofs import LogProof, verify_proof
from tradepost.audit_log.tiles import TILE_WIDTH, Tile, tile_path
from tradepost.cli import app
from tradepost.errors import (
    DatabaseDamaged,
    Fault,
    InvalidJoinToken,
    InvalidKeptCheckpoint,
    InvalidRequest,
    NotInLog,
    UnknownJob,
)
from tradepost.identity import Identity
from tradepost.protocol import Grant, JobStatus, JobView
from tradepost_broker.storage.database_checks import RESTORE
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker
from tradepost_worker.testing.lent_device import until

#: No checkpoint is published while a test runs, unless it does so itself.
NEVER_S = 3600.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path / "data", checkpoint_s=NEVER_S) as broker:
        yield broker


async def publish(broker: LocalBroker) -> None:
    await broker.running.parts.checkpoints.publish()


async def finished(broker: LocalBroker, key: str) -> JobView:
    """A job with a result."""
    worker = await broker.worker(f"owner{len(broker.running.parts.market.workers())}", serve=True)
    view = await broker.result(key, (await broker.submit(key, await broker.publish(key))).job)
    assert view.status is JobStatus.ACCEPTED
    await worker.disconnect()
    return view


async def checkpoint_of(broker: LocalBroker) -> Checkpoint:
    note = (await broker.call("GET", "/v1/log/checkpoint")).decode()
    return verify_checkpoint(note, broker.running.parts.broker.public_key)


async def test_a_receipt_is_in_the_log_of_its_broker(broker: LocalBroker) -> None:
    key = await broker.account()
    kept = (await broker.call("GET", "/v1/log/checkpoint")).decode()
    since = (await checkpoint_of(broker)).size
    view = await finished(broker, key)
    path = f"/v1/jobs/{view.job}/proof?since={since}"
    with pytest.raises(NotInLog, match="no published checkpoint covers"):
        await broker.call("GET", path, key=key)
    await publish(broker)
    proof: LogProof = await broker.call("GET", path, key=key, reply=LogProof)
    [found] = verify_proof(proof, view.receipts, kept=kept)
    assert found.receipt.job == view.job
    assert since <= found.index < found.checkpoint.size
    assert found.checkpoint == await checkpoint_of(broker)
    assert found.checkpoint.broker == broker.running.parts.broker.id


async def test_a_proof_can_be_waited_for(broker: LocalBroker) -> None:
    key = await broker.account()
    view = await finished(broker, key)
    asked = asyncio.create_task(
        broker.call("GET", f"/v1/jobs/{view.job}/proof?wait_s=60", key=key, reply=LogProof)
    )
    endpoints = [one for one in broker.running.parts.endpoints if one.path == "/v1/jobs/{job}/proof"]
    waits = endpoints[0].handler.__self__._waits  # type: ignore[attr-defined]
    await until(lambda: waits.taken > 0)
    await publish(broker)
    verify_proof(await asked, view.receipts)


async def test_checkpoints_are_published_by_and_by(tmp_path: Path) -> None:
    async with local_broker(tmp_path, checkpoint_s=0.01) as broker:
        key = await broker.account()
        view = await finished(broker, key)
        proof = await broker.call("GET", f"/v1/jobs/{view.job}/proof?wait_s=60", key=key, reply=LogProof)
        verify_proof(proof, view.receipts)


async def test_a_job_without_receipts_has_no_proof(broker: LocalBroker) -> None:
    key, other = await broker.account(), await broker.account("bob")
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    await worker.send(worker.delivery(grant, await worker.fetch_input(grant)))
    await publish(broker)
    view = await broker.result(key, job)
    with pytest.raises(UnknownJob):
        await broker.call("GET", f"/v1/jobs/{job}/proof", key=other)
    waiting = (await broker.submit(key, view.pipeline, patience_s=600.0)).job
    with pytest.raises(NotInLog, match="has no receipts"):
        await broker.call("GET", f"/v1/jobs/{waiting}/proof", key=key)
    await worker.disconnect()


@pytest.mark.parametrize("since", ["-1", "01", "x", "99999999", "9" * 17])
async def test_since_must_be_a_published_size(broker: LocalBroker, since: str) -> None:
    key = await broker.account()
    view = await finished(broker, key)
    await publish(broker)
    with pytest.raises(InvalidRequest, match="since is"):
        await broker.call("GET", f"/v1/jobs/{view.job}/proof?since={since}", key=key)


async def test_a_monitor_rebuilds_the_tree_from_tiles(broker: LocalBroker) -> None:
    for number in range(300):
        await broker.account(f"account{number}", funds=0)
    await publish(broker)
    checkpoint = await checkpoint_of(broker)
    assert checkpoint.size > TILE_WIDTH

    async def tile(level: int | None, index: int, width: int) -> bytes:
        data: bytes = await broker.call("GET", f"/v1/log/tile/{tile_path(Tile(level, index, width))}")
        return data

    full, rest = divmod(checkpoint.size, TILE_WIDTH)
    widths = [TILE_WIDTH] * full + [rest] * bool(rest)
    leaves = b"".join([await tile(0, index, width) for index, width in enumerate(widths)])
    hashes = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert root_of(hashes) == checkpoint.root
    above = await tile(1, 0, full)
    assert above[:32] == root_of(hashes[:TILE_WIDTH])
    bundle = await tile(None, 0, TILE_WIDTH)
    entries = [bundle[at + 2 : at + 34] for at in range(0, len(bundle), 34)]
    assert {bundle[at : at + 2] for at in range(0, len(bundle), 34)} == {b"\0\x20"}
    assert [leaf_hash(entry) for entry in entries] == hashes[:TILE_WIDTH]


async def test_nothing_beyond_the_published_size_is_served(broker: LocalBroker) -> None:
    await publish(broker)
    before = await checkpoint_of(broker)
    await broker.account()
    assert await checkpoint_of(broker) == before
    for level in ("0", "entries"):
        with pytest.raises(NotInLog):
            await broker.call("GET", f"/v1/log/tile/{level}/000.p/{before.size + 1}")
    for path in ("0/0", "64/000", "0/000.p/256", "x/000", "0/x000/000"):
        with pytest.raises(InvalidRequest, match="not the path of a tile"):
            await broker.call("GET", f"/v1/log/tile/{path}")


async def test_headers_and_key_are_as_the_layout_has_them(broker: LocalBroker) -> None:
    async with broker.session.get(f"{broker.url}/v1/log/checkpoint") as response:
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
    async with broker.session.get(f"{broker.url}/v1/log/tile/0/000.p/1") as response:
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "immutable" in response.headers["Cache-Control"]
        assert len(await response.read()) == 32
    key = (await broker.call("GET", "/v1/log/key")).decode()
    public_key = broker.running.parts.broker.public_key
    assert key == verifier_key(public_key) + "\n"
    assert base64.b64decode(key.split("+", 2)[2])[1:] == public_key
    assert hashlib.sha256(public_key).hexdigest().startswith(key.split("+")[1])


async def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with local_broker(tmp_path, checkpoint_s=NEVER_S) as broker:
        key = await broker.account()
        view = await finished(broker, key)
        await publish(broker)
        path = f"/v1/jobs/{view.job}/proof"
        first: LogProof = await broker.call("GET", path, key=key, reply=LogProof)
    async with local_broker(tmp_path, checkpoint_s=NEVER_S) as broker:
        size = verify_checkpoint(first.checkpoint, first.public_key).size
        later: LogProof = await broker.call("GET", f"{path}?since={size}", key=key, reply=LogProof)
        [found] = verify_proof(later, view.receipts, kept=first.checkpoint)
        assert found.checkpoint.size > size


def damage(folder: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(folder / "broker.sqlite3")) as connection:
        connection.execute(statement, parameters)
        connection.commit()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["broker", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a broker that has run a job, and stopped."""
    folder = tmp_path_factory.mktemp("stopped")

    async def fill() -> None:
        async with local_broker(folder, checkpoint_s=NEVER_S) as broker:
            await finished(broker, await broker.account())
            await publish(broker)

    asyncio.run(fill())
    return folder


def test_what_nobody_changed_verifies(stopped: Path) -> None:
    assert "entries fit their records" in run("audit-log", "verify", "--data-dir", str(stopped))
    assert "signed by this broker" in run("audit-log", "verify", "--data-dir", str(stopped))
    assert "entries of the audit log fit the records." in run("verify-books", "--data-dir", str(stopped))


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE deliveries SET payload = CAST(payload || ' ' AS BLOB)", "is not what was logged"),
        ("UPDATE deliveries SET signature = x'00'", "is not what was logged"),
        ("UPDATE deliveries SET output_cid = 'x'", "names output x; the journal"),
        ("UPDATE deliveries SET output = x'00'", "its output is not"),
        ("UPDATE inputs SET document = x'00'", "it is not the one that was submitted"),
        ("UPDATE api_keys SET account = 'mallory'", "is not what was logged"),
        ("INSERT INTO api_keys VALUES ('k', 'mallory', 1.0)", "the api_key k is not in the log"),
        ("UPDATE join_tokens SET stake = stake + 1", "is not what was logged"),
        ("UPDATE join_tokens SET used_by = ''", "nobody has used it; in the journal, worker"),
        ("UPDATE join_tokens SET used_by = used_by || 'x'", "has used it; in the journal, worker"),
        ("UPDATE publications SET id = id || 'x'", "its columns differ from its body"),
        ("UPDATE publications SET account = 'mallory'", "its columns differ from its body"),
        (
            "UPDATE publications SET body = CAST(replace(body, 'alice', 'alicf') AS BLOB)",
            "in the journal, alice",
        ),
        (
            "UPDATE publications SET body = CAST(replace(body, 'wall_ms', 'wall_mt') AS BLOB)",
            "its manifest is not",
        ),
        ("UPDATE publications SET body = x'81'", "its row cannot be read"),
        ("DELETE FROM publications", "it is missing; the journal has its pipeline"),
        ("UPDATE uploads SET id = id || 'x'", "its holder and its CID are"),
        ("UPDATE uploads SET cid = cid || 'x'", "its holder and its CID are"),
        (
            "UPDATE uploads SET holder = 'account:mallory', id = 'account:mallory/' || cid",
            "there is no account:mallory",
        ),
        ("UPDATE uploads SET size_bytes = 'x'", "its row cannot be read"),
        ("DELETE FROM checkpoints", "the newest checkpoint is missing"),
        ("UPDATE runs SET left_out = x'91'", "the start 1 is not what was logged"),
        ("UPDATE runs SET left_out = x'91'", "the start 1 cannot be read"),
    ],
)
def test_books_with_a_change_outside_the_ledger_do_not_verify(
    stopped: Path, tmp_path: Path, statement: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "data"))
    damage(folder, statement)
    result = CliRunner().invoke(app, ["broker", "verify-books", "--data-dir", str(folder)])
    assert isinstance(result.exception, DatabaseDamaged)
    assert (result.exception.fault, result.exception.hint) == (Fault.OPERATOR, RESTORE)
    assert named in result.stdout
    if "logged" in named or "in the log" in named:
        with pytest.raises(DatabaseDamaged, match=named):
            run("audit-log", "verify", "--data-dir", str(folder))


async def test_a_used_token_does_not_join_again_though_its_record_says_that_it_is_unused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    async with local_broker(folder) as broker:
        token = await broker.token("bob")
        first = FakeWorker(broker.session, broker.url)
        await first.join(token)
        again = await broker.token("bob")  # a token that the same device uses is used up as well
        await first.join(again)
    damage(folder, "UPDATE join_tokens SET used_by = ''")
    async with local_broker(folder) as broker:
        before = broker.running.parts.market.workers()
        for used in (token, again):
            with pytest.raises(InvalidJoinToken, match="another device has used it"):
                await FakeWorker(broker.session, broker.url).join(used)
        assert broker.running.parts.market.workers() == before
        await FakeWorker(broker.session, broker.url, key=first.key).join(token)  # its own
        assert len(broker.running.parts.market.workers()) == len(before)
        await FakeWorker(broker.session, broker.url).join(await broker.token("bob"))
    result = CliRunner().invoke(app, ["broker", "verify-books", "--data-dir", str(folder)])
    assert isinstance(result.exception, DatabaseDamaged)
    assert result.stdout.count("nobody has used it; in the journal") == 1  # `first` has used the other again


def test_a_kept_checkpoint_is_verified(stopped: Path, tmp_path: Path) -> None:
    broker = Identity.load(stopped / "identity.pem")
    kept = tmp_path / "kept.txt"
    arguments = ("audit-log", "verify", "--data-dir", str(stopped), "--checkpoint", str(kept))
    for note, error in (
        (Checkpoint(broker.id, 3, leaf_hash(b"other")).signed(broker), DatabaseDamaged),
        (Checkpoint(broker.id, 3, leaf_hash(b"other")).signed(Identity.generate()), InvalidKeptCheckpoint),
        ("text", InvalidKeptCheckpoint),
    ):
        kept.write_text(note, encoding="utf-8")
        with pytest.raises(error):
            run(*arguments)
    kept.unlink()
    with pytest.raises(InvalidKeptCheckpoint, match="No such file"):
        run(*arguments)


def test_a_kept_proof_is_taken_for_its_checkpoint(stopped: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(stopped / "broker.sqlite3")) as connection:
        [(note,)] = connection.execute("SELECT note FROM checkpoints").fetchall()
    broker = Identity.load(stopped / "identity.pem")
    for text, error in (
        (note, None),
        (Checkpoint(broker.id, 3, leaf_hash(b"other")).signed(broker), DatabaseDamaged),
    ):
        proof = LogProof(checkpoint=text, public_key=broker.public_key, receipts=())
        (tmp_path / "proof.json").write_bytes(msgspec.json.encode(proof))
        arguments = ("--data-dir", str(stopped), "--checkpoint", str(tmp_path / "proof.json"))
        with contextlib.nullcontext() if error is None else pytest.raises(error):
            assert "fit their records" in run("audit-log", "verify", *arguments)


async def test_a_broker_does_not_start_on_a_log_that_does_not_extend_its_checkpoint(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "data"))
    broker = Identity.load(folder / "identity.pem")
    for size, root in ((3, b"other"), (9999, b"other")):
        note = Checkpoint(broker.id, size, leaf_hash(root)).signed(broker)
        damage(folder, "UPDATE checkpoints SET size = ?, note = ?", size, note)
        with pytest.raises(DatabaseDamaged, match="published"):
            async with local_broker(folder):
                pass
    damage(folder, "UPDATE checkpoints SET note = 'x'")
    with pytest.raises(DatabaseDamaged, match="checkpoint"):
        async with local_broker(folder):
            pass


def test_what_was_restored_from_a_backup_is_noticed_by_who_kept_a_checkpoint(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "data"))
    broker, kept = Identity.load(folder / "identity.pem"), tmp_path / "kept.txt"
    kept.write_text(Checkpoint(broker.id, 9999, leaf_hash(b"later")).signed(broker), encoding="utf-8")
    with pytest.raises(DatabaseDamaged, match="a checkpoint of 9999 entries was published"):
        run("audit-log", "verify", "--data-dir", str(folder), "--checkpoint", str(kept))


def test_the_report_is_json_too(stopped: Path) -> None:
    report = msgspec.json.decode(run("audit-log", "verify", "--data-dir", str(stopped), "--json"))
    assert report["entries"]["receipt"] == 1
    assert 0 < report["checkpoint_size"] <= report["size"]
