"""What a worker sees of a broker: one suite over the worker's fake broker and the real one."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

import http_answers
from tradepost import identity
from tradepost.content import BLOCK_BYTES_MAX, add_bytes, cid_of_block
from tradepost.errors import (
    ContentMismatch,
    ContentTooLarge,
    InvalidCid,
    InvalidJoinToken,
    InvalidReceipt,
    InvalidRequest,
    InvalidSignature,
    LeaseGone,
    NotAcceptable,
    ProtocolError,
    RunnerFailed,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownPipeline,
)
from tradepost.identity import Identity
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    VERSION,
    Acknowledged,
    Challenge,
    GiveBack,
    GiveBackReason,
    Grant,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    PipelineView,
    Recall,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    UpdateOffer,
    Welcome,
    worker_codec,
)
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker, sample_input
from tradepost_broker.testing import SamplePipeline as BrokerSample
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import kernel_pipeline

CODEC = worker_codec()
ABSENT = add_bytes(b"nobody put this here", put=None)
NONCE_BYTES = 16


class Side(ABC):
    """A broker that has published `pipeline` and has a token for one device."""

    url: str
    broker_id: str
    token: str
    pipeline: str
    stages: tuple[str, ...]
    artifact: str

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    @abstractmethod
    async def grant(self, document: bytes = sample_input()) -> None:
        """Grant the connected worker a lease."""

    @abstractmethod
    async def grant_stored(self, document: bytes) -> str:
        """Grant a lease whose input is too large for its frame; the input's CID."""

    async def ask(
        self, method: str, path: str, *, authorization: str = "", body: bytes | None = None, accept: str = ""
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response with its body."""
        headers = {"Authorization": authorization} if authorization else {}
        headers |= {"Accept": accept} if accept else {}
        return await http_answers.ask(self.session, method, self.url + path, headers=headers, body=body)

    async def refusal(self, method: str, path: str, **options: Any) -> TradepostError:
        """The error with which a request is refused, once its response is what RFC 9457 says."""
        return http_answers.refusal(*await self.ask(method, path, **options))

    def device(self) -> FakeWorker:
        """A device that has not joined."""
        return FakeWorker(self.session, self.url, stages=self.stages)

    async def worker(self) -> FakeWorker:
        """A device that has joined and is connected."""
        worker = self.device()
        await worker.join(self.token)
        await worker.connect()
        return worker


class FakeSide(Side):
    """The worker's fake."""

    def __init__(self, session: aiohttp.ClientSession, url: str, broker: FakeBroker) -> None:
        super().__init__(session)
        sample = kernel_pipeline(b"\0asm no kernel")
        broker.publish(sample)
        broker.admits_strangers = False
        self.url, self.token, self.broker_id = url, broker.token, broker.identity.id
        self.pipeline, self.artifact = sample.cid, next(iter(sample.artifacts))
        self.stages = tuple(stage.name for stage in sample.manifest.stages)
        self._broker, self._sample = broker, sample

    async def grant(self, document: bytes = sample_input()) -> None:
        await self._broker.send(self._broker.grant(self._sample, document))

    async def grant_stored(self, document: bytes) -> str:
        blocks: dict[str, bytes] = {}
        root = add_bytes(document, put=blocks.__setitem__)
        grant = self._broker.grant(self._sample, None, input_cid=root)
        self._broker.lease_blocks |= {(grant.lease, cid): block for cid, block in blocks.items()}
        await self._broker.send(grant)
        return root


class RealSide(Side):
    """The broker."""

    _broker: LocalBroker
    _key: str

    @classmethod
    async def start(cls, session: aiohttp.ClientSession, broker: LocalBroker) -> RealSide:
        side = cls(session)
        sample = BrokerSample()
        side._broker, side._key = broker, await broker.account()
        side.url, side.token = broker.url, await broker.token()
        side.broker_id = broker.running.parts.broker.id
        side.pipeline = await broker.publish(side._key, sample)
        side.artifact = sample.blocks()[0][0]
        side.stages = tuple(stage.name for stage in sample.manifest.stages)
        return side

    async def grant(self, document: bytes = sample_input()) -> None:
        await self._broker.submit(self._key, self.pipeline, input=document)

    async def grant_stored(self, document: bytes) -> str:
        blocks: dict[str, bytes] = {}
        root = add_bytes(document, put=blocks.__setitem__)
        for cid, block in blocks.items():
            await self._broker.call("PUT", f"/v1/blocks/{cid}", key=self._key, body=block)
        await self._broker.submit(self._key, self.pipeline, input=None, input_cid=root)
        return root


@pytest.fixture(params=["fake", "real"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if request.param == "fake":
            fake = FakeBroker()
            server = await stack.enter_async_context(TestServer(fake.app))
            yield FakeSide(session, str(server.make_url("")).rstrip("/"), fake)
        else:
            yield await RealSide.start(session, await stack.enter_async_context(local_broker(tmp_path)))


@pytest.fixture
async def worker(side: Side) -> AsyncIterator[FakeWorker]:
    worker = await side.worker()
    yield worker
    await worker.disconnect()


async def expect(worker: FakeWorker, kind: type[Any]) -> Any:
    async with asyncio.timeout(30):
        return await worker.expect(kind)


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
        async with asyncio.timeout(30):
            (frame,) = CODEC.decode(await self.socket.receive_bytes())
        return frame

    async def refusal(self) -> TradepostError:
        """The error with which the broker refuses, once it has closed the stream."""
        frame = await self.answer()
        assert isinstance(frame, Refused), frame
        async with asyncio.timeout(30):
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


# Leases


async def test_a_result_is_acknowledged_and_the_lease_is_gone(side: Side, worker: FakeWorker) -> None:
    await worker.send(UpdateOffer(worker.offer), Heartbeat(running=0))
    await side.grant()
    grant = await expect(worker, Grant)
    assert (grant.pipeline, grant.input, grant.input_cid) == (side.pipeline, sample_input(), None)
    assert len(grant.nonce) == NONCE_BYTES
    await worker.answer(grant)
    assert await expect(worker, Acknowledged) == Acknowledged(grant.lease)
    path, nonce = f"/v1/leases/{grant.lease}/blocks/{ABSENT}", f"Lease {grant.nonce.hex()}"
    assert type(await side.refusal("GET", path, authorization=nonce)) is LeaseGone


async def test_a_reconnected_worker_is_told_its_open_leases(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.disconnect()
    worker.unfinished["ended"] = grant
    welcome = await worker.connect()
    assert welcome.leases == (grant.lease,)
    assert (await expect(worker, Recall)).lease == "ended"


async def test_a_lease_that_a_reconnected_worker_does_not_name_is_granted_again(
    side: Side, worker: FakeWorker
) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.disconnect()
    worker.unfinished.clear()
    welcome = await worker.connect()
    assert welcome.leases == ()
    again = await expect(worker, Grant)
    assert msgspec.structs.replace(again, left_s=grant.left_s) == grant


@pytest.mark.parametrize(
    "changes", [{"nonce": bytes(16)}, {"job": "another"}, {"broker": "another"}], ids=str
)
async def test_a_receipt_of_something_else_is_acknowledged_with_the_problem(
    side: Side, worker: FakeWorker, changes: dict[str, Any]
) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.answer(grant, **changes)
    acknowledged = await expect(worker, Acknowledged)
    assert acknowledged.lease == grant.lease
    assert type(TradepostError.from_problem(acknowledged.problem)) is InvalidReceipt


async def test_a_lease_is_given_back(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    problem = RunnerFailed("no luck").to_problem()
    await worker.send(GiveBack(lease=grant.lease, reason=GiveBackReason.FAILED, problem=problem))
    assert await expect(worker, Acknowledged) == Acknowledged(grant.lease)


async def test_a_lease_that_is_not_known_is_acknowledged(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    lost = msgspec.structs.replace(grant, lease="another")
    await worker.answer(lost)
    acknowledged = await expect(worker, Acknowledged)
    assert acknowledged.lease == "another"
    assert type(TradepostError.from_problem(acknowledged.problem)) is LeaseGone
    problem = RunnerFailed("no luck").to_problem()
    await worker.send(GiveBack(lease="another", reason=GiveBackReason.FAILED, problem=problem))
    assert (await expect(worker, Acknowledged)).lease == "another"


# Content


async def test_a_leases_blocks_are_for_its_nonce(side: Side, worker: FakeWorker) -> None:
    document = encode(TensorDocument({"x": np.zeros(INLINE_BYTES_MAX // 4, dtype=np.float32)}))
    root = await side.grant_stored(document)
    grant = await expect(worker, Grant)
    assert (grant.input, grant.input_cid) == (None, root)
    assert await worker.fetch_input(grant) == document
    blocks, nonce = f"/v1/leases/{grant.lease}/blocks", f"Lease {grant.nonce.hex()}"
    response, _ = await side.ask("GET", f"{blocks}/{root}", authorization=nonce)
    assert (response.status, response.content_type) == (200, "application/octet-stream")
    cid = add_bytes(b"output", put=None)
    for _ in range(2):
        response, body = await side.ask("PUT", f"{blocks}/{cid}", authorization=nonce, body=b"output")
        assert (response.status, msgspec.json.decode(body)) == (201, {"cid": cid})
    other = f"Lease {bytes(16).hex()}"
    cases: list[tuple[str, str, str, bytes | None, type[TradepostError]]] = [
        ("GET", f"{blocks}/{root}", "", None, Unauthorized),
        ("GET", f"{blocks}/{root}", other, None, Unauthorized),
        ("GET", f"/v1/leases/another/blocks/{root}", nonce, None, Unauthorized),
        ("GET", f"{blocks}/{ABSENT}", nonce, None, UnknownCid),
        ("GET", f"{blocks}/nonsense", nonce, None, InvalidCid),
        ("PUT", f"{blocks}/{cid}", other, b"output", Unauthorized),
        ("PUT", f"{blocks}/{cid}", nonce, b"other bytes", ContentMismatch),
        ("PUT", f"{blocks}/nonsense", nonce, b"output", InvalidCid),
        ("PUT", f"{blocks}/{cid}", nonce, bytes(BLOCK_BYTES_MAX + 1), ContentTooLarge),
    ]
    for method, path, authorization, body_sent, expected in cases:
        error = await side.refusal(method, path, authorization=authorization, body=body_sent)
        assert type(error) is expected, (method, path, authorization)


async def test_published_pipelines_are_public(side: Side) -> None:
    response, body = await side.ask("GET", f"/v1/pipelines/{side.pipeline}")
    assert (response.status, response.content_type) == (200, "application/json")
    view = msgspec.json.decode(body, type=PipelineView)
    assert view.pipeline == side.pipeline
    assert cid_of_block(view.manifest, "dag-cbor") == side.pipeline
    assert view.bundle
    for cid in (ABSENT, "nonsense"):
        error = await side.refusal("GET", f"/v1/pipelines/{cid}")
        assert type(error) is UnknownPipeline
        assert error.facts == {"pipeline": cid}


async def test_published_blocks_are_at_a_trustless_gateway(side: Side) -> None:
    path = f"/ipfs/{side.artifact}"
    by_query, raw = await side.ask("GET", f"{path}?format=raw")
    by_header, same = await side.ask("GET", path, accept="application/vnd.ipld.raw")
    assert raw == same
    assert add_bytes(raw, put=None) == side.artifact
    for response in (by_query, by_header):
        assert (response.status, response.content_type) == (200, "application/vnd.ipld.raw")
        assert response.headers["ETag"]
    response, car = await side.ask("GET", f"{path}?format=car")
    assert response.content_type == "application/vnd.ipld.car"
    assert raw in car
    assert isinstance(await side.refusal("GET", path), NotAcceptable)
    assert isinstance(await side.refusal("GET", f"/ipfs/{ABSENT}?format=raw"), UnknownCid)
    assert isinstance(await side.refusal("GET", "/ipfs/nonsense?format=raw"), InvalidCid)


async def test_the_broker_says_that_it_is_well_and_what_time_it_is(side: Side) -> None:
    response, body = await side.ask("GET", "/healthz")
    assert (response.status, msgspec.json.decode(body)) == (200, {"status": "ok"})
    assert response.headers["Date"]
