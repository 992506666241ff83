"""What a worker can ask of a broker, of the worker's fake broker and of the real one."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

import http_answers
from tradepost.content import add_bytes
from tradepost.errors import (
    TradepostError,
)
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker, sample_input
from tradepost_broker.testing import SamplePipeline as BrokerSample
from tradepost_worker.testing.fake_broker import FakeBroker
from tradepost_worker.testing.samples import kernel_pipeline

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


@asynccontextmanager
async def worker_side(kind: str, folder: Path) -> AsyncIterator[Side]:
    """A running broker of this `kind`, "fake" or "real"."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if kind == "fake":
            fake = FakeBroker()
            server = await stack.enter_async_context(TestServer(fake.app))
            yield FakeSide(session, str(server.make_url("")).rstrip("/"), fake)
        else:
            yield await RealSide.start(session, await stack.enter_async_context(local_broker(folder)))


async def expect(worker: FakeWorker, kind: type[Any]) -> Any:
    """The next frame, which must be of this kind, within three minutes."""
    async with asyncio.timeout(180):
        return await worker.expect(kind)
