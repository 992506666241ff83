"""A bench for agents: a scripted broker, runners that pretend, and any number of agents of one worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from yarl import URL

import tradepost_kernels
from tradepost.content import FolderStore
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource
from tradepost.identity import Identity
from tradepost.protocol import Capabilities, Deliver, GiveBack, Offer, Revocations
from tradepost.receipts import StageReport
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_worker.leases.agent import Agent, AgentHooks
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.leases.lease_executor import LeaseExecutor, PipelineRunner
from tradepost_worker.leases.outbox import Outbox
from tradepost_worker.leases.pipelines import PipelineLibrary
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.joined_broker import JoinedBroker
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_pool import RunnablePipeline
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import kernel_pipeline, model_pipeline, sample_input

NOOP = kernel_pipeline(tradepost_kernels.load("noop"))
MODEL = model_pipeline()
WORKER = Identity.generate()
ENGINES = {"tradepost": "0", "wasmtime": "0"}
REPORT = StageReport(stage="kernel", output="0" * 64)


class Immediately(random.Random):
    """Chance that always gives the least: at once, where a wait may be that short.

    `asked` are the bounds of each wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return a


class PretendedRunners:
    """Runs pipelines as the test says: returns the input, waits, or fails."""

    def __init__(self) -> None:
        """`error` or `run_made` is how a run ends; with `hold` it does not end by itself.

        `stages` are reported as done before that.
        """
        self.error: Exception | None = None
        self.run_made: PipelineRun | None = None
        self.hold = False
        self.stages: tuple[StageReport, ...] = ()
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.documents: list[bytes] = []

    async def run(
        self, pipeline: RunnablePipeline, document: bytes, *, wall_s_max: float, on_stages: OnStages
    ) -> PipelineRun:
        self.documents.append(document)
        if self.stages:
            on_stages(self.stages)
        self.started.set()
        if self.hold:
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
        if self.error is not None:
            raise self.error
        return self.run_made or PipelineRun(stages=(REPORT,), output=document)


class AgentBench:
    """A fake broker and the means to start agents against it, all of one worker, one state folder.

    A test changes the attributes before it starts an agent. An agent that is stopped waits up to `stop_s_max`
    seconds for the broker to acknowledge everything: a test whose broker does not makes it short.
    """

    def __init__(self, broker: FakeBroker, url: URL, folder: Path) -> None:
        self.broker = broker
        self.url = url
        self.folder = folder
        self.runners = PretendedRunners()
        self.capacity = 2
        self.rng = Immediately()
        self.fetch_log_s = 5.0
        self.stop_s_max = 60.0
        self.memory_bytes_max = 4 << 30
        self.providers: tuple[str, ...] = ("cpu",)
        self.connections: list[bool] = []
        self.revocations: list[Revocations] = []
        self.gateways: list[str] = []

    @property
    def trust_path(self) -> Path:
        """The owner's trust policy."""
        return self.folder / "trust.toml"

    def trust(self, **limits: Any) -> None:
        """Trust the broker's publisher, within these limits."""
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
                fetch_log_s=self.fetch_log_s,
            )
            stack.push_async_callback(pipelines.close)
            broker = JoinedBroker(api=api, broker_id=self.broker.identity.id, worker=WORKER)
            executor = LeaseExecutor(
                broker=broker,
                pipelines=pipelines,
                runners=runners or self.runners,
                engines=ENGINES,
                rng=self.rng,
            )
            agent = Agent(
                broker=broker,
                offer=Offer(
                    price_per_unit_microcredits=5,
                    capacity=self.capacity,
                    capabilities=Capabilities(
                        cores=1, memory_bytes=4 << 30, providers=("cpu",), engines=ENGINES
                    ),
                ),
                leases=HeldLeases(
                    executor=executor, outbox=outbox, broker=api, capacity=self.capacity, rng=self.rng
                ),
                pipelines=pipelines,
                hooks=AgentHooks(
                    on_revocations=self.revocations.append,
                    on_connected=lambda _: self.connections.append(True),
                    on_disconnected=lambda _: self.connections.append(False),
                ),
                rng=self.rng,
                stop_s_max=self.stop_s_max,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(agent.run(stop))
            try:
                yield running
            finally:
                stop.set()
                await asyncio.gather(running, return_exceptions=True)

    async def connected(self) -> None:
        """Wait until an agent is connected."""
        async with asyncio.timeout(180):
            await self.broker.connected.wait()

    def pending(self) -> list[str]:
        """What the outbox on disk holds, with no agent running."""
        outbox = Outbox(self.folder / "worker.sqlite")
        try:
            return [end.lease for end in outbox.pending()]
        finally:
            outbox.close()

    async def returned(self, document: bytes = sample_input()) -> Deliver:
        """Grant a lease on `NOOP`; the result that comes back."""
        await self.broker.send(self.broker.grant(NOOP, document))
        return await self.broker.next(Deliver)

    async def given_back(self, **changes: Any) -> GiveBack:
        """Grant a lease on `NOOP`, with these changes; how it is given back."""
        await self.broker.send(self.broker.grant(NOOP, sample_input(), **changes))
        return await self.broker.next(GiveBack)


@asynccontextmanager
async def agent_bench(folder: Path) -> AsyncIterator[AgentBench]:
    """A bench whose broker has `NOOP` and `MODEL`, by a publisher that the worker's owner trusts."""
    broker = FakeBroker()
    broker.publish(NOOP)
    broker.publish(MODEL)
    async with TestServer(broker.app) as server:
        bench = AgentBench(broker, server.make_url("/"), folder)
        bench.trust()
        yield bench
