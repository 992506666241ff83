"""Every call of the SDK ends in time with a value or a typed error: any arguments, any place, any broker."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from types import FrameType
from typing import Any, Final

import numpy as np
import pytest
from aiohttp import web
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bounded_call import within
from tradepost import AsyncClient, Client, Requirements, TensorDocument, TradepostError
from tradepost.client.async_job import AsyncJobHandle
from tradepost.client.sync_client import JobHandle
from tradepost.errors import QuotaExceeded
from tradepost.testing.broker_thread import ServerThread
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE: Final = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
GIVE_UP_S: Final = 2.0
#: What a call may take beyond `give_up_s`, on a machine that does other things as well.
BOUND_S: Final = GIVE_UP_S + 60.0

#: Examples of an extended run: some wait until a call has given up.
EXAMPLES_MAX: Final = 2_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# The broker


class FuzzedBroker(ServerThread):
    """A fake broker that behaves as `mood` says: one for all examples, since starting one takes long."""

    def __init__(self) -> None:
        self.mood = "fine"
        self._rest = 0
        super().__init__(self._application)

    def _application(self) -> web.Application:
        self.broker = FakeBroker(lambda document: document)

        @web.middleware
        async def moody(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._rest += 1
            if request.path == "/v1/client":
                if self.mood in STREAMS:
                    return await STREAMS[self.mood](request)
            elif self.mood == "flaky" and self._rest % 3:
                return web.Response(status=503)
            elif self.mood == "nonsense":
                return web.Response(text="<html>")
            return await handler(request)

        self.broker.app.middlewares.append(moody)
        return self.broker.app

    def begin(self, mood: str) -> None:
        """Forget the example before, and behave like this."""
        self.run(self._begin(mood))

    async def _begin(self, mood: str) -> None:
        broker = self.broker
        jobs = broker.jobs
        for kept in (jobs.by_key, jobs.keyed, jobs.views, jobs.outputs, jobs.ended):
            kept.clear()
        broker._watched.clear()
        broker.requests.clear()
        broker.blocks.clear()
        self.mood = mood
        broker.hold, broker.silent = mood == "hold", mood == "silent"
        broker.refuse = QuotaExceeded("enough") if mood == "refuse" else None


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
#: In which a job that was submitted ends, or its submission is refused at once.
QUICK: Final = ("fine", "fine", "fine", "flaky", "refuse", "garbage", "policy", "nonsense")
#: In which calls end when `give_up_s` is over: rare, or the examples would take hours.
SLOW: Final = ("silent", "closed")


# The values


class Broken:
    """An object of the program's that nothing can be done with."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("no array")


scalars: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.complex_numbers(),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=9),
    st.sampled_from(["\ud800", "job-0", PIPELINE, "..", 10**4000, Broken(), object(), range(3)]),
    st.floats().map(np.float64),
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.floats(width=32).map(np.float32),
    st.just(np.bool_(True)),
    st.just(np.array([1.5, 2.5])),
)
junk: Final = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
tensors: Final = st.one_of(st.just(np.ones(2, np.float32)), st.just([1.0, 2.0]), junk)
inputs: Final = st.one_of(
    st.dictionaries(st.text(max_size=3), tensors, max_size=2),
    st.just({"x": np.ones(2, np.float32)}),
    st.just({"x": np.zeros(140_000)}),
    st.builds(TensorDocument, tensors=st.just({"x": np.ones(2)}), metadata=junk),
    junk,
)
seconds: Final = st.one_of(st.floats(0.5, 100), st.floats(0.5, 100).map(np.float64), junk)
options: Final = st.fixed_dictionaries(
    {},
    optional={
        "max_price": st.one_of(st.just(Decimal("0.01")), st.floats(0, 1), junk),
        "confidence": st.one_of(st.floats(0.5, 0.99), st.floats(0.5, 0.99).map(np.float64), junk),
        "deadline_s": seconds,
        "patience_s": seconds,
        "requirements": st.one_of(st.builds(Requirements, memory_bytes=junk, isolation=junk), junk),
        "idempotency_key": st.one_of(st.just("same"), junk),
        "inline": st.one_of(st.booleans(), junk),
    },
)


@dataclass(frozen=True)
class Plan:
    """One call: which, with what, and where."""

    call: str
    place: str
    pipeline: Any
    given: Any
    options: dict[str, Any]
    value: Any
    after_s: float

    def priced(self) -> dict[str, Any]:
        """The options of a submission, with a price."""
        return {"max_price": 1, **self.options}

    def many(self) -> Any:
        """The inputs of a map: several, or what was drawn in their place."""
        return [self.given, {"x": np.ones(1)}, self.given] if isinstance(self.value, int) else self.given


moods: Final = st.sampled_from((*QUICK * 20, *SLOW, *QUICK * 20))


# The calls

#: The calls of the blocking client.
BLOCKING: Final[dict[str, Callable[[Client, JobHandle, Plan], object]]] = {
    "submit": lambda client, _, plan: client.submit(plan.pipeline, plan.given, **plan.priced()),
    "map": lambda client, _, plan: list(
        itertools.islice(client.map(plan.pipeline, plan.many(), **plan.priced()), 2)
    ),
    "result": lambda _, job, plan: job.result(_timeout(plan.value)),
    "done": lambda _, job, plan: job.done(),
    "cancel": lambda _, job, plan: job.cancel(),
    "future": lambda _, job, plan: job.future().exception(5),
    "future cancel": lambda _, job, plan: job.future().cancel(),
    "attach": lambda client, _, plan: client.attach(plan.value),
    "job": lambda client, _, plan: client.job(plan.value),
    "jobs": lambda client, _, plan: client.jobs(limit=plan.value),
    "cancel job": lambda client, _, plan: client.cancel(plan.value),
    "pipeline": lambda client, _, plan: client.pipeline(plan.pipeline),
    "balance": lambda client, _, plan: client.balance(),
    "upload": lambda client, _, plan: client.upload(plan.given),
}


