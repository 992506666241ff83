"""REST for the operator, by the operator's token: accounts, credits, and every account's jobs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from aiohttp import web
from sqlalchemy import select

from tradepost.errors import InvalidRequest, UnknownJob
from tradepost.protocol import AccountView
from tradepost.protocol.job_bounds import JOBS_SHOWN_MAX
from tradepost_broker.access.credentials import Credentials, hash_of, new_secret
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import EventWork, Keep
from tradepost_broker.market.ledger import credits_of
from tradepost_broker.market.model.entities import Account, Job
from tradepost_broker.market.model.events import Funded
from tradepost_broker.operator.messages import (
    Funding,
    JobSummary,
    NewAccount,
    NewApiKey,
)
from tradepost_broker.reporting.explanations import explain_job
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import ApiKey
from tradepost_broker.storage.store import Store
from tradepost_broker.web.endpoints import Access, Endpoint, read_body, read_limit, reply

JOBS_SHOWN: Final = 100


class AdminEndpoints:
    """Endpoints for the operator."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: Store,
        credentials: Credentials,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._credentials = credentials
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        operator = Access.OPERATOR
        jobs = "/v1/admin/jobs"
        return [
            Endpoint(
                method="POST",
                path="/v1/admin/accounts",
                handler=self.create_account,
                access=operator,
                body=NewAccount,
                reply=NewApiKey,
                status=201,
            ),
            Endpoint(
                method="POST",
                path="/v1/admin/fund",
                handler=self.fund,
                access=operator,
                body=Funding,
                reply=AccountView,
            ),
            Endpoint(method="GET", path=jobs, handler=self.jobs, access=operator, reply=list[JobSummary]),
            Endpoint(
                method="GET",
                path=jobs + "/{job}/explanation",
                handler=self.explanation,
                access=operator,
                reply=Explanation,
            ),
        ]

    async def create_account(self, request: web.Request) -> web.StreamResponse:
        """Make an account with an API key; for a name that exists, one more key."""
        body = await read_body(request, NewAccount)
        secret = new_secret("tpk")
        key = ApiKey(id=hash_of(secret), account=body.name, created_at=self._clock())
        await self._engine.ask(
            self._funding(body.name, body.funds_microcredits, f"start:{secrets.token_hex(16)}", key)
            if body.funds_microcredits
            else Keep(key)
        )
        self._credentials.add(key)
        available = self._account(body.name).available_microcredits
        return reply(
            NewApiKey(account=body.name, api_key=secret, available_microcredits=available), status=201
        )

    async def fund(self, request: web.Request) -> web.StreamResponse:
        """Move credits from the treasury to an account; the same transfer id moves them once."""
        body = await read_body(request, Funding)
        if not self._credentials.has_account(body.account):
            raise InvalidRequest(
                f"there is no account {body.account}",
                hint="Create it with `tradepost broker account create`.",
            )
        transfer = f"fund:{body.transfer or secrets.token_hex(16)}"
        await self._engine.ask(self._funding(body.account, body.amount_microcredits, transfer))
        return reply(self._account(body.account))

    async def jobs(self, request: web.Request) -> web.StreamResponse:
        """The newest jobs of all accounts, newest first; at most `limit`, which is 100 unless given."""
        limit = read_limit(request, JOBS_SHOWN, JOBS_SHOWN_MAX)
        table = CODECS[Job].table
        newest = select(table).order_by(table.c.id.desc()).limit(limit)
        return reply([_summary(job) for job in self._store.find_readable(Job, newest)])

    async def explanation(self, request: web.Request) -> web.StreamResponse:
        """Why each lease of any job that has ended went where it went; what it gave is its submitter's."""
        job = self._store.get(Job, request.match_info["job"])
        if job is None:
            raise UnknownJob(
                f"there is no job {request.match_info['job']}",
                hint="List the jobs with `tradepost broker jobs`.",
            )
        return reply(explain_job(self._store, job, with_outcomes=False))

    def _funding(self, account: str, amount_microcredits: int, transfer: str, *records: ApiKey) -> EventWork:
        return EventWork(
            lambda moment: Funded(
                at=moment.at, transfer=transfer, account=account, amount_microcredits=amount_microcredits
            ),
            *records,
        )

    def _account(self, name: str) -> AccountView:
        entry = self._store.get(Account, credits_of(name)) or Account(id=name)
        return AccountView(
            account=name,
            available_microcredits=entry.available_microcredits,
            reserved_microcredits=entry.reserved_microcredits,
        )


def _summary(job: Job) -> JobSummary:
    return JobSummary(
        job=job.id,
        account=job.account,
        pipeline=job.pipeline,
        status=job.status.value,
        submitted_at=job.submitted_at,
        finished_at=job.finished_at,
        paid_microcredits=job.paid_microcredits,
    )
