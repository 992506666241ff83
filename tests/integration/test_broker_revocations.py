"""Revocation at a real broker: checked, kept over restarts, sent to every worker, and never rolled back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tradepost.errors import (
    InvalidRevocations,
    InvalidSettings,
    InvalidSignature,
    RevocationRollback,
    Revoked,
    TradepostError,
    Unauthorized,
    UnknownCid,
)
from tradepost.pipeline.manifest import encode_manifest
from tradepost.protocol import Grant, JobStatus, PublishRequest, Revocations
from tradepost_broker.cli import app
from tradepost_broker.operator.messages import EnforcedRevocations, NewRevocations
from tradepost_broker.storage.shell_records import Upload
from tradepost_broker.testing import LocalBroker, SamplePipeline, local_broker
from tradepost_signing.bundles.bundle import join_bundles, sign_bytes
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation import RevocationDocument, RevokedIdentity
from tradepost_signing.policy.revocation_store import SignedRevocations, sign_revocations, write_revocations
from tradepost_signing.testing import FakeSigstore

OPERATOR = SigningKey.generate()


def listed(version: int, *, key: SigningKey = OPERATOR, **entries: Any) -> SignedRevocations:
    return sign_revocations(RevocationDocument(version=version, issued_at=0, **entries), key)


async def revoke(broker: LocalBroker, signed: SignedRevocations) -> EnforcedRevocations:
    body = NewRevocations(document=signed.document, bundle=signed.bundle)
    token = broker.running.parts.operator_token
    answer: EnforcedRevocations = await broker.call(
        "POST", "/v1/admin/revocations", key=token, body=body, reply=EnforcedRevocations
    )
    return answer


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    path = tmp_path / "operator.pub"
    path.write_bytes(OPERATOR.public_key.pem)
    return path


@pytest.fixture
async def broker(tmp_path: Path, public_key: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path / "data", revocations_key=public_key) as broker:
        yield broker


async def test_a_list_reaches_workers_at_once_and_those_that_come_later(broker: LocalBroker) -> None:
    early = await broker.worker("early")
    first, second = listed(1), listed(2)
    assert await revoke(broker, first) == EnforcedRevocations(version=1, workers=1)
    assert await early.expect(Revocations) == Revocations(first.document, first.bundle)
    late = await broker.worker("late")
    assert await late.expect(Revocations) == Revocations(first.document, first.bundle)
    assert await revoke(broker, second) == EnforcedRevocations(version=2, workers=2)
    for worker in (early, late):
        assert (await worker.expect(Revocations)).document == second.document
        await worker.disconnect()


async def test_the_list_comes_before_any_lease(broker: LocalBroker) -> None:
    await revoke(broker, listed(1))
    key = await broker.account()
    worker = await broker.worker(connect=False)
    await broker.submit(key, await broker.publish(key), patience_s=60.0)
    await worker.connect()
    await worker.arrival(Grant)
    assert isinstance(worker.frames[0], Revocations)
    await worker.disconnect()


async def test_a_device_learns_the_operators_key_when_it_joins(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    joined = await worker.join(await broker.token())
    assert joined.revocations_key == OPERATOR.public_key.pem.decode()


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (listed(2), RevocationRollback),
        (listed(3, cids={}, engines={"wasmtime": "1"}), RevocationRollback),
        (listed(4, key=SigningKey.generate()), TradepostError),
        (SignedRevocations(listed(4).document, listed(5).bundle), InvalidSignature),
    ],
)
async def test_a_list_that_is_old_or_badly_signed_changes_nothing(
    broker: LocalBroker, signed: SignedRevocations, error: type[TradepostError]
) -> None:
    kept = listed(3)
    await revoke(broker, kept)
    with pytest.raises(error):
        await revoke(broker, signed)
    worker = await broker.worker()
    assert (await worker.expect(Revocations)).document == kept.document
    assert (await revoke(broker, kept)).version == 3, "the same list again harms nobody"
    await worker.disconnect()


async def test_only_the_operator_may_bring_a_list(broker: LocalBroker) -> None:
    signed = listed(1)
    body = NewRevocations(document=signed.document, bundle=signed.bundle)
    with pytest.raises(Unauthorized):
        await broker.call("POST", "/v1/admin/revocations", key=await broker.account(), body=body)


async def test_what_is_revoked_is_refused_and_stays_so_after_a_restart(
    tmp_path: Path, public_key: Path
) -> None:
    data, sample = tmp_path / "data", SamplePipeline()
    async with local_broker(data, revocations_key=public_key) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key, sample)
        job = (await broker.submit(key, pipeline, patience_s=60.0)).job
        signer = sample.key.public_key.id
        await revoke(broker, listed(1, publishers={signer: "the key was stolen"}))
        ended = await broker.result(key, job)
        assert ended.status is JobStatus.FAILED
        assert ended.problem is not None
        assert (ended.problem.code, "stolen" in ended.problem.detail) == ("revoked", True)
    async with local_broker(data, revocations_key=public_key) as broker:
        with pytest.raises(Revoked, match="stolen"):
            await broker.submit(key, pipeline)
        with pytest.raises(Revoked):
            await broker.publish(key, SamplePipeline(name="another", key=sample.key))
        worker = await broker.worker()
        assert (await worker.expect(Revocations)).document
        report = json.loads((await operate(data, "verify-books", "--json")).stdout)
        assert report["differences"] == []
        await worker.disconnect()


async def test_a_refused_publication_stores_nothing(tmp_path: Path, public_key: Path) -> None:
    data, sample = tmp_path / "data", SamplePipeline()
    async with local_broker(data, revocations_key=public_key) as broker:
        key = await broker.account()
        await revoke(broker, listed(1, publishers={sample.key.public_key.id: "stolen"}))
        for cid, block in sample.blocks():
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=block)
        files = set((data / "blocks").rglob("*"))
        uploads = {upload.id for upload in broker.running.parts.store.find(Upload)}
        with pytest.raises(Revoked):
            await broker.call("POST", "/v1/pipelines", key=key, body=sample.request())
        assert set((data / "blocks").rglob("*")) == files
        assert {upload.id for upload in broker.running.parts.store.find(Upload)} == uploads
        with pytest.raises(UnknownCid):
            await broker.call("GET", f"/ipfs/{sample.cid}?format=raw")


async def test_publishers_may_be_several_and_keyless(broker: LocalBroker) -> None:
    robot = SigstoreIdentity(issuer="https://issuer.example", subject="https://ci.example/job")
    old, sample = SigningKey.generate(), SamplePipeline()
    block = encode_manifest(sample.manifest)
    bundles = [sign_bytes(block, signer) for signer in (old, FakeSigstore().signer(robot))]
    key = await broker.account()
    await broker.publish(key, sample)
    request = PublishRequest(manifest=block, bundle=join_bundles(bundles))
    await broker.call("POST", "/v1/pipelines", key=key, body=request)
    first = sample.key.public_key.id
    await revoke(broker, listed(1, publishers={old.public_key.id: "", first: ""}))
    await broker.submit(key, sample.cid)
    identity = RevokedIdentity(issuer=robot.issuer, subject=robot.subject)
    await revoke(broker, listed(2, publishers={old.public_key.id: "", first: ""}, identities=(identity,)))
    with pytest.raises(Revoked):
        await broker.submit(key, sample.cid)


async def test_without_a_key_nobody_may_revoke(tmp_path: Path) -> None:
    async with local_broker(tmp_path / "data") as broker:
        with pytest.raises(InvalidRevocations, match="no revocation key"):
            await revoke(broker, listed(1))
        worker = await broker.worker(connect=False)
        assert (await worker.join(await broker.token())).revocations_key == ""


async def test_a_broker_does_not_forget_its_list_with_its_key(tmp_path: Path, public_key: Path) -> None:
    async with local_broker(tmp_path / "data", revocations_key=public_key) as broker:
        await revoke(broker, listed(1))
    with pytest.raises(InvalidSettings, match="revocations_key"):
        async with local_broker(tmp_path / "data"):
            pass
    with pytest.raises(InvalidSettings, match="revocations_key"):
        async with local_broker(tmp_path / "data", revocations_key=tmp_path / "absent.pub"):
            pass


async def test_the_command_brings_a_signed_file(broker: LocalBroker, tmp_path: Path) -> None:
    worker = await broker.worker()
    path = tmp_path / "revocations.json"
    write_revocations(path, listed(7))
    done = await operate(tmp_path / "data", "revoke", str(path))
    assert "Enforcing version 7; sent it to 1 connected workers" in done.stdout
    assert (await worker.expect(Revocations)).document == listed(7).document
    await worker.disconnect()


async def operate(data: Path, *arguments: str) -> Any:
    """An operator's command, in a thread, as it runs a loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--data-dir", str(data)])
    if result.exception is not None:
        raise result.exception
    return result


async def test_a_restore_without_the_list_does_not_lift_what_it_revokes(
    tmp_path: Path, public_key: Path
) -> None:
    """The database knows that there was one; with the key lost from the settings as well."""
    folder = tmp_path / "restored"
    async with local_broker(folder, revocations_key=public_key) as broker:
        await revoke(broker, listed(1))
    kept = (folder / "revocations.json").read_bytes()
    for _ in range(2):  # a start in between brings the list to the market again
        (folder / "revocations.json").unlink()
        for settings in ({"revocations_key": public_key}, {}):
            with pytest.raises(InvalidRevocations, match=r"revocations\.json does not exist"):
                async with local_broker(folder, **settings):
                    pytest.fail("it runs")
        (folder / "revocations.json").write_bytes(kept)
        async with local_broker(folder, revocations_key=public_key) as broker:
            assert (await revoke(broker, listed(1))).version == 1
