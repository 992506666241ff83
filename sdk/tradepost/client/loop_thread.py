"""An event loop in a thread of its own, for programs that call from other threads.

Work that was accepted ends: closing runs what is left to its end or cancels it, under the lock under which
work is accepted, so that no caller waits for a loop that has stopped. Work is given as a function, so that
the loop's thread makes its coroutine: Python complains on standard error of one that is never awaited,
because Ctrl-C kept the caller from handing it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from tradepost.client.outcome import Outcome
from tradepost.errors import ClientClosed, ClientFailed, InvalidCall

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
Then = Callable[[Outcome[T]], None]


class Pending(Generic[T]):
    """Work that a loop is to do, and its outcome: `asyncio.CancelledError` if it was cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work[T], then: Then[T] | None = None) -> None:
        self.outcome = Outcome[T]()
        self._loop = loop
        self._work = work
        self._then = then
        self._task: asyncio.Task[T] | None = None
        self._is_handed_over = False

    def hand_over(self) -> None:
        """Have the loop start the work."""
        self._is_handed_over = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if not self.outcome.is_given:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._end)

    async def _run(self) -> T:
        return await self._work()

    def cancel(self) -> None:
        """Cancel the work, from any thread."""
        if not self._is_handed_over:
            self._cancel()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and has ended all that it had
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.outcome.is_given:
            self.outcome.give_error(asyncio.CancelledError())

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.give_error(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.outcome.give_error(error)
        else:
            self.outcome.give(task.result())
        if self._then is not None:
            self._then(self.outcome)


class LoopThread:
    """A running event loop. `close` ends it."""

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_open = True
        try:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # no file descriptor, or no thread, is left
            raise ClientFailed(f"no event loop could be started: {error}") from error

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def start(self, work: Work[T], *, then: Then[T] | None = None) -> Pending[T]:
        """Run `work` on the loop; `then` is called there with its outcome.

        Raises `ClientClosed`, or `InvalidCall` in another process.
        """
        pending = Pending(self._loop, work, then)
        try:
            self._accept(pending)
        except BaseException:
            pending.cancel()
            raise
        return pending

    def wait(self, work: Work[T]) -> T:
        """What `work` returns. An interruption (Ctrl-C) cancels it. Raises as `start` does."""
        pending = Pending(self._loop, work)
        try:
            self.check_can_wait()
            self._accept(pending)
            return pending.outcome.get()
        except asyncio.CancelledError:
            raise ClientClosed("the client was closed while this call waited") from None
        except BaseException:
            pending.cancel()
            raise

    def _accept(self, pending: Pending[T]) -> None:
        self.check_process()
        with self._lock:
            self.check_open()
            pending.hand_over()

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

    def check_can_wait(self) -> None:
        """Raise `InvalidCall` where waiting would never end: in another process, and in the loop's thread."""
        self.check_process()
        if self.is_current:
            raise InvalidCall("a blocking call in the client's own thread would wait for itself")

    @property
    def is_current(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return self._process != os.getpid()

    def close(self, last: Work[None]) -> None:
        """Run `last`, cancel what still runs, and end the thread. Nothing is accepted from here on.

        Returns when that is done, but at once in the loop's own thread, where Python may end an abandoned
        `with`.
        """
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            end = Pending(self._loop, lambda: self._finish(last), then=lambda _: self._loop.stop())
            end.hand_over()
        if self.is_current:
            return
        try:
            end.outcome.get()
        except BaseException:  # an interruption: what has not ended is left
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        finally:
            self._thread.join()

    async def _finish(self, last: Work[None]) -> None:
        try:
            await last()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
