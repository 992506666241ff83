"""A job's result as a standard future, for threads.

Who waits is woken by the client's own thread; callbacks run in another, so a callback may call the client,
also to wait for another job.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tradepost.client.outcome import Outcome
from tradepost.client.results import Result
from tradepost.errors import ClientClosed, JobCancelled, TradepostError

Callback = Callable[[Any], object]

log = logging.getLogger(__name__)


class CallbackThread:
    """Runs callbacks one after the other, in a thread that starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Callback, JobFuture] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def post(self, callback: Callback, future: JobFuture) -> None:
        """Run `callback` with the future, soon; at once after `close`."""
        with self._lock:
            if not self._is_closed:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="tradepost-client-callbacks", daemon=True
                    )
                    self._thread.start()
                self._waiting.put((callback, future))
                return
        _call(callback, future)

    def close(self) -> None:
        """Wait until the callbacks have run, unless this is called by one of them."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
            self._waiting.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            _call(*work)


def _call(callback: Callback, future: JobFuture) -> None:
    try:
        callback(future)
    except Exception:  # as the standard library's futures do
        log.exception("A callback of a job's future raised", extra={"action": "callback_failed"})


class Job(Protocol):
    """The part of a job that its future uses."""

    def cancel(self) -> bool:
        """Cancel the job; whether it is cancelled now."""
        ...

    def check_process(self) -> None:
        """Raise `InvalidCall` in a process where the future cannot end."""
        ...


class JobFuture(concurrent.futures.Future[Result]):
    """The future result of a job. `cancel` cancels the job itself; only begun work is then paid."""

    def __init__(self, job: Job, callbacks: CallbackThread) -> None:
        super().__init__()
        self._job = job
        self._callbacks = callbacks
        self._outcome = Outcome[Result]()
        self._to_call: deque[Callback] = deque()
        self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Cancel the job unless it has ended; whether it is cancelled, as the broker answers.

        Blocks until then. `False` too where the broker did not answer: then the job may be running.
        """
        try:
            return self._job.cancel()
        except TradepostError:
            return False

    def cancelled(self) -> bool:
        """Whether the job ended because it was cancelled."""
        return self.done() and isinstance(self.exception(), JobCancelled)

    def done(self) -> bool:
        """Whether the result, or the error, is here."""
        return self._outcome.is_given

    def result(self, timeout: float | None = None) -> Result:
        """As a standard future's. Raises `InvalidCall` in another process."""
        self._job.check_process()
        return self._outcome.get(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As a standard future's. Raises `InvalidCall` in another process."""
        self._job.check_process()
        return self._outcome.error(timeout)

    def add_done_callback(self, fn: Callback) -> None:
        """Call `fn` with this future when the result, or the error, is here. It may call the client."""
        self._to_call.append(fn)
        if self.done():  # else they are called when it ends
            self._callbacks.post(JobFuture._call_all, self)

    def take(self, source: Outcome[Result]) -> None:
        """End as `source` did."""
        error = source.error()
        if isinstance(error, asyncio.CancelledError):
            error = ClientClosed("the client was closed before the job ended")
        if error is None:
            self._outcome.give(source.get())
        else:
            self._outcome.give_error(error)
        # In the callbacks' thread: `wait` and `as_completed` of the standard library take its locks.
        self._callbacks.post(JobFuture._end, self)

    def _end(self) -> None:
        if (error := self._outcome.error()) is not None:
            self.set_exception(error)
        else:
            self.set_result(self._outcome.get())
        self._call_all()

    def _call_all(self) -> None:
        while self._to_call:
            self._callbacks.post(self._to_call.popleft(), self)
