"""A real broker on a free port of loopback, with the few things that a test asks of an operator."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from tradepost.broker_url import raise_for_problem
from tradepost.protocol import JobRequest, JobView
from tradepost_broker.app import RunningBroker, running_broker
from tradepost_broker.jobs.receipt_checks import tick_work
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.operator.messages import Funding, IssuedToken, NewAccount, NewApiKey, NewToken
from tradepost_broker.settings import Settings
from tradepost_broker.testing.fake_worker import FakeWorker
from tradepost_broker.testing.sample_pipeline import SamplePipeline, sample_input
from tradepost_reputation.dashboard import WorkerView

T = TypeVar("T")


class LocalBroker:
    """A running broker, seen from outside."""

    def __init__(self, running: RunningBroker, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.session = session
        self.url = running.url
        self.operator_token = running.parts.operator_token

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Any = None,
        reply: type[T] | Any = bytes,
        **options: Any,
    ) -> Any:
        """A request's answer, decoded as `reply`; `body` is a struct or bytes. Raises the refusal."""
        if body is not None:
            body = io.BytesIO(body if isinstance(body, bytes) else msgspec.json.encode(body))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.request(
            method, f"{self.url}{path}", data=body, headers=headers, **options
        ) as response:
            await raise_for_problem(response)
            answer = await response.read()
        return answer if reply is bytes else msgspec.json.decode(answer, type=reply)

    async def account(self, name: str = "alice", *, funds: int = 100_000_000) -> str:
        """A new account's API key; `funds` in microcredits."""
        body = NewAccount(name=name, funds_microcredits=funds)
        made: NewApiKey = await self._admin("accounts", body, NewApiKey)
        return made.api_key

    async def fund(self, name: str, amount_microcredits: int, *, transfer: str = "") -> None:
        """Give an account microcredits."""
        await self._admin(
            "fund", Funding(account=name, amount_microcredits=amount_microcredits, transfer=transfer), dict
        )

    async def token(
        self, owner: str = "owner", *, stake_microcredits: int = 5_000_000, auditor: bool = False
    ) -> str:
        """A join token."""
        body = NewToken(owner=owner, stake_microcredits=stake_microcredits, auditor=auditor)
        issued: IssuedToken = await self._admin("tokens", body, IssuedToken)
        return issued.token

    async def worker(
        self,
        owner: str = "owner",
        *,
        serve: bool = False,
        auditor: bool = False,
        connect: bool = True,
        **options: Any,
    ) -> FakeWorker:
        """A worker that has joined as `owner`'s, and connected."""
        worker = FakeWorker(self.session, self.url, **options)
        await worker.join(await self.token(owner, auditor=auditor), device=f"{owner}-device")
        if connect:
            await worker.connect(serve=serve)
        return worker

    async def standing(self, worker: FakeWorker) -> WorkerView:
        """What the dashboard says of a worker, after all that the market has decided by now.

        A result may be read from the database a moment before it is counted.
        """
        await self.tick()
        view: WorkerView = await self.call("GET", f"/v1/workers/{worker.id}", reply=WorkerView)
        return view

    async def publish(self, key: str, pipeline: SamplePipeline | None = None) -> str:
        """Upload and publish a pipeline; its CID."""
        pipeline = pipeline or SamplePipeline()
        for cid, data in pipeline.blocks():
            await self.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)
        await self.call("POST", "/v1/pipelines", key=key, body=pipeline.request())
        return pipeline.cid

    async def submit(self, key: str, pipeline: str, **changes: Any) -> JobView:
        """Submit a job by REST; `changes` are fields of the request."""
        request = job_request(pipeline, **changes)
        view: JobView = await self.call("POST", "/v1/jobs", key=key, body=request, reply=JobView)
        return view

    async def result(self, key: str, job: str) -> JobView:
        """A job, once it has ended, or as it is after two minutes: a busy machine takes its time."""
        for _ in range(4):
            view: JobView = await self.call("GET", f"/v1/jobs/{job}?wait_s=30", key=key, reply=JobView)
            if view.finished_at is not None:
                break
        return view

    async def tick(self) -> None:
        """Have the market look at the time now, and wait until it has."""
        parts = self.running.parts
        await parts.engine.ask(tick_work(parts.receipts))

    async def _admin(self, what: str, body: Any, reply: Any) -> Any:
        return await self.call("POST", f"/v1/admin/{what}", key=self.operator_token, body=body, reply=reply)


def job_request(pipeline: str, **changes: Any) -> JobRequest:
    """A request that one result of an unproven worker satisfies, unless changed."""
    request = JobRequest(
        pipeline=pipeline,
        input=sample_input(),
        max_price_microcredits=100_000,
        confidence=0.5,
        idempotency_key=f"key-{time.perf_counter_ns()}",
    )
    return msgspec.structs.replace(request, **changes)


@asynccontextmanager
async def local_broker(
    data_dir: Path,
    *,
    clock: Callable[[], float] = time.time,
    policy: MarketPolicy | None = None,
    **settings: Any,
) -> AsyncIterator[LocalBroker]:
    """A broker that keeps its state in `data_dir`. Without a `policy`, no result is checked by chance."""
    chosen = Settings(
        data_dir=data_dir,
        port=0,
        market=policy or MarketPolicy(audit_rate=0.0),
        **settings,
    )
    async with running_broker(chosen, clock=clock) as running, aiohttp.ClientSession() as session:
        yield LocalBroker(running, session)
