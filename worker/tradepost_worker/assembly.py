"""Builds a worker's parts from its settings and state, and takes them apart again in the right order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from tradepost.broker_url import parse_broker_url
from tradepost.content import FolderStore
from tradepost.errors import InvalidSettings
from tradepost.protocol import Offer
from tradepost_worker.agent import Agent
from tradepost_worker.broker_api import BrokerApi
from tradepost_worker.capabilities import probe_capabilities
from tradepost_worker.lease_work import LeaseWork, PipelineRunner
from tradepost_worker.leases import Leases
from tradepost_worker.outbox import Outbox
from tradepost_worker.pipelines import PipelineLibrary
from tradepost_worker.runner_pool import RunnerPool
from tradepost_worker.runner_process import RunnerProcess
from tradepost_worker.settings import Settings
from tradepost_worker.state import StateFolder

#: Puts something between the agent and its runners; the worker itself puts nothing there.
Decorate = Callable[[PipelineRunner], PipelineRunner]


@asynccontextmanager
async def agent_from_settings(
    settings: Settings, *, decorate: Decorate = lambda runners: runners
) -> AsyncIterator[Agent]:
    """An agent with all its parts, for the broker that this device joined; they are closed at the end.

    Raises `InvalidSettings` if the device has not joined or is in use, and `RunnerFailed` or
    `SandboxUnavailable` if no runner starts here.
    """
    state = StateFolder(settings.state_dir)
    membership = state.membership()
    if membership is None:
        raise InvalidSettings(
            f"no device has joined from {state.path}", hint="tradepost worker join URL --token TOKEN"
        )
    async with AsyncExitStack() as stack:
        stack.enter_context(state.in_use())
        outbox = Outbox(state.database)
        stack.callback(outbox.close)
        broker = await stack.enter_async_context(BrokerApi(parse_broker_url(membership.broker_url)))
        first = await RunnerProcess.start(threads=settings.threads_per_runner)
        runners = RunnerPool(
            runners_max=settings.runners_max,
            start=lambda: RunnerProcess.start(threads=settings.threads_per_runner),
            spare=first,
        )
        stack.push_async_callback(runners.close)
        capabilities = probe_capabilities(first.ready, settings)
        pipelines = PipelineLibrary(
            broker=broker,
            store=FolderStore(state.blocks, bytes_max=settings.cache_bytes_max),
            trust_path=settings.trust_path,
            providers=capabilities.providers,
            memory_bytes_max=settings.memory_bytes_max,
        )
        stack.push_async_callback(pipelines.close)
        worker = state.identity()
        rng = random.Random()  # noqa: S311 - it spreads reconnects; nothing depends on it being secret
        work = LeaseWork(
            worker=worker,
            broker_id=membership.broker,
            broker=broker,
            pipelines=pipelines,
            runners=decorate(runners),
            engines=capabilities.engines,
        )
        yield Agent(
            worker=worker,
            broker_id=membership.broker,
            broker=broker,
            offer=Offer(
                price_per_unit_microcredits=settings.price_per_unit_microcredits,
                capacity=settings.capacity,
                capabilities=capabilities,
            ),
            leases=Leases(work=work, outbox=outbox, broker=broker, capacity=settings.capacity, rng=rng),
            pipelines=pipelines,
            outbox=outbox,
            rng=rng,
            on_connection=state.set_connected,
        )
