"""Builds a worker's parts from its settings and state, and takes them apart again in the right order."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp

from tradepost.broker_url import parse_broker_url
from tradepost.content import FolderStore
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource
from tradepost.errors import WrongMoment
from tradepost.protocol import Offer
from tradepost_worker.device.governor import Governor
from tradepost_worker.device.limits import Limits
from tradepost_worker.device.owner_command import OwnersWordFile
from tradepost_worker.device.sensors import Sensors
from tradepost_worker.device.telemetry import StageLatencies, device_health
from tradepost_worker.leases.agent import Agent
from tradepost_worker.leases.capabilities import probe_capabilities
from tradepost_worker.leases.held_leases import Leases
from tradepost_worker.leases.lease_executor import LeaseWork, PipelineRunner
from tradepost_worker.leases.limits_enforcer import Steward
from tradepost_worker.leases.outbox import Outbox
from tradepost_worker.leases.pipelines import PipelineLibrary
from tradepost_worker.leases.revocations import RevocationGuard, open_revocations
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.network_rate import NetworkRate
from tradepost_worker.settings import LiveLimits, Settings, available_cores
from tradepost_worker.state import Standing, StateFolder
from tradepost_worker.supervision.background_runner import NicedRunner
from tradepost_worker.supervision.compile_cache import CompileCache
from tradepost_worker.supervision.control_group import ControlGroups
from tradepost_worker.supervision.cpu_throttle import CpuShare
from tradepost_worker.supervision.runner_limits import RunnerGroup
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.supervision.speed import measured_again

log = logging.getLogger(__name__)

#: Puts something between the agent and its runners; the worker itself puts nothing there.
Decorate = Callable[[PipelineRunner], PipelineRunner]


class Worker:
    """An agent, and the steward that keeps it within its owner's will. Neither works without the other."""

    def __init__(self, *, agent: Agent, steward: Steward) -> None:
        self._agent = agent
        self._steward = steward

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, or a drain is done. Raises what the agent or the steward raises."""
        await self._steward.look()  # before anything is offered
        tasks = [asyncio.create_task(part.run(stop)) for part in (self._steward, self._agent)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end


@asynccontextmanager
async def worker_from_settings(
    settings: Settings, *, decorate: Decorate = lambda runners: runners
) -> AsyncIterator[Worker]:
    """A worker with all its parts, for the broker that this device joined; they are closed at the end.

    Raises `WrongMoment` if the device has not joined or its worker runs already, and `RunnerFailed` or
    `SandboxUnavailable` if no runner starts here.
    """
    state = StateFolder(settings.state_dir)
    membership = state.membership()
    if membership is None:
        raise WrongMoment(
            f"the state folder {state.path} contains no joined device",
            hint="tradepost worker join URL --token TOKEN",
        )
    async with AsyncExitStack() as stack:
        stack.enter_context(state.in_use())
        outbox = Outbox(state.database)
        stack.callback(outbox.close)
        rate = NetworkRate(settings.network_bytes_per_s_max)
        url = parse_broker_url(membership.broker_url)
        broker = await stack.enter_async_context(BrokerApi(url, rate=rate))
        threads = settings.threads_per_runner
        control_groups = ControlGroups.open(threads=threads)
        group = RunnerGroup(
            limits=settings.limits,
            start_runner=partial(NicedRunner.start, threads=threads, groups=control_groups),
        )
        first = await group.start()
        if (speed := await measured_again(state.path, first.ready, threads=threads)) is not None:
            log.info(
                "Measured the speed again, because the device or its engines changed: %s",
                speed,
                extra={"action": "speed_measured"},
            )
        runners = RunnerPool(
            runners_max=settings.runners_max,
            start=group.start,
            spare=first,
            compile_cache=CompileCache(state.compiled, bytes_max=settings.compiled_bytes_max),
            memory_bytes_max=settings.memory_bytes_max,
        )
        stack.push_async_callback(runners.close)
        capabilities = probe_capabilities(first.ready, settings)
        revocations = open_revocations(state, membership)
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        pipelines = PipelineLibrary(
            broker=broker,
            fetcher=Fetcher(
                [GatewaySource(one, session=session) for one in (str(url), *settings.gateways)],
                store=FolderStore(state.blocks, bytes_max=settings.cache_bytes_max),
                pace=rate.take,
            ),
            trust_path=settings.trust_path,
            providers=capabilities.providers,
            memory_bytes_max=settings.memory_bytes_max,
            revocations=None if revocations is None else revocations.current,
        )
        stack.push_async_callback(pipelines.close)
        worker = state.identity()
        rng = random.Random()  # noqa: S311 - it spreads reconnects; nothing depends on it being secret
        latencies = StageLatencies()
        work = LeaseWork(
            worker=worker,
            broker_id=membership.broker,
            broker=broker,
            pipelines=pipelines,
            runners=decorate(runners),
            engines=capabilities.engines,
            latencies=latencies,
        )
        leases = Leases(work=work, outbox=outbox, broker=broker, capacity=settings.capacity, rng=rng)
        guard = RevocationGuard(
            store=revocations, pipelines=pipelines, leases=leases, end_runners=runners.end
        )
        agent = Agent(
            worker=worker,
            broker_id=membership.broker,
            broker=broker,
            offer=Offer(
                price_per_unit_microcredits=settings.price_per_unit_microcredits,
                capacity=settings.capacity,
                capabilities=capabilities,
            ),
            leases=leases,
            pipelines=pipelines,
            outbox=outbox,
            rng=rng,
            on_revocations=guard.take,
            on_connection=state.set_connected,
            health=lambda: device_health(
                steward.readings,
                steward.decision,
                latencies,
                queue=leases.running,
                preemptions=leases.preemptions,
            ),
        )

        def hold(limits: Limits) -> None:
            group.hold(limits)
            rate.bytes_per_s_max = limits.network_bytes_per_s_max
            runners.memory_bytes_max = limits.memory_bytes_max
            pipelines.hold_memory(limits.memory_bytes_max)
            agent.offer_memory(limits.memory_bytes_max)

        def show() -> None:
            state.set_standing(
                Standing(
                    at=time.time(),
                    decision=steward.decision,
                    readings=steward.readings,
                    limits=steward.limits,
                    running=leases.running,
                    preemptions=leases.preemptions,
                    isolation=capabilities.isolation,
                )
            )

        steward = Steward(
            word=OwnersWordFile(state.owners_word),
            read_limits=LiveLimits(settings).read,
            hold=hold,
            sensors=Sensors(state.path),
            governor=Governor(capacity=settings.capacity),
            leases=leases,
            runner_pids=group.pids,
            share=CpuShare(cores=available_cores(), runners=group.alive),
            offer_capacity=agent.offer_capacity,
            end_runners=runners.close,
            on_change=show,
        )
        yield Worker(agent=agent, steward=steward)
