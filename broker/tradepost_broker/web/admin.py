"""REST for the operator, by the operator's token: accounts, credits, join tokens, a look at every job."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from aiohttp import web
from sqlalchemy import select

from tradepost.errors import InvalidRequest, UnknownJob
from tradepost.protocol import AccountView
from tradepost_broker.access.credentials import Credentials, hash_of, new_secret
from tradepost_broker.access.joining import Joinings
from tradepost_broker.access.revocations import RevocationDesk
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import EventWork, Keep
from tradepost_broker.market.ledger import credits_of
from tradepost_broker.market.model.entities import Account, Job
from tradepost_broker.market.model.events import Funded
from tradepost_broker.operator.messages import (
    DeviceView,
    EnforcedRevocations,
    Funding,
    IssuedToken,
    JobSummary,
    NewAccount,
    NewApiKey,
    NewRevocations,
    NewToken,
)
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.reporting.explanations import explain_job
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import ApiKey
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.web.endpoints import Access, Endpoint, read_body, reply
from tradepost_signing.policy.revocation_store import SignedRevocations

JOBS_SHOWN_MAX: Final = 1_000


class AdminEndpoints:
    """What only the operator may do."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: Store,
        credentials: Credentials,
        joinings: Joinings,
        revocations: RevocationDesk,
        sessions: Sessions,
        devices: DeviceReadings,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._credentials = credentials
        self._joinings = joinings
        self._revocations = revocations
        self._sessions = sessions
        self._devices = devices
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
            Endpoint(
                method="POST",
                path="/v1/admin/tokens",
                handler=self.issue_token,
                access=operator,
                body=NewToken,
                reply=IssuedToken,
                status=201,
            ),
            Endpoint(
                method="POST",
                path="/v1/admin/revocations",
                handler=self.revoke,
                access=operator,
                body=NewRevocations,
                reply=EnforcedRevocations,
            ),
            Endpoint(
                method="GET",
                path="/v1/admin/devices",
                handler=self.devices,
                access=operator,
                reply=list[DeviceView],
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
            self._funding(body.name, body.credits_microcredits, f"start:{secrets.token_hex(16)}", key)
            if body.credits_microcredits
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
                f"there is no account {body.account}", hint="`tradepost broker account create` makes it."
            )
        transfer = f"fund:{body.transfer or secrets.token_hex(16)}"
        await self._engine.ask(self._funding(body.account, body.amount_microcredits, transfer))
        return reply(self._account(body.account))

    async def issue_token(self, request: web.Request) -> web.StreamResponse:
        """A join token that admits one device."""
        body = await read_body(request, NewToken)
        token, expires_at = await self._joinings.issue(
            owner=body.owner, stake=body.stake_microcredits, auditor=body.auditor, ttl_s=body.ttl_s
        )
        return reply(IssuedToken(token=token, owner=body.owner, expires_at=expires_at), status=201)

    async def jobs(self, request: web.Request) -> web.StreamResponse:
        """The newest jobs of all accounts, newest first; at most `limit`, which is 100 unless given."""
        text = request.query.get("limit", "100")
        if not text.isdecimal() or not 0 < int(text) <= JOBS_SHOWN_MAX:
            raise InvalidRequest(f"limit is {text!r}; give 1 to {JOBS_SHOWN_MAX}")
        table = CODECS[Job].table
        newest = select(table).order_by(table.c.id.desc()).limit(int(text))
        return reply([_summary(job) for job in self._store.find(Job, newest)])

    async def devices(self, request: web.Request) -> web.StreamResponse:
        """How workers' devices are, by their newest heartbeats, newest first; it has no effect on money."""
        return reply(self._devices.all())

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Enforce a signed revocation list, and send it to every worker. Its version must be higher."""
        body = await read_body(request, NewRevocations)
        version = await self._revocations.accept(SignedRevocations(body.document, body.bundle))
        return reply(EnforcedRevocations(version=version, workers=len(self._sessions)))

    async def explanation(self, request: web.Request) -> web.StreamResponse:
        """Why each lease of any job went where it went."""
        job = self._store.get(Job, request.match_info["job"])
        if job is None:
            raise UnknownJob(f"there is no job {request.match_info['job']}")
        return reply(explain_job(self._store, job))

    def _funding(self, account: str, amount: int, transfer: str, *records: ApiKey) -> EventWork:
        return EventWork(
            lambda moment: Funded(at=moment.at, transfer=transfer, account=account, amount=amount), *records
        )

    def _account(self, name: str) -> AccountView:
        entry = self._store.get(Account, credits_of(name)) or Account(id=name)
        return AccountView(
            account=name, available_microcredits=entry.available, reserved_microcredits=entry.reserved
        )


def _summary(job: Job) -> JobSummary:
    return JobSummary(
        job=job.id,
        account=job.account,
        pipeline=job.pipeline,
        status=job.status.value,
        submitted_at=job.submitted_at,
        finished_at=job.finished_at,
        paid_microcredits=job.paid,
    )
