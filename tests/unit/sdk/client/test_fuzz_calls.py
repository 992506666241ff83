"""Every call of the SDK ends in time with a value or a typed error: any arguments, any place, any broker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bounded_call import TICK_S, ticks, within
from fuzzed_broker import QUICK, SLOW, FuzzedBroker
from fuzzed_calls import ASYNC, BLOCKING, PIPELINE, Plan, plans
from tradepost import AsyncClient, AsyncJobHandle, Client, JobHandle, TradepostError
from tradepost.client.job_future import JobFuture
from tradepost.client.retries import ANSWER_S_MIN
from tradepost.testing.fake_broker import API_KEY

GIVE_UP_S: Final = 2.0
#: The last try of a call may begin just before it gives up. The rest is what this process takes to notice.
BOUND_S: Final = GIVE_UP_S + ANSWER_S_MIN + 1.0

#: Closing waits for cancellations (2 s), for the broker to close the connection (1 s) and for futures (2 s).
CLOSE_BOUND_S: Final = 6.0

#: Examples of an extended run: some wait until a call has given up.
EXAMPLES_MAX: Final = 2_000

PLACES: Final = (
    "here",
    "callback",
    "interrupted",
    "closed",
    "fork",
    "loop",
    "other loop",
    "cancelled",
)
moods: Final = st.sampled_from((*QUICK * 20, *SLOW, *QUICK * 20))

#: What is public for other parts of the SDK alone.
INNER: Final = {
    Client: {"open_thread"},
    AsyncClient: {"estimate_prepared", "fetch_output", "open_stream", "run_prepared", "submit_prepared"},
    JobHandle: {"check_can_wait"},
    AsyncJobHandle: set[str](),
    JobFuture: {"end_in_fork", "fail", "set_exception", "set_result", "set_running_or_notify_cancel", "take"},
}


def calls_of(kind: type) -> set[str]:
    """The public methods of a class."""
    names = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    assert names >= INNER[kind]
    return names - INNER[kind]


def test_every_public_call_is_fuzzed() -> None:
    blocking = {
        *(f"client.{name}" for name in calls_of(Client)),
        *(f"job.{name}" for name in calls_of(JobHandle)),
        *(f"future.{name}" for name in calls_of(JobFuture)),
        "wait",
        "as_completed",
    }
    assert set(BLOCKING) == blocking
    assert issubclass(JobFuture, concurrent.futures.Future)
    under_asyncio = {
        *(f"client.{name}" for name in calls_of(AsyncClient)),
        *(f"job.{name}" for name in calls_of(AsyncJobHandle)),
        "wait",
        "as_completed",
    }
    assert set(ASYNC) == under_asyncio


# The outcome


def outcome_of(call: Callable[[], object]) -> str:
    """What came of a call. What is neither a value nor a typed error goes on, and fails the example."""
    try:
        call()
    except TradepostError as error:
        return _name_of(error)
    return "value"


def _name_of(error: TradepostError) -> str:
    """The name of an error whose words are for people: they have no places in a schema."""
    assert "$." not in error.diagnostics(), error.diagnostics()
    return type(error).__name__


# The places


def in_a_callback(client: Client, handle: JobHandle, plan: Plan) -> str:
    """Call in a callback of the job's future, which ends at the latest when the client closes."""
    outcomes: list[str | BaseException] = []

    def callback(_: object) -> None:
        try:
            outcomes.append(outcome_of(lambda: BLOCKING[plan.call](client, handle, plan)))
        except BaseException as error:
            outcomes.append(error)

    handle.future().add_done_callback(callback)
    close(client)
    assert len(outcomes) == 1
    if isinstance(outcomes[0], BaseException):
        raise outcomes[0]
    return outcomes[0]


