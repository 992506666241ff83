"""A worker's stream: each side proves its key, then leases go out and receipts come in.

The newest connection of a worker replaces an older one, which may hang half-open after a network change.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import WSMsgType, web

from tradepost import identity
from tradepost.errors import (
    InvalidKey,
    InvalidRequest,
    InvalidSignature,
    ProtocolError,
    TradepostError,
    Unauthorized,
    WorkerKeyInUse,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    VERSIONS_ACCEPTED,
    Challenge,
    Hello,
    Recall,
    Refused,
    Welcome,
    broker_codec_for_workers,
    for_version,
)
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.access.revocations import IssuedRevocations
from tradepost_broker.engine.engine import Engine, Moment
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Worker
from tradepost_broker.market.model.events import Event, WorkerConnected, WorkerDisconnected
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.streams.sockets import converse, open_socket, refuse
from tradepost_broker.web.caller_addresses import caller_group
from tradepost_broker.web.handshakes import Handshakes
from tradepost_broker.web.worker_session import WorkerSession, ignore_outcome, journal_bytes_of

NONCE_BYTES: Final = 16
HELLO_S_MAX: Final = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How often workers may connect.

    `reconnects` bounds how often one worker may connect; `handshakes` how many connections may be proving
    that they are some worker, which must not use up what that worker itself may do; `journal_bytes` what the
    offers of one worker may add to the journal.
    """

    reconnects: RateLimit
    handshakes: Handshakes
    journal_bytes: RateLimit


