"""How a broker admits a worker: one suite over the worker's fake broker and the real one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from tradepost import identity
from tradepost.errors import (
    InvalidJoinToken,
    InvalidRequest,
    InvalidSignature,
    ProtocolError,
    TradepostError,
    Unauthorized,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    VERSION,
    Challenge,
    Grant,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    Welcome,
    worker_codec,
)
from tradepost_broker.testing import FakeWorker
from worker_sides import NONCE_BYTES, Side, expect

CODEC = worker_codec()


# Joining


def join_request(device: FakeWorker, token: str, **changes: Any) -> bytes:
    request = JoinRequest(
        token=token,
        public_key=device.key.public_key,
        signature=device.key.sign("join", token.encode()),
        device="lab",
    )
    return msgspec.json.encode(msgspec.structs.replace(request, **changes))


async def test_a_token_admits_one_device_however_often_it_asks(side: Side) -> None:
    device = side.device()
    response, body = await side.ask("POST", "/v1/workers", body=join_request(device, side.token))
    assert (response.status, response.content_type) == (201, "application/json")
    reply = msgspec.json.decode(body, type=JoinReply)
    assert (reply.worker, reply.broker, reply.owner) == (device.id, side.broker_id, "owner")
    assert reply.broker == side.token.partition(".")[2]
    assert reply.stake_microcredits == 5_000_000
    assert (await side.ask("POST", "/v1/workers", body=join_request(device, side.token)))[1] == body
    other = join_request(side.device(), side.token)
    assert isinstance(await side.refusal("POST", "/v1/workers", body=other), InvalidJoinToken)


async def test_refusals_of_a_device_that_asks_to_join(side: Side) -> None:
    device, thief = side.device(), Identity.generate()
    unknown = f"tpj_unknown.{side.broker_id}"
    cases = [
        (join_request(device, unknown), InvalidJoinToken),
        (join_request(device, side.token, public_key=thief.public_key), InvalidSignature),
        (join_request(device, side.token, public_key=b"no key"), InvalidSignature),
        (join_request(device, side.token, signature=b""), InvalidSignature),
        (b"{}", InvalidRequest),
        (b"\xff", InvalidRequest),
    ]
    for body, expected in cases:
        assert type(await side.refusal("POST", "/v1/workers", body=body)) is expected, body
    await device.join(side.token)


# Proving


class Handshake:
    """The first frames of a worker's stream, one by one."""

    def __init__(self, side: Side, worker: FakeWorker) -> None:
        self._side = side
        self._worker = worker
        self.nonce = secrets.token_bytes(NONCE_BYTES)

    async def challenge(self) -> Challenge:
        url = f"{self._side.url}/v1/worker?worker={self._worker.id}&nonce={self.nonce.hex()}"
        self.socket = await self._side.session.ws_connect(url)
        (frame,) = CODEC.decode(await self.socket.receive_bytes())
        assert isinstance(frame, Challenge)
        return frame

    def hello(self, challenge: Challenge, **changes: Any) -> Hello:
        hello = Hello(
            version=VERSION,
            public_key=self._worker.key.public_key,
            signature=self._worker.key.sign("hello", challenge.nonce + self.nonce),
            offer=self._worker.offer,
        )
        return msgspec.structs.replace(hello, **changes)

    async def send(self, *frames: ToBrokerFromWorker) -> None:
        await self.socket.send_bytes(CODEC.encode(list(frames)))

    async def answer(self) -> ToWorker:
        """The only frame of the next message."""
        async with asyncio.timeout(180):
            (frame,) = CODEC.decode(await self.socket.receive_bytes())
        return frame

    async def refusal(self) -> TradepostError:
        """The error with which the broker refuses, once it has closed the stream."""
        frame = await self.answer()
        assert isinstance(frame, Refused), frame
        async with asyncio.timeout(180):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert self.socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
        return TradepostError.from_problem(frame.problem)


@pytest.fixture
async def handshake(side: Side) -> AsyncIterator[Handshake]:
    worker = side.device()
    await worker.join(side.token)
    handshake = Handshake(side, worker)
    yield handshake
    await handshake.socket.close()


async def test_both_sides_prove_who_they_are(side: Side, handshake: Handshake) -> None:
    challenge = await handshake.challenge()
    assert identity.key_id(challenge.public_key) == side.broker_id
    identity.verify(challenge.public_key, "challenge", handshake.nonce + challenge.nonce, challenge.signature)
    await handshake.send(handshake.hello(challenge))
    welcome = await handshake.answer()
    assert isinstance(welcome, Welcome)
    assert welcome.leases == ()


async def test_the_welcome_states_the_time_and_a_grant_the_time_that_is_left(
    side: Side, worker: FakeWorker
) -> None:
    assert worker.welcome is not None
    assert worker.welcome.at is not None
    assert abs(worker.welcome.at - time.time()) < 60
    await side.grant()
    grant = await expect(worker, Grant)
    assert grant.left_s is not None
    assert abs(time.time() + grant.left_s - grant.expires_at) < 60


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"signature": b""}, InvalidSignature),
        ({"public_key": Identity.generate().public_key}, Unauthorized),
        ({"public_key": b"no key"}, Unauthorized),
        ({"version": VERSION + 1}, ProtocolError),
    ],
    ids=["signature", "another key", "no key", "version"],
)
async def test_a_hello_that_does_not_hold_is_refused(
    handshake: Handshake, changes: dict[str, Any], expected: type[TradepostError]
) -> None:
    challenge = await handshake.challenge()
    await handshake.send(handshake.hello(challenge, **changes))
    assert type(await handshake.refusal()) is expected


async def test_the_first_message_is_one_hello(handshake: Handshake) -> None:
    hello = handshake.hello(await handshake.challenge())
    for frames in ([Heartbeat(running=0)], [hello, hello], []):
        await handshake.send(*frames)
        assert type(await handshake.refusal()) is ProtocolError
        await handshake.challenge()


async def test_who_may_not_open_a_stream_is_told(side: Side) -> None:
    worker = side.device()
    nonce = bytes(NONCE_BYTES).hex()
    path = "/v1/worker"
    refused = await side.refusal("GET", f"{path}?worker={worker.id}&nonce={nonce}")
    assert type(refused) is Unauthorized
    assert refused.hint == "Join with a token from the operator first."
    await worker.join(side.token)
    for query in ("", "&nonce=", "&nonce=00", "&nonce=xy", f"&nonce={nonce}"):  # the last is no upgrade
        assert type(await side.refusal("GET", f"{path}?worker={worker.id}{query}")) is InvalidRequest, query


@pytest.mark.parametrize("message", [b"garbage", "text", "hello"])
async def test_what_has_no_place_after_the_welcome_is_refused(
    handshake: Handshake, message: bytes | str
) -> None:
    hello = handshake.hello(await handshake.challenge())
    await handshake.send(hello)
    assert isinstance(await handshake.answer(), Welcome)
    if message == "hello":
        await handshake.send(hello)
    elif isinstance(message, str):
        await handshake.socket.send_str(message)
    else:
        await handshake.socket.send_bytes(message)
    assert type(await handshake.refusal()) is ProtocolError
