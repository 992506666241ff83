"""The agent against a scripted broker: every lease has one end, whatever happens to either side."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from yarl import URL

import tradepost_kernels
from tradepost.content import Cid, FolderStore, add_bytes, read_file
from tradepost.content.fetch import Fetcher
from tradepost.content.sources import GatewaySource
from tradepost.errors import (
    BrokerUnavailable,
    KernelTrap,
    LeaseGone,
    LeaseTimeout,
    QuotaExceeded,
    RunnerFailed,
    Unauthorized,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    Acknowledged,
    Capabilities,
    Deliver,
    GiveBack,
    GiveBackReason,
    Offer,
    Recall,
    Revocations,
    Settled,
)
from tradepost.receipts import Failed, Returned, StageReport, verify_receipt
from tradepost.tensors import decode
from tradepost.testing.gateway import Gateway
from tradepost_signing.policy_file import add_publisher
from tradepost_signing.publisher import Publisher
from tradepost_worker.agent import Agent
from tradepost_worker.broker_api import BrokerApi
from tradepost_worker.lease_work import LeaseWork, PipelineRunner
from tradepost_worker.leases import Leases
from tradepost_worker.outbox import Outbox, read_earnings
from tradepost_worker.pipeline_run import PipelineRun
from tradepost_worker.pipelines import PipelineLibrary
from tradepost_worker.runner_pool import RunnablePipeline, RunnerPool
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import kernel_pipeline, model_pipeline, sample_input

NOOP = kernel_pipeline(tradepost_kernels.load("noop"))
MODEL = model_pipeline()
WORKER = Identity.generate()
ENGINES = {"tradepost": "0", "wasmtime": "0"}
REPORT = StageReport(stage="kernel", output="0" * 64)


class Immediately(random.Random):
    """Chance that always says: at once."""

    def uniform(self, a: float, b: float) -> float:
        return a


class PretendedRunners:
    """Runs pipelines as the test says: returns the input, waits, or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.run_made: PipelineRun | None = None
        self.hold = False
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.documents: list[bytes] = []

    async def run(self, pipeline: RunnablePipeline, document: bytes, *, wall_s_max: float) -> PipelineRun:
        self.documents.append(document)
        self.started.set()
        if self.hold:
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
        if self.error is not None:
            raise self.error
        return self.run_made or PipelineRun(stages=(REPORT,), output=document)


