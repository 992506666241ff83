"""`tradepost receipt`: what it verifies offline, and the proof that it fetches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from sample_log import SampleLog
from tradepost import AsyncClient, TensorDocument
from tradepost.audit_log.merkle import leaf_hash
from tradepost.audit_log.proofs import LogProof
from tradepost.commands.receipt import app
from tradepost.errors import (
    Fault,
    FileNotWritten,
    InvalidCommandLine,
    InvalidKeptCheckpoint,
    InvalidProof,
    LogRewritten,
    UnknownJob,
)
from tradepost.receipts import SignedReceipt
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


class Files:
    """A log, and files of receipts, proofs and checkpoints from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SampleLog()
        self.log.add_events(3)
        self.kept = self.write("kept.txt", self.log.checkpoint().encode())
        self.receipts = self.write_receipts([self.log.add_receipt()])
        self.log.add_events(4)

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def write_receipts(self, receipts: Sequence[SignedReceipt]) -> Path:
        return self.write("receipts.json", msgspec.json.encode(receipts))

    def proof(self, *, since: int | None = None, name: str = "proof.json") -> Path:
        return self.write(name, msgspec.json.encode(self.log.proof(["job.1"], since=since)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_proof_shows_where_the_log_has_the_receipt(files: Files) -> None:
    line = f"in the log at 3 of 8, checkpoint signed by {files.log.broker.id}"
    assert line in run("verify", files.receipts, "--proof", files.proof())
    [place] = json.loads(run("verify", files.receipts, "--proof", files.proof(), "--json"))
    assert (place["index"], place["size"], place["signed_by"]) == (3, 8, files.log.broker.id)
    assert place["receipt"]["job"] == "job"


def test_a_kept_checkpoint_may_be_a_note_or_an_earlier_proof(files: Files) -> None:
    arguments = ("verify", files.receipts, "--proof", files.proof(since=3))
    assert "The log extends the checkpoint" in run(*arguments, "--checkpoint", files.kept)
    earlier = files.proof(name="earlier.json")
    files.log.add_events(5)
    arguments = ("verify", files.receipts, "--proof", files.proof(since=8))
    assert "The log extends the checkpoint" in run(*arguments, "--checkpoint", earlier)


def test_a_rewritten_log_is_an_error(files: Files) -> None:
    files.log.leaves[0] = leaf_hash(b"rewritten")
    with pytest.raises(LogRewritten):
        run("verify", files.receipts, "--proof", files.proof(since=3), "--checkpoint", files.kept)


def test_a_receipt_that_is_not_in_the_log_is_an_error(files: Files) -> None:
    proof = files.proof()
    other = SampleLog()
    other.broker = files.log.broker
    receipts = files.write_receipts([other.add_receipt()])  # signed again, so another receipt
    assert "ok" in run("verify", receipts)
    with pytest.raises(InvalidProof, match="does not have this receipt"):
        run("verify", receipts, "--proof", proof)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"checkpoint": 1}'])
def test_what_is_no_proof_is_an_error(files: Files, content: bytes) -> None:
    with pytest.raises(InvalidProof, match=r"bad\.json"):
        run("verify", files.receipts, "--proof", files.write("bad.json", content))


@pytest.mark.parametrize("content", [b"", b"{}", b"text", b"\xff"])
def test_what_is_no_checkpoint_is_an_error(files: Files, content: bytes) -> None:
    bad = files.write("bad.txt", content)
    with pytest.raises(InvalidKeptCheckpoint, match=r"bad\.txt") as raised:
        run("verify", files.receipts, "--proof", files.proof(), "--checkpoint", bad)
    assert raised.value.fault is Fault.SUBMITTER


def test_missing_files_are_named(files: Files) -> None:
    absent = files.folder / "absent"
    with pytest.raises(InvalidProof, match="absent: No such file"):
        run("verify", files.receipts, "--proof", absent)
    with pytest.raises(InvalidKeptCheckpoint, match="absent: No such file"):
        run("verify", files.receipts, "--proof", files.proof(), "--checkpoint", absent)
    with pytest.raises(InvalidKeptCheckpoint, match="absent: No such file"):
        run("proof", "job", "--since", absent, "--broker", "http://127.0.0.1:9", "--api-key", API_KEY)


def test_a_checkpoint_alone_verifies_nothing(files: Files) -> None:
    with pytest.raises(InvalidCommandLine, match="--checkpoint needs --proof"):
        run("verify", files.receipts, "--checkpoint", files.kept)


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    broker = FakeBroker(lambda document: document)
    async with TestServer(broker.app) as server:
        broker.url = str(server.make_url("/"))
        yield broker


async def test_a_proof_is_fetched_and_verified_offline(broker: FakeBroker, tmp_path: Path) -> None:
    async with AsyncClient(broker.url, api_key=API_KEY) as client:
        result = await (await client.submit(PIPELINE, TensorDocument({}), max_price=1)).result()
    receipts, proof, later = (tmp_path / name for name in ("receipts.json", "proof.json", "later.json"))
    receipts.write_bytes(msgspec.json.encode(result.receipts))
    place: Any = ("--broker", broker.url, "--api-key", API_KEY)

    await asyncio.to_thread(run, "proof", result.job, "--output", proof, *place)
    assert "in the log at 0 of 1" in run("verify", receipts, "--proof", proof)
    broker.log.add_events(2)
    await asyncio.to_thread(run, "proof", result.job, "--since", proof, "--output", later, *place)
    shown = run("verify", receipts, "--proof", later, "--checkpoint", proof)
    assert "in the log at 0 of 3" in shown
    assert "The log extends the checkpoint that was kept." in shown

    printed = await asyncio.to_thread(run, "proof", result.job, *place)
    assert msgspec.json.decode(printed, type=LogProof).receipts[0].index == 0
    with pytest.raises(UnknownJob):
        await asyncio.to_thread(run, "proof", "none", *place)
    with pytest.raises(FileNotWritten):
        await asyncio.to_thread(run, "proof", result.job, "--output", tmp_path, *place)
