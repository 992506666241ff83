"""A fake broker that behaves as told: refuses, answers nonsense, breaks connections, or does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from tradepost.errors import QuotaExceeded, ResultWithdrawn
from tradepost.protocol import JobStatus, JobView
from tradepost.testing.broker_thread import ServerThread
from tradepost.testing.fake_broker import FakeBroker

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: How often it reports a job whose result was found wrong.
_VERDICT_EVERY_S: Final = 0.02


class FuzzedBroker(ServerThread):
    """A fake broker that behaves as `mood` says: one for all examples, since starting one takes long."""

    def __init__(self) -> None:
        self.mood = "fine"
        self._rest = 0
        super().__init__(self._application)

    def _application(self) -> web.Application:
        self.broker = FakeBroker(lambda document: document)
        self._turned = asyncio.Event()

        @web.middleware
        async def moody(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._rest += 1
            if self.mood == "stalled":
                await self._turned.wait()
                raise web.HTTPServiceUnavailable
            if self.mood == "away":
                return web.Response(status=503)
            if request.path == "/v1/client":
                if self.mood in STREAMS:
                    return await STREAMS[self.mood](request)
            elif self.mood == "flaky" and self._rest % 3:
                return web.Response(status=503)
            elif self.mood == "nonsense":
                return web.Response(text="<html>")
            return await handler(request)

        self.broker.app.middlewares.append(moody)
        self.broker.app.cleanup_ctx.append(self._telling)
        return self.broker.app

    async def _telling(self, _: web.Application) -> Any:
        telling = asyncio.create_task(self._tell_of_changes())
        yield
        telling.cancel()
        await asyncio.wait({telling})

    async def _tell_of_changes(self) -> None:
        """Report the withdrawal of one job after another, to all clients."""
        for number in itertools.count():
            await asyncio.sleep(_VERDICT_EVERY_S)
            with contextlib.suppress(ConnectionError):  # to a client that has gone
                await self.broker._tell(_withdrawn(f"other-{number}"))

    def begin(self) -> None:
        """Forget the example before. Jobs are accepted, and do not end."""
        self.run(self._begin())

    async def _begin(self) -> None:
        broker = self.broker
        jobs = broker.jobs
        for kept in (jobs.by_key, jobs.keyed, jobs.views, jobs.outputs, jobs.ended):
            kept.clear()
        broker._watched.clear()
        broker.requests.clear()
        broker.blocks.clear()
        self.mood, broker.hold, broker.silent, broker.refuse = "fine", True, False, None
        self._turned.set()
        self._turned = asyncio.Event()

    def turn(self, mood: str) -> None:
        """From now on, behave like this. Jobs end, but where there is no connection over which to tell it."""
        self.run(self._turn(mood))

    async def _turn(self, mood: str) -> None:
        self.mood = mood
        self.broker.silent = mood == "silent"
        self.broker.refuse = QuotaExceeded("enough") if mood == "refuse" else None
        if mood in BREAKING:
            await self.broker.drop()
        else:
            await self.broker.release()


def _withdrawn(job: str) -> JobView:
    now = time.time()
    return JobView(
        job=job,
        status=JobStatus.WITHDRAWN,
        pipeline="",
        submitted_at=now,
        finished_at=now,
        problem=ResultWithdrawn(f"job {job}").to_problem(),
        verdict_changed_at=now,
    )


async def _garbage(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_bytes(b"garbage")
    await socket.close()
    return socket


async def _policy(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close(code=1008, message=b"no")
    return socket


async def _closed(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close()
    return socket


STREAMS: Final = {"garbage": _garbage, "policy": _policy, "closed": _closed}
#: In which a call gets its answer, or its refusal, at once.
QUICK: Final = ("fine", "fine", "fine", "flaky", "refuse", "garbage", "policy", "nonsense")
#: In which calls end when they give up: rare, or the examples would take hours.
SLOW: Final = ("silent", "closed", "away", "stalled")
#: That begin with the end of every connection.
BREAKING: Final = (*STREAMS, "away", "stalled")