class Bench:
    """A fake broker and the means to start agents against it, all of one worker, one state folder."""

    def __init__(self, broker: FakeBroker, url: URL, folder: Path) -> None:
        self.broker = broker
        self.url = url
        self.folder = folder
        self.runners = PretendedRunners()
        self.capacity = 2
        self.now: Callable[[], float] = time.time
        self.memory_bytes_max = 4 << 30
        self.providers: tuple[str, ...] = ("cpu",)
        self.connections: list[bool] = []
        self.revocations: list[Revocations] = []
        self.gateways: list[str] = []

    @property
    def trust_path(self) -> Path:
        return self.folder / "trust.toml"

    def trust(self, **limits: Any) -> None:
        publisher = Publisher(name="alice", key=self.broker.publisher.public_key, **limits)
        add_publisher(self.trust_path, publisher)

    @asynccontextmanager
    async def agent(self, *, runners: PipelineRunner | None = None) -> AsyncIterator[asyncio.Task[None]]:
        """A running agent, connected; it is stopped as a signal would at the end."""
        async with AsyncExitStack() as stack:
            outbox = Outbox(self.folder / "worker.sqlite")
            stack.callback(outbox.close)
            api = await stack.enter_async_context(BrokerApi(self.url))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            pipelines = PipelineLibrary(
                broker=api,
                fetcher=Fetcher(
                    [GatewaySource(str(one), session=session) for one in (*self.gateways, self.url)],
                    store=FolderStore(self.folder / "blocks", bytes_max=1 << 20),
                ),
                trust_path=self.trust_path,
                providers=self.providers,
                memory_bytes_max=self.memory_bytes_max,
            )
            stack.push_async_callback(pipelines.close)
            work = LeaseWork(
                worker=WORKER,
                broker_id=self.broker.identity.id,
                broker=api,
                pipelines=pipelines,
                runners=runners or self.runners,
                engines=ENGINES,
                now=self.now,
            )
            agent = Agent(
                worker=WORKER,
                broker_id=self.broker.identity.id,
                broker=api,
                offer=Offer(
                    price_per_unit_microcredits=5,
                    capacity=self.capacity,
                    capabilities=Capabilities(
                        cores=1, memory_bytes=4 << 30, providers=("cpu",), engines=ENGINES
                    ),
                ),
                leases=Leases(
                    work=work, outbox=outbox, broker=api, capacity=self.capacity, rng=Immediately()
                ),
                pipelines=pipelines,
                outbox=outbox,
                rng=Immediately(),
                on_revocations=self.revocations.append,
                on_connection=self.connections.append,
                stop_s_max=0.2,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(agent.run(stop))
            try:
                yield running
            finally:
                stop.set()
                await asyncio.gather(running, return_exceptions=True)

    async def connected(self) -> None:
        async with asyncio.timeout(20):
            await self.broker.connected.wait()

    def pending(self) -> list[str]:
        """What the outbox on disk holds, with no agent running."""
        outbox = Outbox(self.folder / "worker.sqlite")
        try:
            return [end.lease for end in outbox.pending()]
        finally:
            outbox.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    broker = FakeBroker()
    broker.publish(NOOP)
    broker.publish(MODEL)
    async with TestServer(broker.app) as server:
        bench = Bench(broker, server.make_url("/"), tmp_path)
        bench.trust()
        yield bench


async def returned(bench: Bench, document: bytes = sample_input()) -> Deliver:
    """Grant a lease on NOOP and take the result that comes back."""
    await bench.broker.send(bench.broker.grant(NOOP, document))
    return await bench.broker.next(Deliver)


async def test_a_lease_ends_in_a_receipt_that_anyone_can_check(bench: Bench) -> None:
    pool = RunnerPool(runners_max=1)
    try:
        async with bench.agent(runners=pool):
            await bench.connected()
            document = sample_input(1, 2, 3)
            grant = bench.broker.grant(NOOP, document)
            await bench.broker.send(grant)
            delivered = await bench.broker.next(Deliver)
            assert (await bench.broker.offers.get()).warm == (NOOP.cid,)
    finally:
        await pool.close()
    receipt = verify_receipt(delivered.receipt)
    assert delivered.output == document
    assert receipt.outcome == Returned(output=add_bytes(document, put=None), output_bytes=len(document))
    assert (receipt.job, receipt.lease, receipt.attempt) == (grant.job, grant.lease, 1)
    assert (receipt.broker, receipt.worker) == (bench.broker.identity.id, WORKER.id)
    assert (receipt.pipeline, receipt.input) == (NOOP.cid, add_bytes(document, put=None))
    assert (receipt.nonce, receipt.expires_at) == (grant.nonce, grant.expires_at)
    assert [stage.stage for stage in receipt.stages] == ["kernel"]
    assert receipt.stages[0].fuel > 0
    assert receipt.engines == ENGINES
    assert bench.pending() == []


async def test_many_leases_travel_in_few_messages(bench: Bench) -> None:
    bench.capacity = 64
    async with bench.agent():
        await bench.connected()
        await returned(bench)
        before = bench.broker.messages
        await bench.broker.send(*(bench.broker.grant(NOOP, sample_input(n)) for n in range(64)))
        leases = {(await bench.broker.next(Deliver)).lease for _ in range(64)}
        assert len(leases) == 64
        assert bench.broker.messages - before < 32


async def test_what_was_earned_is_recorded_and_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench.agent():
        await bench.connected()
        delivered = await returned(bench)
        await bench.broker.send(
            Settled(delivered.lease, "accepted", 12_500, "2 of 2 agree"),
            Settled("lease-x", "rejected", 0, "outvoted"),
        )
        await returned(bench)  # granted after those were sent
    earned = read_earnings(bench.folder / "worker.sqlite")
    assert (earned.leases, earned.paid_leases, earned.earned_microcredits) == (2, 1, 12_500)
    (line, _) = [record for record in caplog.records if record.__dict__.get("action") == "lease_settled"]
    assert line.getMessage() == "Lease lease-1 is accepted, earned 0.0125 credits: 2 of 2 agree"


@pytest.mark.parametrize("forger", ["signature", "key"])
async def test_a_broker_that_is_not_the_one_joined_learns_nothing(
    bench: Bench, forger: str, caplog: pytest.LogCaptureFixture
) -> None:
    genuine = bench.broker.identity
    if forger == "signature":
        bench.broker.impostor = Identity.generate()
    async with bench.agent():
        if forger == "key":
            bench.broker.identity = Identity.generate()
        async with asyncio.timeout(20):
            for _ in range(3):
                await bench.broker.challenged.get()
        assert bench.broker.hellos == []
        # The genuine one comes back, and the worker with it.
        bench.broker.identity, bench.broker.impostor = genuine, None
        await bench.connected()
    codes = {record.__dict__.get("code") for record in caplog.records}
    assert codes & {"invalid-signature", "protocol-error"}


async def test_a_broker_that_refuses_this_worker_ends_it(bench: Bench) -> None:
    bench.broker.refusal = Unauthorized("this worker was expelled")
    async with bench.agent() as running:
        with pytest.raises(Unauthorized, match="expelled"):
            await running


async def given_back(bench: Bench, **changes: Any) -> GiveBack:
    await bench.broker.send(bench.broker.grant(NOOP, sample_input(), **changes))
    return await bench.broker.next(GiveBack)


async def test_a_pipeline_that_the_owner_does_not_trust_is_refused(bench: Bench) -> None:
    bench.trust_path.unlink()
    async with bench.agent():
        await bench.connected()
        refused = await given_back(bench)
        assert (refused.reason, refused.problem.code) == (GiveBackReason.REFUSED, "untrusted-pipeline")
        # The owner changes their mind while the worker runs, and back.
        bench.trust()
        await returned(bench)
        bench.trust_path.unlink()
        refused = await given_back(bench)
        assert refused.problem.code == "untrusted-pipeline"
    assert bench.runners.documents == [sample_input()]


async def test_a_policy_that_cannot_be_read_trusts_nobody(bench: Bench) -> None:
    bench.trust_path.write_text("publisher = 3")
    async with bench.agent():
        await bench.connected()
        refused = await given_back(bench)
    assert (refused.reason, refused.problem.code) == (GiveBackReason.REFUSED, "invalid-trust-policy")


async def test_other_bytes_than_the_cid_promises_run_nowhere(bench: Bench) -> None:
    kernel = Cid(next(iter(NOOP.artifacts)))
    bench.broker.blocks[kernel] = b"something else"
    async with bench.agent():
        await bench.connected()
        end = await given_back(bench)
    assert (end.reason, end.problem.code) == (GiveBackReason.FAILED, "content-unavailable")
    assert set(end.problem.facts["sources"].values()) == {"content-mismatch"}
    assert end.problem.stage == "kernel"
    assert bench.runners.documents == []


class OneAnswer:
    """A store that has the same bytes for every CID."""

    def get(self, cid: Cid) -> bytes:
        return b"something else"

    def has(self, cid: Cid) -> bool:
        return True


async def test_a_gateway_that_lies_is_named_and_the_broker_is_asked(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(OneAnswer())
    async with gateway.serve() as url:
        bench.gateways = [url]
        async with bench.agent():
            await bench.connected()
            await returned(bench)
            await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
            await bench.broker.next(Deliver)
    assert len(gateway.asked) == 1  # and not again for a while
    (line,) = [record for record in caplog.records if record.__dict__.get("action") == "source_put_aside"]
    assert line.__dict__["source"] == url
    assert url in line.getMessage()


async def test_a_gateway_saves_the_broker_the_artifacts(bench: Bench, tmp_path: Path) -> None:
    mirror = FolderStore(tmp_path / "mirror", bytes_max=1 << 20)
    for cid, block in bench.broker.blocks.items():
        mirror.put(cid, block)
    bench.broker.blocks.clear()
    gateway = Gateway(mirror)
    async with gateway.serve() as url:
        bench.gateways = [url]
        async with bench.agent():
            await bench.connected()
            await returned(bench)
    assert set(gateway.asked) == set(NOOP.artifacts)


async def test_a_cached_block_that_the_disk_changed_is_fetched_again(bench: Bench) -> None:
    async with bench.agent():
        await bench.connected()
        await returned(bench)
    for block in (bench.folder / "blocks").glob("??/b*"):
        block.write_bytes(b"changed")
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        await returned(bench)


async def test_a_manifest_for_another_cid_runs_nowhere(bench: Bench) -> None:
    bench.broker.pipelines[NOOP.cid] = bench.broker.pipelines[MODEL.cid]
    async with bench.agent():
        await bench.connected()
        assert (await given_back(bench)).problem.code == "content-mismatch"


async def test_a_pipeline_beyond_the_device_is_refused(bench: Bench) -> None:
    bench.memory_bytes_max = 1 << 20
    async with bench.agent():
        await bench.connected()
        end = await given_back(bench)
        assert (end.reason, end.problem.code) == (GiveBackReason.REFUSED, "no-eligible-worker")
    bench.memory_bytes_max, bench.providers = 4 << 30, ("cuda",)
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
        end = await bench.broker.next(GiveBack)
        assert (end.reason, end.problem.code) == (GiveBackReason.REFUSED, "no-eligible-worker")


async def test_a_model_runs_only_on_providers_that_the_owner_allows(bench: Bench) -> None:
    bench.trust_path.unlink()
    bench.trust(providers=("cuda",))
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
        assert (await bench.broker.next(GiveBack)).problem.code == "untrusted-pipeline"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires_at": 1}, "deadline-exceeded"),
        ({"input": None}, "protocol-error"),
        ({"input_cid": "x"}, "protocol-error"),
        ({"pipeline": "no-cid"}, "invalid-cid"),
    ],
    ids=["expired", "no input", "two inputs", "no pipeline"],
)
async def test_a_grant_that_makes_no_sense_is_given_back(
    bench: Bench, changes: dict[str, Any], code: str
) -> None:
    async with bench.agent():
        await bench.connected()
        assert (await given_back(bench, **changes)).problem.code == code
    assert bench.runners.documents == []


