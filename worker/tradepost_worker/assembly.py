"""Builds a worker's parts from its settings and state, and closes them again in the right order."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from tradepost.broker_url import parse_broker_url
from tradepost.content import FolderStore
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource
from tradepost.errors import WrongMoment
from tradepost.identity import Identity
from tradepost.protocol import Capabilities, DeviceHealth, Offer, Welcome
from tradepost_signing.policy.revocation_store import RevocationStore
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.device.device_monitor import DeviceMonitor
from tradepost_worker.device.governor import CLOCK_SKEW_S_SHOWN, SETTLE_S, Governor
from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.device.owner_command import OwnerCommandFile
from tradepost_worker.device.sensors import Sensors
from tradepost_worker.device.telemetry import StageLatencies, device_health
from tradepost_worker.leases.agent import Agent, AgentHooks
from tradepost_worker.leases.capabilities import probe_capabilities
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.leases.lease_executor import LeaseExecutor, PipelineRunner
from tradepost_worker.leases.limits_enforcer import LimitsEnforcer
from tradepost_worker.leases.outbox import Outbox
from tradepost_worker.leases.pipelines import PipelineLibrary
from tradepost_worker.leases.revocations import RevocationGuard, open_revocations
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.broker_clock import BrokerClock
from tradepost_worker.link.joined_broker import JoinedBroker
from tradepost_worker.link.network_rate import NetworkRate
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import LiveLimits, Settings, available_cores
from tradepost_worker.state import Membership, StateFolder, WorkerStatus
from tradepost_worker.supervision.compile_cache import CompileCache
from tradepost_worker.supervision.control_group import ControlGroups
from tradepost_worker.supervision.cpu_throttle import CpuThrottle
from tradepost_worker.supervision.runner_limits import RunnerLimits
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.supervision.speed import measured_again
from tradepost_worker.wording import skewed

log = logging.getLogger(__name__)

#: Puts something between the agent and its runners; the worker itself puts nothing there.
Decorate = Callable[[PipelineRunner], PipelineRunner]


class AssembledWorker:
    """An agent, and the enforcer of its owner's limits. Neither works without the other."""

    def __init__(self, *, agent: Agent, enforcer: LimitsEnforcer) -> None:
        self._agent = agent
        self._enforcer = enforcer

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, or a drain is done. Raises what the agent or the enforcer raises."""
        await self._enforcer.enforce()  # before anything is offered
        tasks = [asyncio.create_task(part.run(stop)) for part in (self._enforcer, self._agent)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end


async def run_worker(assembling: AbstractAsyncContextManager[AssembledWorker], stop: asyncio.Event) -> None:
    """Start a worker, and run it until `stop` is set, which ends the start as well.

    A start waits for a runner's engines and perhaps measures the device: minutes on a busy one.
    """
    is_started = False

    async def start_and_run() -> None:
        nonlocal is_started
        async with assembling as worker:
            is_started = True
            await worker.run(stop)

    running = asyncio.create_task(start_and_run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not is_started:
            running.cancel()
        await asyncio.wait((running,))
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
    if not running.cancelled():
        running.result()


@dataclass(frozen=True, kw_only=True)
class _Link:
    """The broker, and the rate at which content moves to and from here."""

    broker: JoinedBroker
    rate: NetworkRate


@dataclass(frozen=True, kw_only=True)
class _Runners:
    """The runners, by pipeline (`pool`) and within the limits, and what the first of them reported."""

    pool: RunnerPool
    limits: RunnerLimits
    ready: Ready


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the agent and the enforcer of limits share."""

    state: StateFolder
    link: _Link
    runners: _Runners
    capabilities: Capabilities
    pipelines: PipelineLibrary
    leases: HeldLeases
    monitor: DeviceMonitor
    clock: BrokerClock