class WorkerStreams:
    """Admits workers' connections and serves them.

    `new_session` makes the session of a worker that was admitted, by the worker's id.
    """

    def __init__(
        self,
        *,
        broker: Identity,
        market: Market,
        engine: Engine,
        sessions: Sessions,
        revocations: IssuedRevocations,
        limits: ConnectionLimits,
        new_session: Callable[[str], WorkerSession],
    ) -> None:
        self._broker = broker
        self._market = market
        self._engine = engine
        self._sessions = sessions
        self._revocations = revocations
        self._limits = limits
        self._new_session = new_session
        self._codec = broker_codec_for_workers()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A worker's WebSocket: msgpack frames, as `tradepost.protocol` describes them."""
        worker, nonce = self._worker_and_nonce(request)
        with self._limits.handshakes.begin(caller_group(request), partial(_cut, request)):
            socket = await open_socket(request)
            try:
                hello = await self._handshake(socket, worker, nonce)
            except TradepostError as error:
                await self._refuse(socket, worker, error)
                return socket
        try:
            self._limits.reconnects.take(worker.id, "connections of one worker")
            self._limits.journal_bytes.take(
                worker.id, "bytes of offers of one worker", journal_bytes_of(hello.offer)
            )
            await self._serve(request, socket, self._new_session(worker.id), hello)
        except TradepostError as error:
            await self._refuse(socket, worker, error)
        return socket

    async def _refuse(self, socket: web.WebSocketResponse, worker: Worker, error: TradepostError) -> None:
        log.info("Refused worker %s: %s", worker.id, error, extra={"action": "worker_refused"})
        await refuse(socket, error, self._codec.encode([Refused(error.to_problem())]))

    def _worker_and_nonce(self, request: web.Request) -> tuple[Worker, bytes]:
        try:
            nonce = bytes.fromhex(request.query.get("nonce", ""))
        except ValueError:
            raise InvalidRequest("nonce is not hexadecimal") from None
        if len(nonce) != NONCE_BYTES:
            raise InvalidRequest(f"nonce has {len(nonce)} bytes; it must have {NONCE_BYTES}, as hexadecimal")
        worker = self._market.worker(request.query.get("worker", ""))
        if worker is None:
            raise Unauthorized(
                "this worker has not joined this broker", hint="Join with a token from the operator first."
            )
        return worker, nonce

    async def _handshake(self, socket: web.WebSocketResponse, worker: Worker, worker_nonce: bytes) -> Hello:
        """The worker's hello, after these steps:

        1. The broker proves its key over the worker's nonce and its own fresh one.
        2. The first message from the worker is a hello of this protocol version, within `HELLO_S_MAX`.
        3. The hello comes with the key that the worker joined with.
        4. Its signature is over the nonces in the other order.

        Raises `ProtocolError` (2), `Unauthorized` (3) or `InvalidSignature` (4).
        """
        # Step 1
        nonce = secrets.token_bytes(NONCE_BYTES)
        signature = self._broker.sign("challenge", worker_nonce + nonce)
        challenge = Challenge(public_key=self._broker.public_key, nonce=nonce, signature=signature)
        await socket.send_bytes(self._codec.encode([challenge]))
        # Step 2
        try:
            message = await socket.receive(HELLO_S_MAX)
        except TimeoutError:
            raise ProtocolError(f"no hello within {HELLO_S_MAX:g} s") from None
        frames = self._codec.decode(message.data) if message.type is WSMsgType.BINARY else []
        if len(frames) != 1 or not isinstance(hello := frames[0], Hello):
            raise ProtocolError("the first message must be exactly one hello")
        if hello.version not in VERSIONS_ACCEPTED:
            accepted = " and ".join(map(str, VERSIONS_ACCEPTED))
            raise ProtocolError(f"protocol version {hello.version}; this broker supports {accepted}")
        # Step 3
        if hello.public_key != worker.public_key:
            raise Unauthorized(f"this is not the key that worker {worker.id} joined with")
        # Step 4
        try:
            identity.verify(hello.public_key, "hello", nonce + worker_nonce, hello.signature)
        except InvalidKey as error:
            raise InvalidSignature(str(error)) from None
        return hello

    def _known_leases(self, worker: str, hello: Hello) -> tuple[str, ...]:
        """Of the leases that a hello names, those of this worker that the market still knows.

        Others need no place in the journal: a worker can make up as many as fit into a frame.
        """
        leases = {id_: self._market.lease(id_) for id_ in hello.open_leases}
        return tuple(id_ for id_, lease in leases.items() if lease is not None and lease.worker == worker)

    async def _ask_to_connect(self, worker: str, hello: Hello) -> frozenset[str]:
        """Tell the market that the worker is connected; the leases that it was asked about.

        It answers for these, as they were in its turn. Some may have left memory since.
        """
        asked: frozenset[str] = frozenset()

        def connected(moment: Moment) -> Event:
            nonlocal asked
            leases = self._known_leases(worker, hello)
            asked = frozenset(leases)
            return WorkerConnected(
                at=moment.at, worker=worker, offer=hello.offer, open_leases=leases, seed=moment.seed
            )

        await self._engine.ask(EventWork(connected))
        return asked

    async def _serve(
        self, request: web.Request, socket: web.WebSocketResponse, session: WorkerSession, hello: Hello
    ) -> None:
        worker = session.worker
        if (revocations := self._revocations.frame()) is not None:
            session.queue.post(revocations)  # the first frame, so that no lease is worked on without it
        replaced = self._sessions.open(worker, session.queue, version=hello.version)
        if replaced is not None:
            in_use = WorkerKeyInUse(f"another device connected with the key of worker {worker}")
            replaced.end(Refused(in_use.to_problem()))
        try:
            asked = await self._ask_to_connect(worker, hello)
            for lease in hello.open_leases:
                if lease not in asked:
                    session.queue.post(Recall(lease))
            log.info("Worker %s is connected", worker, extra={"action": "worker_connected"})
            # Of the leases that the worker named, those that are open. Others reach it as grants: those made
            # by this very connection are on their way in the queue.
            claimed = frozenset(hello.open_leases)
            still_open = (lease.id for lease in self._market.open_leases_of(worker) if lease.id in claimed)
            welcome = for_version(Welcome(worker, tuple(still_open), self._engine.now()), hello.version)
            # Before any frame of the queue, in a message of its own.
            await socket.send_bytes(self._codec.encode([welcome]))
            await converse(request, socket, session.queue, session.take)
        finally:
            session.close()
            if self._sessions.close(worker, session.queue):
                self._engine.submit(
                    EventWork(lambda moment: WorkerDisconnected(at=moment.at, worker=worker)), ignore_outcome
                )
                log.info("Worker %s is disconnected", worker, extra={"action": "worker_disconnected"})


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
