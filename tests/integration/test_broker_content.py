"""Content at a real broker: pipelines are public, everything else belongs to who sent it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradepost.content import Cid, add_bytes, parse_cid, read_file, verify_block
from tradepost.errors import UnknownCid
from tradepost.pipeline.manifest import decode_manifest
from tradepost.protocol import Grant, PipelineView
from tradepost_broker.reporting.views import PipelineSummary
from tradepost_broker.testing import LocalBroker, SamplePipeline, local_broker, sample_input


async def test_a_published_pipeline_can_be_fetched_and_checked_by_anyone(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = SamplePipeline(kernel_bytes=600_000)
    cid = await broker.publish(key, pipeline)
    view: PipelineView = await broker.call("GET", f"/v1/pipelines/{cid}", reply=PipelineView)
    assert decode_manifest(view.manifest) == pipeline.manifest
    listed: list[PipelineSummary] = await broker.call("GET", "/v1/pipelines", reply=list[PipelineSummary])
    assert [(one.pipeline, one.publisher) for one in listed] == [(cid, pipeline.key.public_key.id)]

    async def get(block: Cid) -> bytes:
        data: bytes = await broker.call("GET", f"/ipfs/{block}?format=raw")
        verify_block(block, data, source="the gateway")
        return data

    for stage in pipeline.manifest.stages:
        artifact = await read_file(parse_cid(stage.artifact), get, bytes_max=1 << 20)
        assert add_bytes(artifact, put=None) == stage.artifact
    assert await get(parse_cid(cid)) == view.manifest


async def test_data_of_jobs_is_never_public(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    pipeline = await broker.publish(alice)
    worker = await broker.worker()
    document = sample_input()
    cid = add_bytes(document, put=None)
    await broker.call("PUT", f"/v1/blocks/{cid}", key=alice, body=document)
    job = (await broker.submit(alice, pipeline, input=None, input_cid=cid)).job
    grant = await worker.expect(Grant)
    frame = await worker.answer(grant)
    await broker.result(alice, job)
    assert frame.output is not None
    for secret in (cid, add_bytes(frame.output, put=None)):
        for form in ("raw", "car"):
            with pytest.raises(UnknownCid):
                await broker.call("GET", f"/ipfs/{secret}?format={form}")
        with pytest.raises(UnknownCid):
            await broker.call("GET", f"/v1/blocks/{secret}", key=bob)
    assert await broker.call("GET", f"/v1/blocks/{cid}", key=alice) == document
    await worker.disconnect()


async def test_knowing_a_cid_does_not_let_one_submit_it(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    pipeline = await broker.publish(alice)
    document = sample_input()
    cid = add_bytes(document, put=None)
    await broker.call("PUT", f"/v1/blocks/{cid}", key=alice, body=document)
    with pytest.raises(UnknownCid):
        await broker.submit(bob, pipeline, input=None, input_cid=cid)
    async with broker.session.head(
        f"{broker.url}/v1/blocks/{cid}", headers={"Authorization": f"Bearer {bob}"}
    ) as response:
        assert response.status == 404


async def test_what_was_published_survives_a_restart(tmp_path: Path) -> None:
    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        cid = await broker.publish(key)
    async with local_broker(tmp_path) as broker:
        assert await broker.call("GET", f"/ipfs/{cid}?format=raw")
        await broker.submit(key, cid)
