"""Work that an owner breaks off, with a real broker and real runners: another finishes it, both are paid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import tradepost_kernels
from tradepost.protocol import JobStatus, PublishRequest
from tradepost.receipts import Preempted, StageReport, verify_receipt
from tradepost_broker.market.model.entities import Evidence, Lease, LeaseState
from tradepost_broker.storage import database
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_worker.assembly import worker_from_settings
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.leases.earnings import read_earnings, read_earnings_by_pipeline
from tradepost_worker.leases.lease_executor import PipelineRunner
from tradepost_worker.link.joining import join
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.settings import load_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_pool import RunnablePipeline
from tradepost_worker.testing.lent_device import spinning_kernel, until
from tradepost_worker.testing.samples import SamplePipeline, kernels_pipeline, sample_input

#: A second or so in the second stage: time enough to be preempted in its middle.
PIPELINE = kernels_pipeline(
    {
        "warm": spinning_kernel(100_000_000),
        "long": spinning_kernel(1_500_000_000),
        "last": tradepost_kernels.load("noop"),
    },
    wall_ms=600_000,
)
KEY = SigningKey.generate()


class Watched:
    """Runs pipelines on real runners, and says when one has finished a stage and goes on."""

    def __init__(self, runners: PipelineRunner) -> None:
        self._runners = runners
        self.reached = asyncio.Event()

    async def run(
        self, pipeline: RunnablePipeline, document: bytes, *, wall_s_max: float, on_stages: OnStages
    ) -> PipelineRun:
        def note(stages: tuple[StageReport, ...]) -> None:
            on_stages(stages)
            self.reached.set()

        return await self._runners.run(pipeline, document, wall_s_max=wall_s_max, on_stages=note)


@asynccontextmanager
async def real_worker(broker: LocalBroker, folder: Path, *, price: str) -> AsyncIterator[Watched]:
    """A worker with real runners, joined as its folder's owner's, and connected."""
    watched: list[Watched] = []

    def decorate(runners: PipelineRunner) -> PipelineRunner:
        watched.append(Watched(runners))
        return watched[0]

    token = await broker.token(folder.name)
    membership = await join(StateFolder(folder), broker_url=str(broker.url), token=token, device="lab")
    add_publisher(folder / "trust.toml", Publisher(name="a", key=KEY.public_key))
    # Not nice: on a busy machine the runs would take until the pipeline's time limit.
    settings = load_settings(
        {"state_dir": folder, "price_per_unit": price, "capacity": 1, "nice": 0, "mains_only": False}
    )
    stop = asyncio.Event()
    async with worker_from_settings(settings, decorate=decorate) as worker:
        running = asyncio.create_task(worker.run(stop))
        try:
            await until(lambda: broker.running.parts.market.is_connected(membership.worker))
            yield watched[0]
        finally:
            stop.set()
            await running


async def publish(broker: LocalBroker, key: str, pipeline: SamplePipeline) -> None:
    for cid, data in pipeline.blocks.items():
        if cid != pipeline.cid:
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)
    request = PublishRequest(manifest=pipeline.block, bundle=sign_bytes(pipeline.block, KEY))
    await broker.call("POST", "/v1/pipelines", key=key, body=request)


async def test_what_was_done_before_the_owner_came_back_is_paid(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with local_broker(tmp_path / "broker") as broker:
        key = await broker.account()
        await publish(broker, key, PIPELINE)
        async with (
            real_worker(broker, first, price="0.001") as cheap,
            real_worker(broker, second, price="0.002"),
        ):
            job = (await broker.submit(key, PIPELINE.cid, input=sample_input(1))).job
            async with asyncio.timeout(180):
                await cheap.reached.wait()
            OwnerCommandFile(StateFolder(first).owner_command).write(OwnerCommand(mode=Mode.PAUSE))
            view = await broker.result(key, job)
            await until(lambda: read_earnings(first / "worker.sqlite").leases)
        assert view.status is JobStatus.ACCEPTED

    reader = Reader(database.open_snapshot(tmp_path / "broker" / "broker.sqlite3"))
    broken_off, result = sorted(reader.find(Lease), key=lambda lease: lease.attempt)
    assert (broken_off.state, result.state) == (LeaseState.PREEMPTED, LeaseState.ACCEPTED)
    assert [name for name, _ in broken_off.stage_hashes] == ["warm"]
    assert broken_off.stage_hashes == result.stage_hashes[:1]
    share = broken_off.price_microcredits * result.stage_wall_us[0] // sum(result.stage_wall_us)
    assert broken_off.paid_microcredits == share > 0
    assert view.price_microcredits == result.price_microcredits + share

    kept = reader.get(Delivery, broken_off.id)
    assert kept is not None
    receipt = verify_receipt(kept.receipt)
    assert (receipt.outcome, receipt.lease) == (Preempted(), broken_off.id)
    assert list(reader.find(Evidence)) == []

    earned = read_earnings(first / "worker.sqlite")
    assert (earned.leases, earned.paid_leases, earned.earned_microcredits) == (1, 1, share)
    (by_pipeline,) = read_earnings_by_pipeline(first / "worker.sqlite")
    assert (by_pipeline.of, by_pipeline.earned_microcredits) == (PIPELINE.cid, share)

    books = verify_books(reader)
    reader.close()
    assert (books.differences, books.transfers > 0) == ([], True)