async def _mapped(client: AsyncClient, plan: Plan) -> list[Any]:
    return [result async for result in client.map(plan.pipeline, plan.many(), **plan.priced())]


async def _done(job: AsyncJobHandle) -> bool:
    return job.done()


#: The same calls under asyncio.
ASYNC: Final[dict[str, Callable[[AsyncClient, AsyncJobHandle, Plan], Awaitable[object]]]] = {
    "submit": lambda client, _, plan: client.submit(plan.pipeline, plan.given, **plan.priced()),
    "map": lambda client, _, plan: _mapped(client, plan),
    "result": lambda _, job, plan: job.result(_timeout(plan.value)),
    "done": lambda _, job, plan: _done(job),
    "cancel": lambda _, job, plan: job.cancel(),
    "future": lambda _, job, plan: job.result(5),
    "future cancel": lambda _, job, plan: job.cancel(),
    "attach": lambda client, _, plan: client.attach(plan.value),
    "job": lambda client, _, plan: client.job(plan.value),
    "jobs": lambda client, _, plan: client.jobs(limit=plan.value),
    "cancel job": lambda client, _, plan: client.cancel(plan.value),
    "pipeline": lambda client, _, plan: client.pipeline(plan.pipeline),
    "balance": lambda client, _, plan: client.balance(),
    "upload": lambda client, _, plan: client.upload(plan.given),
}
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

plans: Final = st.builds(
    Plan,
    call=st.sampled_from(sorted(BLOCKING)),
    place=st.sampled_from(PLACES),
    pipeline=st.one_of(st.just(PIPELINE), st.just(PIPELINE), junk),
    given=inputs,
    options=options,
    value=st.one_of(st.just("job-0"), st.integers(1, 9), junk),
    after_s=st.floats(0.0001, 0.01),
)


async def call_async(client: AsyncClient, handle: AsyncJobHandle, plan: Plan) -> object:
    """Make the call that `plan` names."""
    return await ASYNC[plan.call](client, handle, plan)


def _timeout(value: Any) -> Any:
    """Any value for a timeout but one that waits for longer than the test does."""
    return 1 if value is None or (isinstance(value, int | float | np.number) and value > 1) else value


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
    client.__exit__(None, None, None)
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
    """Ctrl-C in the main thread `after_s` from now, if it is still in this context."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after_s)
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


def blocking(broker: FuzzedBroker, plan: Plan) -> str:
    """The outcome of a call of a blocking client."""
    with forgiving_interruptions(plan):
        return calling(broker, plan)


def calling(broker: FuzzedBroker, plan: Plan) -> str:
    """As `blocking`."""
    with Client(broker.url, api_key=API_KEY, give_up_s=GIVE_UP_S) as client:
        try:
            handle = client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        except TradepostError:
            broker.begin("fine")
            handle = client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        call = lambda: BLOCKING[plan.call](client, handle, plan)  # noqa: E731
        match plan.place:
            case "callback":
                return in_a_callback(client, handle, plan)
            case "fork":
                return in_a_fork(client, handle, plan)
            case "closed":
                client.__exit__(None, None, None)
            case "interrupted" if threading.current_thread() is threading.main_thread():
                return interrupted(call, plan.after_s)
        return outcome_of(lambda: within(call, hangs_s=BOUND_S))


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


async def under_asyncio(broker: FuzzedBroker, plan: Plan) -> str:
    """The outcome of a call of a client for asyncio."""
    async with AsyncClient(broker.url, api_key=API_KEY, give_up_s=GIVE_UP_S) as client:
        try:
            handle = await client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        except TradepostError:
            await asyncio.to_thread(broker.begin, "fine")
            handle = await client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
        if plan.place == "other loop":
            return await asyncio.to_thread(outcome_of, lambda: asyncio.run(call_async(client, handle, plan)))
        task = asyncio.ensure_future(call_async(client, handle, plan))
        if plan.place == "cancelled":
            asyncio.get_running_loop().call_later(plan.after_s, task.cancel)
        async with asyncio.timeout(BOUND_S):
            done, _ = await asyncio.wait({task})
        assert done == {task}
        return "cancelled" if task.cancelled() else outcome_of(task.result)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[FuzzedBroker]:
    with FuzzedBroker() as broker:
        yield broker


@pytest.mark.extended(examples=EXAMPLES_MAX)
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@settings(max_examples=min(EXAMPLES_MAX, settings.default.max_examples))
@given(mood=moods, plan=plans)
def test_every_call_ends_with_a_value_or_a_typed_error(fuzzed: FuzzedBroker, mood: str, plan: Plan) -> None:
    fuzzed.begin(mood)
    if plan.place in ("loop", "other loop", "cancelled"):
        outcome = within(lambda: asyncio.run(under_asyncio(fuzzed, plan)), hangs_s=2 * BOUND_S)
    else:
        outcome = blocking(fuzzed, plan)
    event(f"outcome: {outcome}")