async def test_more_leases_than_offered_are_given_back(bench: Bench) -> None:
    bench.capacity, bench.runners.hold = 1, True
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        assert (await given_back(bench)).problem.code == "quota-exceeded"


async def test_a_stage_failure_is_a_signed_result(bench: Bench) -> None:
    failure = KernelTrap("unreachable", stage="kernel").to_problem()
    bench.runners.run_made = PipelineRun(stages=(), failure=failure)
    async with bench.agent():
        await bench.connected()
        delivered = await returned(bench)
    assert delivered.output is None
    receipt = verify_receipt(delivered.receipt)
    assert receipt.outcome == Failed(stage="kernel", code="kernel-trap", detail="unreachable")


async def test_an_artifact_that_loads_nowhere_is_a_signed_result(bench: Bench) -> None:
    bench.runners.error = KernelTrap("bad module", stage="kernel")
    async with bench.agent():
        await bench.connected()
        delivered = await returned(bench)
    assert isinstance(verify_receipt(delivered.receipt).outcome, Failed)


@pytest.mark.parametrize("error", [RunnerFailed("crash"), LeaseTimeout("late"), ZeroDivisionError()])
async def test_what_depends_on_the_device_is_never_signed(bench: Bench, error: Exception) -> None:
    bench.runners.error = error
    async with bench.agent():
        await bench.connected()
        assert (await given_back(bench)).reason is GiveBackReason.FAILED


