"""Every public call of the SDK, with arguments of any kind: for the blocking client, and for asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from tradepost import AsyncClient, Client, Preference, Requirements, TensorDocument
from tradepost.client.async_job import AsyncJobHandle
from tradepost.client.sync_client import JobHandle

PIPELINE: Final = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
#: Longer than any call: what waits this long raises Python's own `TimeoutError`, which fails the example.
LONG_S: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """One call: which, with what, and where."""

    call: str
    place: str
    pipeline: Any
    given: Any
    options: dict[str, Any]
    value: Any
    other: Any
    after_s: float

    def priced(self) -> dict[str, Any]:
        """The options of a submission, with a price."""
        return {"max_price": 1, **self.options}

    def estimated(self) -> dict[str, Any]:
        """The options that an estimate knows."""
        return {name: value for name, value in self.options.items() if name in _ESTIMATED}

    def many(self) -> Any:
        """The inputs of a map: several, or what was drawn in their place."""
        return [self.given, {"x": np.ones(1)}, self.given] if isinstance(self.value, int) else self.given

    def timeout(self) -> Any:
        """Any value for a timeout but one that waits for longer than the test does."""
        value = self.value
        return 1 if value is None or (isinstance(value, int | float | np.number) and value > 1) else value


_ESTIMATED: Final = ("max_price", "confidence", "deadline_s", "requirements")


# The blocking calls


def _first_change(client: Client) -> object:
    with closing(client.verdict_changes()) as changes:  # type: ignore[type-var]  # it is a generator
        return next(changes)


def _wait(job: JobHandle) -> object:
    done, waiting = concurrent.futures.wait({job.future()}, timeout=LONG_S)
    assert not waiting, "the future has not ended"
    return done


def _as_completed(job: JobHandle) -> object:
    return list(concurrent.futures.as_completed([job.future(), job.future()], timeout=LONG_S))


BLOCKING: Final[dict[str, Callable[[Client, JobHandle, Plan], object]]] = {
    "client.submit": lambda client, _, plan: client.submit(plan.pipeline, plan.given, **plan.priced()),
    "client.estimate": lambda client, _, plan: client.estimate(
        plan.pipeline, plan.value if isinstance(plan.value, int) else plan.given, **plan.estimated()
    ),
    "client.map": lambda client, _, plan: list(
        itertools.islice(client.map(plan.pipeline, plan.many(), window=_window(plan), **plan.priced()), 2)
    ),
    "client.attach": lambda client, _, plan: client.attach(plan.value, input_cid=plan.other),
    "client.job": lambda client, _, plan: client.job(plan.value),
    "client.jobs": lambda client, _, plan: client.jobs(
        limit=plan.value, before=plan.other, changed=plan.given
    ),
    "client.cancel": lambda client, _, plan: client.cancel(plan.value),
    "client.pipeline": lambda client, _, plan: client.pipeline(plan.pipeline),
    "client.lift_quarantine": lambda client, _, plan: client.lift_quarantine(plan.pipeline),
    "client.proof": lambda client, _, plan: client.proof(plan.value, since=plan.other),
    "client.balance": lambda client, _, plan: client.balance(),
    "client.upload": lambda client, _, plan: client.upload(plan.given),
    "client.verdict_changes": lambda client, _, plan: _first_change(client),
    "job.result": lambda _, job, plan: job.result(plan.timeout()),
    "job.done": lambda _, job, plan: job.done(),
    "job.cancel": lambda _, job, plan: job.cancel(),
    "job.future": lambda _, job, plan: job.future(),
    "future.result": lambda _, job, plan: job.future().result(LONG_S),
    "future.exception": lambda _, job, plan: job.future().exception(LONG_S),
    "future.cancel": lambda _, job, plan: job.future().cancel(),
    "future.cancelled": lambda _, job, plan: job.future().cancelled(),
    "future.done": lambda _, job, plan: job.future().done(),
    "future.running": lambda _, job, plan: job.future().running(),
    "future.add_done_callback": lambda _, job, plan: job.future().add_done_callback(lambda _: None),
    "wait": lambda _, job, plan: _wait(job),
    "as_completed": lambda _, job, plan: _as_completed(job),
}


# The same under asyncio


async def _mapped(client: AsyncClient, plan: Plan) -> list[Any]:
    results = client.map(plan.pipeline, plan.many(), window=_window(plan), **plan.priced())
    return [result async for result in results]


async def _next_change(client: AsyncClient) -> object:
    async with aclosing(client.verdict_changes()) as changes:  # type: ignore[type-var]  # it is a generator
        return await anext(changes)


async def _done(job: AsyncJobHandle) -> bool:
    return job.done()


async def _wait_for_task(job: AsyncJobHandle) -> object:
    (done,), _ = await asyncio.wait({asyncio.ensure_future(job.result())}, timeout=LONG_S)
    return done.result()


async def _tasks_as_completed(job: AsyncJobHandle) -> object:
    ended = await asyncio.gather(job.result(), job.result(), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome
    return ended


ASYNC: Final[dict[str, Callable[[AsyncClient, AsyncJobHandle, Plan], Awaitable[object]]]] = {
    "client.submit": lambda client, _, plan: client.submit(plan.pipeline, plan.given, **plan.priced()),
    "client.estimate": lambda client, _, plan: client.estimate(
        plan.pipeline, plan.value if isinstance(plan.value, int) else plan.given, **plan.estimated()
    ),
    "client.map": lambda client, _, plan: _mapped(client, plan),
    "client.attach": lambda client, _, plan: client.attach(plan.value, input_cid=plan.other),
    "client.job": lambda client, _, plan: client.job(plan.value),
    "client.jobs": lambda client, _, plan: client.jobs(
        limit=plan.value, before=plan.other, changed=plan.given
    ),
    "client.cancel": lambda client, _, plan: client.cancel(plan.value),
    "client.pipeline": lambda client, _, plan: client.pipeline(plan.pipeline),
    "client.lift_quarantine": lambda client, _, plan: client.lift_quarantine(plan.pipeline),
    "client.proof": lambda client, _, plan: client.proof(plan.value, since=plan.other),
    "client.balance": lambda client, _, plan: client.balance(),
    "client.upload": lambda client, _, plan: client.upload(plan.given),
    "client.verdict_changes": lambda client, _, plan: _next_change(client),
    "job.result": lambda _, job, plan: job.result(plan.timeout()),
    "job.done": lambda _, job, plan: _done(job),
    "job.cancel": lambda _, job, plan: job.cancel(),
    "wait": lambda _, job, plan: _wait_for_task(job),
    "as_completed": lambda _, job, plan: _tasks_as_completed(job),
}


def _window(plan: Plan) -> Any:
    return plan.other if plan.other is not None else 2


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
        "preference": st.one_of(st.just("latency"), st.builds(Preference, price=junk, load=junk), junk),
        "idempotency_key": st.one_of(st.just("same"), junk),
        "inline": st.one_of(st.booleans(), junk),
        "on_wrong": st.one_of(st.just("refund"), junk),
    },
)


def plans(places: tuple[str, ...]) -> st.SearchStrategy[Plan]:
    """Any call in any place."""
    return st.builds(
        Plan,
        call=st.sampled_from(sorted(BLOCKING)),
        place=st.sampled_from(places),
        pipeline=st.one_of(st.just(PIPELINE), st.just(PIPELINE), junk),
        given=inputs,
        options=options,
        value=st.one_of(st.just("job-0"), st.integers(1, 9), junk),
        other=st.one_of(st.none(), st.none(), st.integers(1, 9), junk),
        after_s=st.floats(0.0001, 0.01),
    )
