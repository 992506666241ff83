"""An event loop in a thread of its own, for programs that call from other threads.

Work that was accepted ends: closing runs what is left to its end or cancels it, under the lock under which
work is accepted, so that no caller waits for a loop that has stopped.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tradepost.errors import ClientClosed, ClientFailed, InvalidCall

T = TypeVar("T")


class LoopThread:
    """A running event loop. `close` ends it."""

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_open = True
        try:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # no file descriptor, or no thread, is left
            raise ClientFailed(f"no event loop could be started: {error}") from error

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` on the loop. Raises `ClientClosed`, or `InvalidCall` in another process."""
        try:
            self.check_process()
            with self._lock:
                self.check_open()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            # Python warns of work that nobody awaited; but Ctrl-C may come when the loop has it already.
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()
            raise

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns. An interruption (Ctrl-C) cancels it. Raises as `start` does."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidCall("a blocking call in the client's own thread would wait for itself")
        future: concurrent.futures.Future[T] | None = None
        try:
            future = self.start(work)
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed("the client was closed while this call waited") from None
        except BaseException:
            if future is not None:
                future.cancel()
            raise

    def check_open(self) -> None:
        """Raise `ClientClosed` once `close` was called."""
        if not self._is_open:
            raise ClientClosed

    def check_process(self) -> None:
        """Raise `InvalidCall` in a process that was forked from the one with the thread."""
        if self.is_elsewhere:
            raise InvalidCall(
                "the client was opened in another process, and its thread does not survive a fork",
                hint="Open a client in each process.",
            )

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return self._process != os.getpid()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, cancel what still runs, and end the thread. Nothing is accepted from here on."""
        with self._lock:
            if not self._is_open:
                last.close()
                return
            self._is_open = False
            future = asyncio.run_coroutine_threadsafe(self._finish(last), self._loop)
        try:
            future.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _finish(self, last: Coroutine[Any, Any, None]) -> None:
        try:
            await last
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