def in_a_fork(client: Client, handle: JobHandle, plan: Plan) -> str:
    """Call in a forked child, which is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = outcome_of(lambda: BLOCKING[plan.call](client, handle, plan))
        except BaseException as error:
            told = f"raw: {type(error).__name__}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            told = within(pipe.read, hangs_s=BOUND_S)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert told, "the child died"
    assert not told.startswith("raw"), told
    return told


@contextmanager
def interrupting(after_s: float) -> Iterator[None]:
    """Ctrl-C in the main thread `after_s` from now. What goes on for `BOUND_S` after that fails the test."""
    left = iter(ticks(BOUND_S))
    is_interrupted = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            raise KeyboardInterrupt
        assert next(left, None) is not None, f"the interrupted call has not ended after {BOUND_S} s"

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after_s, TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def forgiving_interruptions(plan: Plan) -> Iterator[None]:
    """Let Python say what Ctrl-C left behind: a coroutine that was made and not begun, or a finalizer's end.

    It says so where it cannot raise, and goes on.
    """
    if plan.place != "interrupted":
        yield
        return
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
            gc.collect()
    finally:
        sys.unraisablehook = before


def blocking(broker: FuzzedBroker, mood: str, plan: Plan) -> str:
    """The outcome of a call of a blocking client, while the broker behaves like this."""
    with forgiving_interruptions(plan):
        return calling(broker, mood, plan)


def calling(broker: FuzzedBroker, mood: str, plan: Plan) -> str:
    """As `blocking`."""
    client = Client(broker.url, api_key=API_KEY, give_up_s=GIVE_UP_S).__enter__()
    try:
        handle = client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        broker.turn(mood)
        call = lambda: BLOCKING[plan.call](client, handle, plan)  # noqa: E731
        match plan.place:
            case "callback":
                return in_a_callback(client, handle, plan)
            case "fork":
                return in_a_fork(client, handle, plan)
            case "closed":
                close(client)
            case "interrupted" if threading.current_thread() is threading.main_thread():
                return interrupted(call, plan.after_s)
        return outcome_of(lambda: within(call, hangs_s=BOUND_S))
    finally:
        close(client)


def close(client: Client) -> None:
    """Close the client, in time."""
    within(lambda: client.__exit__(None, None, None), hangs_s=CLOSE_BOUND_S)


def interrupted(call: Callable[[], object], after_s: float) -> str:
    """The outcome of a call that Ctrl-C may end."""
    try:
        with interrupting(after_s):
            return outcome_of(call)
    except KeyboardInterrupt:
        return "interrupted"
    except RuntimeError as error:
        # Python's own `threading.Condition` raises this where Ctrl-C comes while it takes its lock again.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        return "interrupted"


async def under_asyncio(broker: FuzzedBroker, mood: str, plan: Plan) -> str:
    """The outcome of a call of a client for asyncio, while the broker behaves like this."""
    async with AsyncClient(broker.url, api_key=API_KEY, give_up_s=GIVE_UP_S) as client:
        handle = await client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        await asyncio.to_thread(broker.turn, mood)
        if plan.place == "other loop":
            return await asyncio.to_thread(outcome_of, lambda: asyncio.run(call_async(client, handle, plan)))
        task = asyncio.ensure_future(call_async(client, handle, plan))
        if plan.place == "cancelled":
            asyncio.get_running_loop().call_later(plan.after_s, task.cancel)
        for _ in ticks(BOUND_S):
            await asyncio.wait({task}, timeout=TICK_S)
            if task.done():
                break
        assert task.done(), f"the call has not ended after {BOUND_S} s"
        return "cancelled" if task.cancelled() else outcome_of(task.result)


async def call_async(client: AsyncClient, handle: AsyncJobHandle, plan: Plan) -> object:
    """Make the call that `plan` names. A job has no standard future under asyncio: it is awaited."""
    call = "job.result" if plan.call not in ASYNC else plan.call
    return await ASYNC[call](client, handle, plan)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[FuzzedBroker]:
    with FuzzedBroker() as broker:
        yield broker


@pytest.mark.extended(examples=EXAMPLES_MAX)
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
# Ctrl-C may come while a client closes: the collector of garbage closes what it had open then.
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
@settings(max_examples=min(EXAMPLES_MAX, settings.default.max_examples))
@given(mood=moods, plan=plans(PLACES))
def test_every_call_ends_with_a_value_or_a_typed_error(fuzzed: FuzzedBroker, mood: str, plan: Plan) -> None:
    fuzzed.begin()
    if plan.place in ("loop", "other loop", "cancelled"):
        outcome = within(
            lambda: asyncio.run(under_asyncio(fuzzed, mood, plan)), hangs_s=2 * BOUND_S + CLOSE_BOUND_S
        )
    else:
        outcome = blocking(fuzzed, mood, plan)
    event(f"outcome: {outcome}")
