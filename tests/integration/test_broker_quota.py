"""What is kept for an account counts against its quota, also if another sends it or the job fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tradepost.content import cid_of_block
from tradepost.errors import LeaseGone, QuotaExceeded, RunnerFailed
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    Acknowledged,
    GiveBack,
    GiveBackReason,
    Grant,
    JobStatus,
    JobView,
    Recall,
)
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN, KeptDocuments
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import (
    LocalBroker,
    ManualClock,
    SamplePipeline,
    echo,
    local_broker,
    sample_input,
)

#: 100,000 bytes of numbers, and a little around them.
DOCUMENT = sample_input(size=25_000)
QUOTA = 1_000_000
BLOCK = bytes(300_000)
CID = cid_of_block(BLOCK, "raw")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path, upload_bytes_max=QUOTA) as broker:
        yield broker


def kept_bytes(folder: Path) -> int:
    """The bytes of all documents in the database, and of all blocks of outputs."""
    queries = (
        "SELECT SUM(LENGTH(document)) FROM inputs",
        "SELECT SUM(LENGTH(output)) FROM deliveries",
        "SELECT SUM(size_bytes) FROM uploads WHERE holder LIKE 'lease:%'",
    )
    connection = sqlite3.connect(f"file:{folder / 'broker.sqlite3'}?mode=ro", uri=True)
    try:
        return sum(connection.execute(query).fetchone()[0] or 0 for query in queries)
    finally:
        connection.close()


def used_bytes(broker: LocalBroker) -> int:
    """What the broker counts as kept for alice."""
    return broker.running.parts.quota.used_bytes("alice")


async def refused_after(broker: LocalBroker, key: str, pipeline: str, *, patience_s: float) -> int:
    """How many jobs with the same input are accepted before the quota is full."""
    for number in range(50):
        try:
            await broker.submit(key, pipeline, input=DOCUMENT, patience_s=patience_s)
        except QuotaExceeded:
            return number
    return 50


async def test_the_inputs_of_jobs_that_fail_stay_within_the_quota(
    broker: LocalBroker, tmp_path: Path
) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    for _ in range(30):
        try:
            # Nobody offers to run it, so it fails at once, for nothing.
            await broker.submit(key, pipeline, input=DOCUMENT, patience_s=0.0)
        except QuotaExceeded:
            await broker.running.parts.retention.sweep()
        assert kept_bytes(tmp_path) <= QUOTA
    await broker.running.parts.retention.sweep()
    await broker.submit(key, pipeline, input=DOCUMENT, patience_s=0.0)


async def test_open_jobs_keep_their_inputs_and_their_place(broker: LocalBroker, tmp_path: Path) -> None:
    key, other = await broker.account(), await broker.account("bob")
    pipeline = await broker.publish(key)
    accepted = await refused_after(broker, key, pipeline, patience_s=3600.0)
    assert 5 < accepted < 10
    await broker.running.parts.retention.sweep()
    assert kept_bytes(tmp_path) == accepted * len(DOCUMENT)
    with pytest.raises(QuotaExceeded, match="are kept for alice"):
        await broker.submit(key, pipeline, input=DOCUMENT)
    await broker.submit(other, pipeline, input=DOCUMENT)  # one account's quota is not another's
    with pytest.raises(QuotaExceeded):  # documents and uploaded blocks share it
        await broker.call("PUT", f"/v1/blocks/{CID}", key=key, body=BLOCK)


async def test_what_is_kept_is_counted_again_after_a_restart(tmp_path: Path) -> None:
    async with local_broker(tmp_path, upload_bytes_max=QUOTA) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        accepted = await refused_after(broker, key, pipeline, patience_s=3600.0)
        used = used_bytes(broker)
    async with local_broker(tmp_path, upload_bytes_max=QUOTA) as broker:
        assert used_bytes(broker) == used
        with pytest.raises(QuotaExceeded):
            await broker.submit(key, pipeline, input=DOCUMENT)
    assert accepted > 5


async def test_outputs_that_were_uploaded_count_for_the_submitter(tmp_path: Path) -> None:
    quota = 7 << 20
    policy = MarketPolicy(audit_rate=0.0, exposure_leases_max=64)
    async with local_broker(tmp_path, upload_bytes_max=quota, policy=policy) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        document = sample_input(size=300_000)
        output = echo(document)
        worker = await broker.worker()
        cancelled = 0
        for number in range(8):
            job = await broker.submit(key, pipeline, input=sample_input(number))
            grant = await worker.expect(Grant)
            try:
                await worker.upload_output(grant, output)
            except LeaseGone:
                assert (await worker.expect(Recall)).lease == grant.lease
                assert (await broker.result(key, job.job)).status is JobStatus.CANCELLED
                cancelled += 1
            assert kept_bytes(tmp_path) <= quota
        assert cancelled > 0
        assert (
            await broker.standing(worker)
        ).evidence == ()  # the submitter's quota is not the worker's fault
        await worker.disconnect()


async def test_a_block_that_is_kept_needs_no_room_again(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    job = await broker.submit(key, pipeline)
    grant = await worker.expect(Grant)
    output = bytes(100_000)
    await worker.upload_output(grant, output)
    await fill_quota(broker, key)
    await worker.upload_output(grant, output)
    view = await broker.call("GET", f"/v1/jobs/{job.job}", key=key, reply=JobView)
    assert view.status is JobStatus.RUNNING
    await worker.disconnect()


async def test_blocks_on_their_way_count_once(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    await broker.submit(key, pipeline)
    grant = await worker.expect(Grant)
    before = used_bytes(broker)
    outputs = [bytes([number]) * 230_000 for number in range(4)]
    assert before + 4 * 230_000 < QUOTA < before + 5 * 230_000
    await asyncio.gather(*(worker.upload_output(grant, output) for output in outputs))
    assert used_bytes(broker) == before + 4 * 230_000
    with pytest.raises(LeaseGone, match="its output has no room"):
        await worker.upload_output(grant, bytes([4]) * 230_000)
    await worker.disconnect()


async def test_uploaded_blocks_ask_for_room(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    for _ in range(4):
        # Nobody offers to run it, so it fails at once.
        await broker.submit(key, pipeline, input=DOCUMENT, patience_s=0.0)
    await broker.running.parts.retention.sweep()
    assert kept_bytes(tmp_path) == 4 * len(DOCUMENT)
    blocks = [bytes([number]) * 200_000 for number in range(3)]
    for block in blocks[:2]:
        await broker.call("PUT", f"/v1/blocks/{cid_of_block(block, 'raw')}", key=key, body=block)
    await broker.running.parts.retention.sweep()
    assert kept_bytes(tmp_path) == 0
    await broker.call("PUT", f"/v1/blocks/{cid_of_block(blocks[2], 'raw')}", key=key, body=blocks[2])


async def test_a_dropped_output_counts_no_more(broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    await broker.submit(key, pipeline)
    grant = await worker.expect(Grant)
    before = used_bytes(broker)
    output = sample_input(size=150_000)
    await worker.upload_output(grant, output)
    assert used_bytes(broker) > before + len(output)
    leases: list[str] = []
    account_of_lease = KeptDocuments.account_of_lease

    def counted(documents: KeptDocuments, lease: str) -> str:
        leases.append(lease)
        return account_of_lease(documents, lease)

    monkeypatch.setattr(KeptDocuments, "account_of_lease", counted)
    await broker.running.parts.uploads.drop_output(grant.lease)
    assert used_bytes(broker) == before
    assert leases == [grant.lease], "its account is looked up once, however many blocks it has"
    await worker.disconnect()


async def test_an_inline_output_without_room_ends_the_job(tmp_path: Path) -> None:
    quota = 150_000
    async with local_broker(tmp_path, upload_bytes_max=quota) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        job = await broker.submit(key, pipeline, input=DOCUMENT)
        assert (await broker.result(key, job.job)).status is JobStatus.CANCELLED
        assert kept_bytes(tmp_path) <= quota
        assert (await broker.standing(worker)).evidence == ()
        await worker.disconnect()


async def fill_quota(broker: LocalBroker, key: str) -> None:
    """Upload blocks until not even the smallest fits."""
    parts = broker.running.parts
    while (room := parts.quota.bytes_max - used_bytes(broker)) >= BLOCK_BYTES_MIN:
        block = room.to_bytes(8, "big") + bytes(min(room, 1 << 20) - 8)
        await broker.call("PUT", f"/v1/blocks/{cid_of_block(block, 'raw')}", key=key, body=block)


@pytest.mark.parametrize("numbers", [25_000, 300_000], ids=["inline", "uploaded"])
async def test_a_reference_run_is_taken_whatever_its_submitters_quota(tmp_path: Path, numbers: int) -> None:
    """It comes after the job has ended, and the operator pays for it."""
    output = echo(sample_input(size=numbers))
    assert (len(output) > INLINE_BYTES_MAX) == (numbers == 300_000)
    quota = 4 * len(output)
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=1.0), upload_bytes_max=quota) as broker:
        key = await broker.account()
        pipeline = await broker.publish(
            key, SamplePipeline(limits=PipelineLimits(output_bytes=2 * len(output)))
        )
        auditor = await broker.worker("operator", auditor=True, script=lambda _: output)
        worker = await broker.worker(serve=True, script=lambda _: output)
        job = await broker.submit(key, pipeline)
        assert (await broker.result(key, job.job)).status is JobStatus.ACCEPTED
        grant = await auditor.expect(Grant)
        await fill_quota(broker, key)
        before = used_bytes(broker)
        if len(output) > INLINE_BYTES_MAX:
            await auditor.upload_output(grant, output)
        await auditor.answer(grant)
        # Its answer shows that nothing more comes for the reference run.
        await auditor.send(GiveBack("last", GiveBackReason.FAILED, RunnerFailed("").to_problem()))
        assert await auditor.expect(Acknowledged) == Acknowledged(grant.lease)
        assert [one.kind for one in (await broker.standing(worker)).evidence] == ["audit_passed"]
        assert used_bytes(broker) >= before + len(output)
        for one in (auditor, worker):
            await one.disconnect()


async def test_results_that_are_held_are_kept_and_older_ones_make_room(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock, upload_bytes_max=QUOTA) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        first = await broker.submit(key, pipeline, input=DOCUMENT)
        assert (await broker.result(key, first.job)).status is JobStatus.ACCEPTED
        for _ in range(3):
            await broker.result(key, (await broker.submit(key, pipeline, input=DOCUMENT)).job)
        await broker.running.parts.retention.sweep()
        before = kept_bytes(tmp_path)
        assert before == 4 * (len(DOCUMENT) + len(echo(DOCUMENT)))  # the payments are held
        clock.advance(3600)
        await broker.tick()
        await broker.running.parts.retention.sweep()
        assert kept_bytes(tmp_path) <= QUOTA // 2
        assert used_bytes(broker) >= kept_bytes(tmp_path)
        await worker.disconnect()
