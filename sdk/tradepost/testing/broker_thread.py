"""The fake broker in a thread of its own, for tests of programs that use the blocking client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import web

from tradepost.pipeline.tensors import TensorDocument
from tradepost.testing.fake_broker import FakeBroker

T = TypeVar("T")

_ANSWER_S_MAX: Final = 180.0


class ServerThread:
    """An aiohttp application on a free port of loopback, while the context lasts; `url` is its base."""

    def __init__(self, make: Callable[[], web.Application]) -> None:
        """`make` is called on the server's event loop."""
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tradepost-server", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = self.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S_MAX)

    async def _start(self) -> web.AppRunner:
        runner = web.AppRunner(self._make(), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return runner


class FakeBrokerThread(ServerThread):
    """A `FakeBroker` in a thread. Change its script with `run`, or before jobs are submitted."""

    def __init__(self, compute: Callable[[TensorDocument], TensorDocument]) -> None:
        self._compute = compute
        super().__init__(self._application)

    def _application(self) -> web.Application:
        self.broker = FakeBroker(self._compute)
        return self.broker.app

    def until(self, holds: Callable[[FakeBroker], object]) -> None:
        """Wait until a condition on the broker holds. Raises `TimeoutError` after three minutes."""
        self.run(self._poll(holds))

    async def _poll(self, holds: Callable[[FakeBroker], object]) -> None:
        while not holds(self.broker):  # noqa: ASYNC110 - a condition of the test's own has no event
            await asyncio.sleep(0.001)
