"""`tradepost publish` and a real broker: one CAR, what it is refused with, and going on after a refusal."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from tradepost.errors import ContentTooLarge, QuotaExceeded, Unauthorized, UnknownPipeline
from tradepost.protocol import PipelineView
from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_signing.keys import SigningKey
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.publish import SignedPipeline, Uploaded, publish, sign_pipeline
from tradepost_signing.testing import ECHO_PIPELINE

QUOTA = 3_000_000


def signed(folder: Path, kernel_bytes: int, *, seed: int = 1) -> SignedPipeline:
    (folder / "kernel.wasm").write_bytes(random.Random(seed).randbytes(kernel_bytes))
    (folder / "pipeline.toml").write_text(ECHO_PIPELINE)
    return sign_pipeline(load_pipeline(folder / "pipeline.toml"), SigningKey.generate())


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path / "broker", upload_bytes_max=QUOTA) as broker:
        yield broker


async def send(broker: LocalBroker, pipeline: SignedPipeline, key: str) -> Uploaded:
    return await publish(pipeline, broker=URL(broker.url), api_key=key, progress=lambda _: None)


async def test_a_pipeline_is_listed_and_served(broker: LocalBroker, tmp_path: Path) -> None:
    pipeline, key = signed(tmp_path, 1_000_000), await broker.account()
    uploaded = await send(broker, pipeline, key)
    assert uploaded == Uploaded(sent_blocks=5, sent_bytes=pipeline.total_bytes, present_blocks=0)
    view: PipelineView = await broker.call("GET", f"/v1/pipelines/{pipeline.cid}", reply=PipelineView)
    assert (view.manifest, view.bundle) == (pipeline.manifest_block, pipeline.bundle)
    for artifact, block in pipeline.blocks():
        assert await broker.call("GET", f"/ipfs/{block.cid}?format=raw") == artifact.read(block)
    assert await send(broker, pipeline, key) == Uploaded(sent_blocks=0, sent_bytes=0, present_blocks=5)


async def test_more_than_the_whole_quota_is_too_large_and_takes_none_of_it(
    broker: LocalBroker, tmp_path: Path
) -> None:
    key = await broker.account()
    with pytest.raises(ContentTooLarge, match="3,000,000"):
        await send(broker, signed(tmp_path, QUOTA + 1), key)
    assert broker.running.parts.uploads.used_bytes("account:alice") == 0


async def test_more_than_is_left_of_the_quota_is_over_it(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    await send(broker, signed(tmp_path, 2_000_000), key)
    second = signed(tmp_path, 2_000_000, seed=2)
    with pytest.raises(QuotaExceeded) as caught:
        await send(broker, second, key)
    assert caught.value.facts == {"limit_bytes": QUOTA}
    with pytest.raises(UnknownPipeline):
        await broker.call("GET", f"/v1/pipelines/{second.cid}")


async def test_a_wrong_key_is_refused_before_anything_is_sent(broker: LocalBroker, tmp_path: Path) -> None:
    with pytest.raises(Unauthorized):
        await send(broker, signed(tmp_path, 1000), "nobody")
