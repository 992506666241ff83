"""The agent keeps a connection to the broker and passes its frames to the leases.

Leases (`held_leases`) outlive connections. After each reconnect both sides compare which leases they hold,
the worker repeats what was not acknowledged, and nothing happens twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from tradepost.errors import BrokerUnavailable, TradepostError, WorkerKeyInUse
from tradepost.protocol import (
    HEARTBEAT_S,
    Acknowledged,
    DeviceHealth,
    Finding,
    Grant,
    Heartbeat,
    Offer,
    Recall,
    Refused,
    Revocations,
    Settled,
    ToWorker,
    UpdateOffer,
    Welcome,
)
from tradepost_worker.leases.findings import fetch_findings
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.leases.pipelines import PipelineLibrary
from tradepost_worker.link.connection import BrokerStream, contended_delays, reconnect_delays
from tradepost_worker.link.joined_broker import JoinedBroker

_WARM_MAX: Final = 256
#: A broker that answers with one of these does not want this worker, now or later.
_FINAL_STATUSES: Final = (401, 403)

T = TypeVar("T")

log = logging.getLogger(__name__)


class _End(NamedTuple):
    """How a connection, or the attempt at one, ended."""

    was_admitted: bool
    error: TradepostError | None = None


@dataclass(frozen=True, kw_only=True)
class AgentHooks:
    """What connects an agent with the rest of the worker.

    `on_revocations` is called with the operator's revocation lists, `on_connected` whenever the worker is
    admitted, `on_disconnected` when the connection ends or an attempt fails, with the reason (empty if the
    worker stops), and `health` returns what a heartbeat reports of the device.
    """

    on_revocations: Callable[[Revocations], None]
    on_connected: Callable[[Welcome], None] = lambda _: None
    on_disconnected: Callable[[str], None] = lambda _: None
    health: Callable[[], DeviceHealth | None] = lambda: None


class Agent:
    """One worker, joined to `broker`.

    `rng` spreads reconnects. When the agent is stopped, the broker gets `stop_s_max` seconds to acknowledge
    what is left.
    """

    def __init__(
        self,
        *,
        broker: JoinedBroker,
        offer: Offer,
        leases: HeldLeases,
        pipelines: PipelineLibrary,
        hooks: AgentHooks,
        rng: random.Random,
        stop_s_max: float = 2.0,
    ) -> None:
        self._broker = broker
        self._offer = offer
        self._leases = leases
        self._pipelines = pipelines
        self._hooks = hooks
        self._rng = rng
        self._stop_s_max = stop_s_max
        self._stream: BrokerStream | None = None

    def offer_capacity(self, capacity: int) -> None:
        """Offer to hold this many leases at once; 0 withdraws the offer."""
        self._change_offer(msgspec.structs.replace(self._offer, capacity=capacity))

    def offer_memory(self, memory_bytes: int) -> None:
        """Offer this much memory from now on."""
        capabilities = msgspec.structs.replace(self._offer.capabilities, memory_bytes=memory_bytes)
        self._change_offer(msgspec.structs.replace(self._offer, capabilities=capabilities))

    def _change_offer(self, offer: Offer) -> None:
        if offer != self._offer:
            self._offer = offer
            if self._stream is not None:
                self._stream.send(UpdateOffer(offer=offer))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set: then running leases are given back and the connection is closed.

        Raises the error of a broker that refuses this worker for good.
        """
        keeping = asyncio.create_task(self._leases.keep())
        try:
            delays, contended = reconnect_delays(rng=self._rng), contended_delays(rng=self._rng)
            while not stop.is_set():
                end = await self._serve(stop)
                if end.was_admitted:
                    delays = reconnect_delays(rng=self._rng)
                if keeping.done():
                    await keeping  # the disk failed: what is finished would not survive
                is_contended = isinstance(end.error, WorkerKeyInUse)
                await _wait(stop, seconds=next(contended if is_contended else delays))
        finally:
            await self._leases.give_back_all()
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._leases.flush()

    async def _serve(self, stop: asyncio.Event) -> _End:
        """Serve one connection to its end. Raises the error of a broker that refuses this worker for good."""
        opening_offer = self._offer
        opening = BrokerStream.open(
            self._broker.api,
            worker=self._broker.worker,
            broker_id=self._broker.broker_id,
            offer=opening_offer,
            leases=self._leases.held,
        )
        try:
            stream = await _unless(stop, opening)
        except TradepostError as error:
            self._hooks.on_disconnected(str(error))
            _report_failure(error)
            return _End(was_admitted=False, error=error)
        if stream is None:
            return _End(was_admitted=False)
        log.info("Connected to %s.", self._broker.api.url, extra={"action": "connected"})
        self._hooks.on_connected(stream.welcome)
        tasks = [
            asyncio.create_task(work)
            for work in (stream.drain(), self._receive(stream), self._beat(stream), stop.wait())
        ]
        catching_up = asyncio.create_task(self._catch_up())
        end = _End(was_admitted=True)
        try:
            self._stream = stream
            if opening_offer != self._offer:  # it changed during the handshake
                stream.send(UpdateOffer(offer=self._offer))
            self._leases.attach(stream)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await self._leave()
            for task in done:
                task.result()
        except TradepostError as error:
            end = _End(was_admitted=True, error=error)
        finally:
            self._stream = None
            await self._leases.detach()
            for task in (*tasks, catching_up):
                task.cancel()
            await asyncio.gather(*tasks, catching_up, return_exceptions=True)
            await stream.close()
            self._hooks.on_disconnected("" if end.error is None else str(end.error))
        if end.error is not None:
            _report_failure(end.error)
        return end

    async def _catch_up(self) -> None:
        """Learn what the broker found while this worker was not connected."""
        for finding in await fetch_findings(self._broker.api, self._broker.worker.id):
            self._leases.note_finding(finding)

    async def _receive(self, stream: BrokerStream) -> None:
        async for frames in stream.messages():
            for frame in frames:
                self._handle(frame)
            self._update_warm(stream)
        raise BrokerUnavailable("the broker closed the connection")

    async def _beat(self, stream: BrokerStream) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            leases = self._leases
            stream.send(
                Heartbeat(running=leases.running, health=self._hooks.health(), stages_done=leases.stages_done)
            )

    def _handle(self, frame: ToWorker) -> None:
        if isinstance(frame, Grant):
            self._leases.take(frame)
        elif isinstance(frame, Acknowledged):
            self._leases.acknowledge(frame)
        elif isinstance(frame, Settled):
            self._leases.settle(frame)
        elif isinstance(frame, Finding):
            self._leases.note_finding(frame)
        elif isinstance(frame, Recall):
            self._leases.recall(frame.lease, "the broker recalled it")
        elif isinstance(frame, Revocations):
            self._hooks.on_revocations(frame)
        elif isinstance(frame, Refused):
            raise TradepostError.from_problem(frame.problem)
        # A second challenge or welcome says nothing new.

    def _update_warm(self, stream: BrokerStream) -> None:
        """Tell the broker which pipelines need no fetching. Every lease's acknowledgement leads here."""
        warm = self._pipelines.warm[-_WARM_MAX:]
        if warm != self._offer.warm:
            self._offer = msgspec.structs.replace(self._offer, warm=warm)
            stream.send(UpdateOffer(offer=self._offer))

    async def _leave(self) -> None:
        """Withdraw the offer, give back what runs, and see it acknowledged."""
        self.offer_capacity(0)  # before that, the broker would lease the same jobs to this device again
        await self._leases.give_back_all()
        try:
            async with asyncio.timeout(self._stop_s_max):
                await self._leases.delivered()
        except TimeoutError:
            log.warning(
                "The broker is slow; unacknowledged results are kept for the next start.",
                extra={"action": "not_taken"},
            )


def _report_failure(error: TradepostError) -> None:
    """Log why there is no connection; raise it if trying again cannot help."""
    if error.status in _FINAL_STATUSES:
        raise error
    what = f"{error}. {error.hint}" if isinstance(error, WorkerKeyInUse) else str(error)
    log.warning("Not connected: %s", what, extra={"action": "disconnected", "code": error.code()})


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or `None` if `stop` was set first."""
    tasks = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
