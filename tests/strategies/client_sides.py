"""What a client can ask of a broker, of the SDK's fake broker and of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp.test_utils import TestServer

import http_answers
from tradepost.content import add_bytes
from tradepost.errors import TradepostError
from tradepost.pipeline.tensors import TensorDocument
from tradepost.protocol import (
    Finished,
    JobRequest,
    JobView,
    Rejected,
    Submit,
    Submitted,
    ToBrokerFromClient,
    ToClient,
    client_codec,
)
from tradepost.testing.fake_broker import API_KEY, FakeBroker
from tradepost_broker.testing import local_broker
from tradepost_broker.testing.local_broker import job_request

CODEC = client_codec()


@dataclass
class Side:
    """A broker, an account's key, and a pipeline that doubles `x`, which some worker runs unless `held`."""

    session: aiohttp.ClientSession
    url: str
    key: str
    pipeline: str

    async def ask(
        self, method: str, path: str, *, key: str | None = None, body: bytes | None = None
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response with its body."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        return await http_answers.ask(self.session, method, self.url + path, headers=headers, body=body)

    async def refusal(self, method: str, path: str, **options: Any) -> TradepostError:
        """The error with which a request is refused, once its response is what RFC 9457 says."""
        return http_answers.refusal(*await self.ask(method, path, **options))

    def request(self, **changes: Any) -> JobRequest:
        return job_request(self.pipeline, **changes)


class Stream:
    """A client's stream, frame by frame."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._frames: list[ToClient] = []

    async def send(self, *frames: ToBrokerFromClient) -> None:
        await self.socket.send_bytes(CODEC.encode(list(frames)))

    async def next(self) -> ToClient:
        """The next frame."""
        async with asyncio.timeout(180):
            while not self._frames:
                self._frames = CODEC.decode(await self.socket.receive_bytes())
        return self._frames.pop(0)

    async def submit(self, request: JobRequest) -> str:
        """The id of the job of this request."""
        await self.send(Submit(1, request))
        answer = await self.next()
        assert isinstance(answer, Submitted), answer
        return answer.job

    async def refusal(self, request: JobRequest) -> TradepostError:
        """The error with which a submission is refused."""
        await self.send(Submit(7, request))
        answer = await self.next()
        assert isinstance(answer, Rejected), answer
        assert answer.ref == 7
        return TradepostError.from_problem(answer.problem)

    async def end(self) -> JobView:
        """The end of a job, which is the next frame."""
        answer = await self.next()
        assert isinstance(answer, Finished), answer
        return answer.view

    async def closing_code(self) -> int | None:
        """The code with which the broker closes the stream."""
        async with asyncio.timeout(180):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return self.socket.close_code


def double(document: TensorDocument) -> TensorDocument:
    return TensorDocument({"y": document["x"] * np.float32(2)})


@asynccontextmanager
async def client_sides(kind: str, folder: Path) -> AsyncIterator[tuple[Side, Side]]:
    """A running broker of this `kind`, "fake" or "real", that runs jobs, and one where they wait."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if kind == "fake":
            serving, holding = FakeBroker(double), FakeBroker(double)
            holding.hold = True
            found = []
            for fake in (serving, holding):
                server = await stack.enter_async_context(TestServer(fake.app))
                url = str(server.make_url("")).rstrip("/")
                found.append(Side(session, url, API_KEY, add_bytes(b"any pipeline", put=None)))
            yield found[0], found[1]
            return
        found = []
        for name in ("serving", "holding"):
            broker = await stack.enter_async_context(local_broker(folder / name, checkpoint_s=0.1))
            key = await broker.account()
            pipeline = await broker.publish(key)
            worker = await broker.worker(serve=name == "serving")
            stack.push_async_callback(worker.disconnect)
            found.append(Side(session, broker.url, key, pipeline))
        yield found[0], found[1]


async def open_stream(side: Side) -> aiohttp.ClientWebSocketResponse:
    headers = {"Authorization": f"Bearer {side.key}"}
    return await side.session.ws_connect(f"{side.url}/v1/client", headers=headers, max_msg_size=0)