async def test_a_stack_overflow_is_never_signed(bench: Bench) -> None:
    failure = KernelTrap("stack overflow", stage="kernel", reason="stack-overflow").to_problem()
    bench.runners.run_made = PipelineRun(stages=(), failure=failure)
    async with bench.agent():
        await bench.connected()
        end = await given_back(bench)
    assert (end.reason, end.problem.code) == (GiveBackReason.FAILED, "runner-failed")


async def test_large_documents_travel_as_blocks(bench: Bench) -> None:
    document = sample_input(*range(400_000))
    blocks: dict[Cid, bytes] = {}
    cid = add_bytes(document, put=blocks.__setitem__)
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, None, input_cid=cid)
        bench.broker.lease_blocks |= {(grant.lease, block): data for block, data in blocks.items()}
        await bench.broker.send(grant)
        delivered = await bench.broker.next(Deliver)
    assert delivered.output is None
    receipt = verify_receipt(delivered.receipt)
    assert receipt.input == cid
    assert isinstance(receipt.outcome, Returned)

    async def uploaded(block: Cid) -> bytes:
        return bench.broker.lease_blocks[grant.lease, block]

    output = await read_file(Cid(receipt.outcome.output), uploaded, bytes_max=1 << 30)
    assert decode(output)["x"].tolist() == list(range(400_000))