@asynccontextmanager
async def worker_from_settings(
    settings: Settings, *, decorate: Decorate = lambda runners: runners, settle_s: float = SETTLE_S
) -> AsyncIterator[AssembledWorker]:
    """A worker with all its parts, for the broker that this device joined; they are closed at the end.
    `settle_s` is as `Governor` takes it.

    Raises `WrongMoment` if the device has not joined or its worker runs already, `RunnerFailed` or
    `SandboxUnavailable` if no runner starts here, and for a file of the state folder that cannot be used
    `StateFileDamaged`, `InvalidTrustPolicy`, `InvalidRevocations`, `ContentStoreUnusable`, or what
    `open_database` raises.
    """
    state = StateFolder(settings.state_dir)
    membership = _require_membership(state)
    async with AsyncExitStack() as stack:
        stack.enter_context(state.in_use())
        identity = state.joined_identity(membership)
        TrustPolicy.load(settings.trust_path)  # each pipeline needs it; what is wrong with it is found now
        outbox = Outbox(state.database)
        stack.callback(outbox.close)
        revocations = open_revocations(state, membership)
        store = FolderStore(state.blocks, bytes_max=settings.cache_bytes_max)
        link = await _open_link(settings, identity, membership, stack)
        runners = await _start_runners(settings, state, stack)
        capabilities = probe_capabilities(runners.ready, settings)
        pipelines = await _open_pipelines(settings, store, link, capabilities, revocations, stack)
        latencies = StageLatencies()
        clock = BrokerClock()
        rng = random.Random()  # noqa: S311 - it spreads reconnects; nothing depends on it being secret
        parts = _Parts(
            state=state,
            link=link,
            runners=runners,
            capabilities=capabilities,
            pipelines=pipelines,
            leases=HeldLeases(
                executor=LeaseExecutor(
                    broker=link.broker,
                    pipelines=pipelines,
                    runners=decorate(runners.pool),
                    engines=capabilities.engines,
                    rng=rng,
                    latencies=latencies,
                ),
                outbox=outbox,
                broker=link.broker.api,
                capacity=settings.capacity,
                rng=rng,
            ),
            monitor=_monitor(settings, state, runners, clock, settle_s),
            clock=clock,
        )
        agent = _agent(settings, parts, revocations, latencies, rng)
        yield AssembledWorker(agent=agent, enforcer=_enforcer(parts, agent))


def _require_membership(state: StateFolder) -> Membership:
    membership = state.membership()
    if membership is None:
        raise WrongMoment(
            f"the state folder {state.path} contains no joined device",
            hint="tradepost worker join URL --token TOKEN",
        )
    return membership


async def _open_link(
    settings: Settings, identity: Identity, membership: Membership, stack: AsyncExitStack
) -> _Link:
    rate = NetworkRate(settings.network_bytes_per_s_max)
    api = BrokerApi(parse_broker_url(membership.broker_url), rate=rate)
    await stack.enter_async_context(api)
    broker = JoinedBroker(api=api, broker_id=membership.broker, worker=identity)
    return _Link(broker=broker, rate=rate)


async def _start_runners(settings: Settings, state: StateFolder, stack: AsyncExitStack) -> _Runners:
    """The means to start runners, and the first one, which waits for a pipeline."""
    threads = settings.threads_per_runner
    limits = RunnerLimits(
        limits=settings.limits,
        start_runner=partial(
            RunnerProcess.start, threads=threads, groups=ControlGroups.open(threads=threads)
        ),
    )
    first = await limits.start()
    pool = RunnerPool(
        runners_max=settings.runners_max,
        start=limits.start,
        spare=first,
        compile_cache=CompileCache(state.compiled, bytes_max=settings.compiled_bytes_max),
        memory_bytes_max=settings.memory_bytes_max,
    )
    stack.push_async_callback(pool.close)  # at once: the start may end at any await from here on
    if (speed := await measured_again(state.path, first.ready, threads=threads)) is not None:
        log.info(
            "Measured the speed again, because the device or its engines changed: %s",
            speed,
            extra={"action": "speed_measured"},
        )
    return _Runners(pool=pool, limits=limits, ready=first.ready)


