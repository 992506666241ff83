"""Documents go when they were of no use for long; receipts, books and published pipelines stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradepost.content import add_bytes
from tradepost.errors import UnknownCid
from tradepost.protocol import Grant, JobStatus
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.settings import DOCUMENTS_KEPT_S_MIN
from tradepost_broker.storage.shell_records import Delivery, InlineInput
from tradepost_broker.testing import ManualClock, SamplePipeline, local_broker, sample_input

HOUR_S = 3600.0


async def test_old_documents_go_and_receipts_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock, documents_kept_s=DOCUMENTS_KEPT_S_MIN) as broker:
        parts = broker.running.parts
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        old = (await broker.submit(key, pipeline)).job
        (receipt,) = (await broker.result(key, old)).receipts
        clock.advance(DOCUMENTS_KEPT_S_MIN - HOUR_S)
        recent = (await broker.submit(key, pipeline)).job
        await broker.result(key, recent)
        clock.advance(2 * HOUR_S)
        await parts.retention.sweep()
        inputs = {one.id for one in parts.store.find(InlineInput)}
        assert inputs == {recent}
        outputs = {one.id.split(".")[0]: one.output is not None for one in parts.store.find(Delivery)}
        assert outputs == {old: False, recent: True}
        await worker.disconnect()
    async with local_broker(tmp_path, clock=clock) as broker:
        view = await broker.result(key, old)
        assert (view.status, view.output, view.receipts) == (JobStatus.ACCEPTED, None, (receipt,))
        with pytest.raises(UnknownCid):
            await broker.call("GET", f"/v1/jobs/{old}/output", key=key)


async def test_blocks_go_unless_they_are_used_or_public(tmp_path: Path) -> None:
    clock = ManualClock()
    # One job of this test stays open for long, and needs no worker to be patient for.
    policy = MarketPolicy(audit_rate=0.0)
    async with local_broker(
        tmp_path, clock=clock, policy=policy, documents_kept_s=DOCUMENTS_KEPT_S_MIN
    ) as broker:
        alice, bob = await broker.account("alice"), await broker.account("bob")
        pipeline = await broker.publish(alice)
        shared, unused, used = (sample_input(n) for n in range(3))
        for key, document in ((alice, shared), (alice, unused), (alice, used)):
            await broker.call("PUT", f"/v1/blocks/{add_bytes(document, put=None)}", key=key, body=document)
        clock.advance(DOCUMENTS_KEPT_S_MIN - HOUR_S)
        await broker.call("PUT", f"/v1/blocks/{add_bytes(shared, put=None)}", key=bob, body=shared)
        worker = await broker.worker()
        cid = add_bytes(used, put=None)
        await broker.submit(alice, pipeline, input=None, input_cid=cid)
        clock.advance(2 * HOUR_S)
        await broker.running.parts.retention.sweep()

        for document in (shared, unused):
            with pytest.raises(UnknownCid):
                await broker.call("GET", f"/v1/blocks/{add_bytes(document, put=None)}", key=alice)
        assert await broker.call("GET", f"/v1/blocks/{add_bytes(shared, put=None)}", key=bob) == shared
        assert await broker.call("GET", f"/v1/blocks/{cid}", key=alice) == used
        assert await broker.call("GET", f"/ipfs/{pipeline}?format=raw")
        left = {file.name for file in (tmp_path / "blocks").rglob("b*") if file.is_file()}
        assert add_bytes(unused, put=None) not in left
        # The manifest, which the gateway has just served, is kept with its publication.
        artifacts = {artifact for artifact, _ in SamplePipeline().blocks()}
        assert {cid, add_bytes(shared, put=None), *artifacts} <= left
        assert broker.running.parts.uploads.used_bytes("account:bob") == BLOCK_BYTES_MIN
        await worker.expect(Grant)
        await worker.disconnect()