LARGE = sample_input(*range(400_000))


async def test_an_upload_is_tried_again(bench: Bench) -> None:
    bench.broker.upload_errors = [BrokerUnavailable("busy"), BrokerUnavailable("busy")]
    bench.runners.run_made = PipelineRun(stages=(REPORT,), output=LARGE)
    async with bench.agent():
        await bench.connected()
        delivered = await returned(bench)
    assert delivered.output is None
    assert sum(len(data) for data in bench.broker.lease_blocks.values()) > len(LARGE)


async def test_an_output_that_the_broker_does_not_take_is_given_back(bench: Bench) -> None:
    bench.broker.upload_errors = [QuotaExceeded("too much")]
    bench.runners.run_made = PipelineRun(stages=(REPORT,), output=LARGE)
    async with bench.agent():
        await bench.connected()
        assert (await given_back(bench)).problem.code == "quota-exceeded"
    assert bench.pending() == []


async def test_a_recall_stops_the_run(bench: Bench) -> None:
    bench.capacity, bench.runners.hold = 1, True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
        await bench.broker.send(Recall(grant.lease))
        async with asyncio.timeout(20):
            await bench.runners.stopped.wait()
        # Its place is free again.
        bench.runners.hold = False
        assert (await returned(bench)).lease != grant.lease
    assert bench.pending() == []


async def test_a_result_without_acknowledgement_is_delivered_again_after_a_reconnect(bench: Bench) -> None:
    bench.broker.acknowledges = False
    async with bench.agent():
        await bench.connected()
        first = await returned(bench)
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == (first.lease,)
        assert await bench.broker.next(Deliver) == first
        await bench.broker.send(Acknowledged(first.lease))
        bench.broker.held.clear()
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == ()
    assert bench.connections == [True, False] * 3


async def test_a_result_survives_the_workers_restart(bench: Bench) -> None:
    bench.broker.acknowledges = False
    async with bench.agent():
        await bench.connected()
        first = await returned(bench)
    assert bench.pending() == [first.lease]
    bench.broker.acknowledges = True
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        assert await bench.broker.next(Deliver) == first
    assert bench.pending() == []


async def test_work_goes_on_while_the_broker_is_away(bench: Bench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == (grant.lease,)
        assert not bench.runners.stopped.is_set()


async def test_a_lease_that_the_broker_gave_up_is_stopped_after_a_reconnect(bench: Bench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        await bench.runners.started.wait()
        bench.broker.held.clear()
        await bench.broker.drop()
        async with asyncio.timeout(20):
            await bench.runners.stopped.wait()


async def test_a_lease_that_a_restart_lost_is_given_back(bench: Bench) -> None:
    bench.broker.held.add("lease-of-before")
    async with bench.agent():
        end = await bench.broker.next(GiveBack)
    assert (end.lease, end.reason) == ("lease-of-before", GiveBackReason.FAILED)


async def test_a_lease_that_expires_while_it_runs_is_given_back(bench: Bench) -> None:
    bench.runners.hold = True
    bench.now = lambda: 999.0  # enough to be running before it is over
    async with bench.agent():
        await bench.connected()
        assert (await given_back(bench, expires_at=1000)).problem.code == "deadline-exceeded"
    assert bench.runners.stopped.is_set()


async def test_a_repeated_grant_runs_once(bench: Bench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant, grant)
        await bench.runners.started.wait()
        bench.runners.hold = False
        await returned(bench, sample_input(2))
        assert bench.runners.documents == [sample_input(), sample_input(2)]


async def test_a_result_that_came_too_late_is_forgotten(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.broker.acknowledges = False
    async with bench.agent():
        await bench.connected()
        late = await returned(bench)
        await bench.broker.send(Acknowledged(late.lease, LeaseGone("expired").to_problem()))
        await returned(bench)
    assert late.lease not in bench.pending()
    assert "lease_not_taken" in {record.__dict__.get("action") for record in caplog.records}


async def test_a_worker_that_is_stopped_gives_back_what_runs(bench: Bench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
    end = await bench.broker.next(GiveBack)
    assert (end.lease, end.reason) == (grant.lease, GiveBackReason.PREEMPTED)