async def _open_pipelines(
    settings: Settings,
    store: FolderStore,
    link: _Link,
    capabilities: Capabilities,
    revocations: RevocationStore | None,
    stack: AsyncExitStack,
) -> PipelineLibrary:
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
    gateways = (str(link.broker.api.url), *settings.gateways)
    pipelines = PipelineLibrary(
        broker=link.broker.api,
        fetcher=Fetcher(
            [GatewaySource(one, session=session) for one in gateways],
            store=store,
            pace=link.rate.take,
        ),
        trust_path=settings.trust_path,
        providers=capabilities.providers,
        memory_bytes_max=settings.memory_bytes_max,
        revocations=None if revocations is None else revocations.current,
    )
    stack.push_async_callback(pipelines.close)
    return pipelines


def _monitor(
    settings: Settings, state: StateFolder, runners: _Runners, clock: BrokerClock, settle_s: float
) -> DeviceMonitor:
    return DeviceMonitor(
        command_file=OwnerCommandFile(state.owner_command),
        read_limits=LiveLimits(settings).read,
        device=Sensors(state.path),
        governor=Governor(capacity=settings.capacity, settle_s=settle_s),
        runner_pids=runners.limits.pids,
        clock_skew_s=clock.skew_s,
    )


def _offer(settings: Settings, capabilities: Capabilities) -> Offer:
    return Offer(
        price_per_unit_microcredits=settings.price_per_unit_microcredits,
        capacity=settings.capacity,
        capabilities=capabilities,
    )


def _agent(
    settings: Settings,
    parts: _Parts,
    revocations: RevocationStore | None,
    latencies: StageLatencies,
    rng: random.Random,
) -> Agent:
    guard = RevocationGuard(
        store=revocations,
        pipelines=parts.pipelines,
        leases=parts.leases,
        end_runners=parts.runners.pool.end,
    )
    return Agent(
        broker=parts.link.broker,
        offer=_offer(settings, parts.capabilities),
        leases=parts.leases,
        pipelines=parts.pipelines,
        hooks=AgentHooks(
            on_revocations=guard.take,
            on_connected=partial(_note_connected, parts),
            on_disconnected=partial(_note_disconnected, parts),
            health=partial(_health, parts.monitor, latencies, parts.leases),
        ),
        rng=rng,
    )


def _note_connected(parts: _Parts, welcome: Welcome) -> None:
    parts.clock.note(welcome.at)
    skew_s = parts.clock.skew_s()
    if skew_s is not None and abs(skew_s) > CLOCK_SKEW_S_SHOWN:
        log.warning(
            "This device's clock is %s. Leases do not depend on it; set it right.",
            skewed(skew_s),
            extra={"action": "clock_skew", "skew_s": round(skew_s)},
        )
    parts.state.set_connected(True)


def _note_disconnected(parts: _Parts, problem: str) -> None:
    parts.state.set_connected(False, problem)


def _enforcer(parts: _Parts, agent: Agent) -> LimitsEnforcer:
    runners = parts.runners
    return LimitsEnforcer(
        monitor=parts.monitor,
        leases=parts.leases,
        throttle=CpuThrottle(cores=available_cores(), runners=runners.limits.alive),
        apply_limits=partial(_apply_limits, parts, agent),
        offer_capacity=agent.offer_capacity,
        end_runners=runners.pool.close,
        on_change=partial(_write_status, parts),
    )


def _health(monitor: DeviceMonitor, latencies: StageLatencies, leases: HeldLeases) -> DeviceHealth:
    return device_health(
        monitor.readings,
        monitor.decision,
        latencies,
        queue=leases.running,
        preemptions=leases.preemptions,
    )


def _apply_limits(parts: _Parts, agent: Agent, limits: DeviceLimits) -> None:
    parts.runners.limits.apply(limits)
    parts.link.rate.bytes_per_s_max = limits.network_bytes_per_s_max
    parts.runners.pool.memory_bytes_max = limits.memory_bytes_max
    parts.pipelines.limit_memory(limits.memory_bytes_max)
    agent.offer_memory(limits.memory_bytes_max)


def _write_status(parts: _Parts, clock: Callable[[], float] = time.time) -> None:
    parts.state.set_status(
        WorkerStatus(
            at=clock(),
            decision=parts.monitor.decision,
            readings=parts.monitor.readings,
            limits=parts.monitor.limits,
            running=parts.leases.running,
            preemptions=parts.leases.preemptions,
            isolation=parts.capabilities.isolation,
        )
    )
