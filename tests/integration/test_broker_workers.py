"""Workers at a real broker: joining, proving who they are, and keeping one connection."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
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
    QuotaExceeded,
    RunnerFailed,
    TradepostError,
    Unauthorized,
    WorkerKeyInUse,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    VERSION,
    Acknowledged,
    Challenge,
    Finding,
    GiveBack,
    GiveBackReason,
    Grant,
    Hello,
    JobStatus,
    JoinRequest,
    Refused,
    UpdateOffer,
    worker_codec,
)
from tradepost_broker.testing import (
    FakeWorker,
    LocalBroker,
    ManualClock,
    local_broker,
)
from tradepost_worker.testing.lent_device import until

# Joining


async def test_a_token_admits_one_device_however_often_it_asks(broker: LocalBroker) -> None:
    token = await broker.token("bob", stake_microcredits=123)
    first, second = (FakeWorker(broker.session, broker.url) for _ in range(2))
    joined = await first.join(token)
    assert (joined.worker, joined.owner, joined.stake_microcredits) == (first.id, "bob", 123)
    assert joined.broker == token.partition(".")[2] == broker.running.parts.broker.id
    assert await first.join(token) == joined
    with pytest.raises(InvalidJoinToken):
        await second.join(token)
    assert (await broker.standing(first)).stake_microcredits == 123


async def test_one_token_asked_for_by_two_at_once_admits_one(broker: LocalBroker) -> None:
    token = await broker.token()
    workers = [FakeWorker(broker.session, broker.url) for _ in range(4)]
    outcomes = await asyncio.gather(*(worker.join(token) for worker in workers), return_exceptions=True)
    assert sorted(isinstance(outcome, InvalidJoinToken) for outcome in outcomes) == [False, True, True, True]


async def test_tokens_expire(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock) as broker:
        token = await broker.token()
        clock.advance(3600)
        with pytest.raises(InvalidJoinToken):
            await FakeWorker(broker.session, broker.url).join(token)


async def test_a_token_is_of_use_only_with_the_key_that_signed_it(broker: LocalBroker) -> None:
    token, thief, owner = await broker.token(), Identity.generate(), Identity.generate()
    request = JoinRequest(
        token=token, public_key=thief.public_key, signature=owner.sign("join", token.encode()), device="d"
    )
    with pytest.raises(InvalidSignature):
        await broker.call("POST", "/v1/workers", body=request)
    with pytest.raises(InvalidSignature):
        await broker.call("POST", "/v1/workers", body=msgspec.structs.replace(request, public_key=b"no key"))


@pytest.mark.usefixtures("no_refill")
async def test_guessing_tokens_is_slowed_down(broker: LocalBroker) -> None:
    worker = FakeWorker(broker.session, broker.url)
    for _ in range(30):
        with pytest.raises(InvalidJoinToken):
            await worker.join("guess")
    with pytest.raises(QuotaExceeded):
        await worker.join("guess")


# Proving


class Handshake:
    """The first frames of a worker's stream, one by one."""

    def __init__(self, broker: LocalBroker, worker: FakeWorker) -> None:
        self.broker = broker
        self.worker = worker
        self.nonce = secrets.token_bytes(16)
        self._codec = worker_codec()

    async def challenge(self) -> Challenge:
        url = f"{self.broker.url}/v1/worker?worker={self.worker.id}&nonce={self.nonce.hex()}"
        self.socket = await self.broker.session.ws_connect(url)
        (frame,) = self._codec.decode(await self.socket.receive_bytes())
        return frame  # type: ignore[no-any-return]

    def hello(self, challenge: Challenge, **changes: Any) -> Hello:
        hello = Hello(
            version=VERSION,
            public_key=self.worker.key.public_key,
            signature=self.worker.key.sign("hello", challenge.nonce + self.nonce),
            offer=self.worker.offer,
        )
        return msgspec.structs.replace(hello, **changes)

    async def refusal(self, *frames: Any) -> str:
        await self.socket.send_bytes(self._codec.encode(list(frames)))
        (frame,) = self._codec.decode(await self.socket.receive_bytes())
        assert isinstance(frame, Refused)
        assert (await self.socket.receive()).type is aiohttp.WSMsgType.CLOSE
        return frame.problem.code


