"""A job's result as a standard future, for threads.

Who waits for one future is woken by the client's own thread. A second thread ends the future for `wait` and
`as_completed`, and a third runs the callbacks, so a callback may call the client and wait for other jobs in
each of these ways. None of them is there in a forked process: a future that has not ended before the fork has
failed there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from tradepost.client.arguments import timeout_s
from tradepost.client.not_copied import NotCopied
from tradepost.client.outcome import Outcome
from tradepost.client.results import Result
from tradepost.errors import ClientClosed, InvalidCall, JobCancelled, TradepostError

Callback = Callable[[Any], object]

log = logging.getLogger(__name__)

#: The standard library holds a future's lock for a few instructions. After this time, it was left locked.
_LOCK_S_MAX: Final = 1.0
#: How long closing waits for the futures' end.
_END_S_MAX: Final = 2.0


class CallbackThread:
    """Runs callbacks one after the other, in a thread that starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Callback, JobFuture] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def post(self, callback: Callback, future: JobFuture) -> None:
        """Run `callback` with the future, soon; at once after `close`, and in a forked process."""
        if self._process == os.getpid() and self._accept(callback, future):
            return
        _call(callback, future)

    def _accept(self, callback: Callback, future: JobFuture) -> bool:
        with self._lock:
            if self._is_closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._waiting.put((callback, future))
            return True

    def close(self, *, wait: bool, wait_s_max: float | None = None) -> None:
        """Accept no more; with `wait`, return when the callbacks have run, unless one of them calls this.

        It waits for at most `wait_s_max` seconds.
        """
        with self._lock:
            self._is_closed = True
            thread = self._thread
            self._waiting.put(None)
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(wait_s_max)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            _call(*work)


class FutureThreads:
    """The two threads of a client's futures: one ends them, the other runs the callbacks of their users.

    With one for both, a callback that waits for another future would block the thread that ends it.
    """

    def __init__(self) -> None:
        self.ending = CallbackThread("tradepost-client-futures")
        self.callbacks = CallbackThread("tradepost-client-callbacks")

    def close(self, *, wait: bool) -> None:
        """Accept no more; with `wait`, return when futures have ended and their callbacks have run."""
        # The first: futures that end pass on their callbacks. One never ends where Ctrl-C left a lock that it
        # needs, of the standard library, locked.
        self.ending.close(wait=wait, wait_s_max=_END_S_MAX)
        self.callbacks.close(wait=wait)


def _call(callback: Callback, future: JobFuture) -> None:
    try:
        callback(future)
    except Exception:  # as the standard library's futures do
        log.exception("A callback of a job's future raised", extra={"action": "callback_failed"})


#: The futures of this process that may not have ended.
_futures: weakref.WeakSet[JobFuture] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    """From here on, end the futures that a forked process copies."""
    os.register_at_fork(after_in_child=_end_in_fork)


def _end_in_fork() -> None:
    for future in list(_futures):
        future.end_in_fork()


class Job(Protocol):
    """The part of a job that its future uses."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    def cancel(self) -> bool:
        """Cancel the job; whether it is cancelled now."""
        ...

    def check_can_wait(self) -> None:
        """Raise `InvalidCall` in a thread where the future cannot end."""
        ...


class JobFuture(NotCopied, concurrent.futures.Future[Result]):
    """The future result of a job. `cancel` cancels the job itself; only begun work is then paid."""

    def __init__(self, job: Job, threads: FutureThreads) -> None:
        super().__init__()
        self._job = job
        self._threads = threads
        self._outcome = Outcome[Result]()
        self._to_call: deque[Callback] = deque()
        self.set_running_or_notify_cancel()
        _watch_forks()
        _futures.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of job {self._job.id}, {'finished' if self.done() else 'running'}>"

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

    def running(self) -> bool:
        """Whether it is not done. Takes no lock, which Ctrl-C could leave locked."""
        return not self.done()

    def result(self, timeout: float | None = None) -> Result:
        """As a standard future's. Raises `InvalidCall` where it cannot end: in another process."""
        self._check_can_wait()
        return self._outcome.get(timeout_s(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As a standard future's; `InvalidCall` in another process, where it cannot end."""
        self._check_can_wait()
        return self._outcome.error(timeout_s(timeout))

    def _check_can_wait(self) -> None:
        if not self.done():
            with contextlib.suppress(ClientClosed):  # then the closing ends it: at once, or in a moment
                self._job.check_can_wait()

    def add_done_callback(self, fn: Callback) -> None:
        """Call `fn` with this future when the result, or the error, is here. It may call the client."""
        self._to_call.append(fn)
        if self.done():  # else they are called when it ends
            self._threads.callbacks.post(JobFuture._call_all, self)

    def take(self, source: Outcome[Result]) -> None:
        """End as `source` did."""
        error = source.error()
        if error is None:
            self._outcome.give(source.get())
            self._threads.ending.post(JobFuture._end, self)
            return
        if isinstance(error, asyncio.CancelledError):
            error = ClientClosed("the client was closed before the job ended")
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self._outcome.give_error(error)
        # Not in the client's own thread: `wait` and `as_completed` of the standard library take its locks.
        self._threads.ending.post(JobFuture._end, self)

    def end_in_fork(self) -> None:
        """End in a forked process, where no thread will do it, and nobody waits yet."""
        self._condition = threading.Condition()  # another thread may have held the one that was copied
        self._waiters.clear()
        self._to_call.clear()  # they are the other process's to call
        if not self._outcome.is_given:
            self._outcome.give_error(
                InvalidCall(
                    "the client was opened in another process, and its thread does not survive a fork",
                    hint="Open a client in each process, and `attach` to the job.",
                )
            )
        if not super().done():
            self._end()

    def _end(self) -> None:
        self._replace_lost_lock()
        if (error := self._outcome.error()) is not None:
            self.set_exception(error)
        else:
            self.set_result(self._outcome.get())
        self._call_all()

    def _replace_lost_lock(self) -> None:
        """Have another lock if Ctrl-C in `wait` or `as_completed` left this one locked (see `Outcome`)."""
        if self._condition.acquire(timeout=_LOCK_S_MAX):
            self._condition.release()
        else:
            self._condition = threading.Condition()

    def _call_all(self) -> None:
        while self._to_call:
            self._threads.callbacks.post(self._to_call.popleft(), self)