async def test_the_broker_proves_its_key_first(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    handshake = Handshake(broker, worker)
    challenge = await handshake.challenge()
    assert identity.key_id(challenge.public_key) == worker.broker
    identity.verify(challenge.public_key, "challenge", handshake.nonce + challenge.nonce, challenge.signature)
    await handshake.socket.close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"signature": b"forged"}, InvalidSignature),
        ({"version": VERSION + 1}, ProtocolError),
        ({"public_key": Identity.generate().public_key}, Unauthorized),
    ],
)
async def test_a_worker_that_does_not_prove_its_key_is_refused(
    broker: LocalBroker, changes: dict[str, Any], error: type[TradepostError]
) -> None:
    worker = await broker.worker(connect=False)
    handshake = Handshake(broker, worker)
    hello = handshake.hello(await handshake.challenge(), **changes)
    assert await handshake.refusal(hello) == error.code()
    assert not (await broker.standing(worker)).connected


@pytest.mark.parametrize(("version", "knows"), [(2, False), (VERSION, True)])
async def test_a_worker_of_the_version_before_gets_frames_that_it_knows(
    broker: LocalBroker, version: int, knows: bool
) -> None:
    """It rejects unknown fields, so a frame that it does not know would end its connection."""
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker("owner", version=version, capacity=1)
    assert worker.welcome is not None
    assert (worker.welcome.at is not None) is knows
    job = (await broker.submit(key, pipeline)).job
    grant = await worker.expect(Grant)
    assert (grant.left_s is not None) is knows
    await broker.worker("other", serve=True)
    failed = GiveBack(
        lease=grant.lease, reason=GiveBackReason.FAILED, problem=RunnerFailed("it crashed").to_problem()
    )
    await worker.send(failed)
    await worker.expect(Acknowledged)
    assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    assert (await broker.standing(worker)).evidence_counts == {"failed": 1}
    if knows:
        finding = await worker.expect(Finding)
        assert (finding.lease, finding.kind, finding.detail) == (grant.lease, "failed", "it crashed")
    assert not any(isinstance(frame, Finding) for frame in worker.frames)


async def test_the_replaced_one_of_two_devices_with_one_key_is_told_why(broker: LocalBroker) -> None:
    first = await broker.worker()
    second = FakeWorker(broker.session, broker.url, key=first.key)
    second.broker = first.broker
    await second.connect()
    refused = await first.expect(Refused)
    assert refused.problem.code == WorkerKeyInUse.code()
    await first.closed()
    assert (await broker.standing(second)).connected


async def test_a_recorded_hello_does_not_work_again(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    first, second = Handshake(broker, worker), Handshake(broker, worker)
    recorded = first.hello(await first.challenge())
    await second.challenge()
    assert await second.refusal(recorded) == InvalidSignature.code()
    await first.socket.close()


async def test_anything_before_the_hello_is_refused(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    handshake = Handshake(broker, worker)
    await handshake.challenge()
    assert await handshake.refusal(UpdateOffer(worker.offer)) == ProtocolError.code()


@pytest.mark.parametrize("query", ["", "nonce=00", "nonce=zz", "nonce=" + "00" * 16])
async def test_a_stream_needs_a_nonce_and_a_worker_that_joined(broker: LocalBroker, query: str) -> None:
    with pytest.raises((InvalidRequest, Unauthorized)):
        await broker.call("GET", f"/v1/worker?worker=nobody&{query}")


async def test_an_unreadable_frame_ends_the_stream(broker: LocalBroker) -> None:
    worker = await broker.worker()
    await worker._socket.send_bytes(b"\x81")  # type: ignore[union-attr]
    refused = await worker.expect(Refused)
    assert refused.problem.code == ProtocolError.code()
    await worker.closed()


async def test_nobody_can_use_up_another_workers_connections(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    for _ in range(20):
        handshake = Handshake(broker, worker)
        challenge = await handshake.challenge()
        assert await handshake.refusal(handshake.hello(challenge, signature=b"forged"))
    # From the same address as the caller that failed so often.
    await worker.connect()
    await worker.disconnect()


@pytest.mark.usefixtures("no_refill")
async def test_a_worker_that_keeps_reconnecting_is_slowed_down(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    for _ in range(20):
        await worker.connect()
        await worker.disconnect()
    with pytest.raises(QuotaExceeded):
        await worker.connect()


async def test_a_worker_that_answers_no_ping_is_gone_and_not_blamed(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a device that is suspended: what broke is the connection, and no message was wrong."""

    async def silent(*_: Any) -> None:
        """No answer."""

    caplog.set_level("INFO")
    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "pong", silent)
    # Time enough to be admitted on a busy machine; the answer is due within half of it.
    monkeypatch.setattr("tradepost_broker.streams.sockets.HEARTBEAT_S", 2.0)
    worker = await broker.worker()
    await until(lambda: not broker.running.parts.market.is_connected(worker.id))
    assert "Refused worker" not in caplog.text
    assert "is disconnected" in caplog.text
