"""REST for submitters: jobs and the account."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from aiohttp import web
from sqlalchemy import ColumnElement, Select, literal_column, select

from tradepost.errors import InvalidRequest, QuotaExceeded, UnknownJob
from tradepost.protocol import AccountView, JobEntry, JobList, JobRequest, JobView, QuarantineView
from tradepost.protocol.job_bounds import JOBS_SHOWN_MAX
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.jobs.job_service import JobService
from tradepost_broker.jobs.submission import SubmissionChecks, job_of
from tradepost_broker.market.ledger import credits_of
from tradepost_broker.market.model.entities import Account, Job
from tradepost_broker.reporting.explanations import explain_job
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Store
from tradepost_broker.web.client_stream import ClientStreams
from tradepost_broker.web.endpoints import (
    ACCOUNT,
    Access,
    Endpoint,
    read_body,
    read_limit,
    read_wait_s,
    reply,
)
from tradepost_broker.web.request_bodies import DOCUMENT_BODY_BYTES_MAX
from tradepost_broker.web.slow_peers import send_pieces

_SHOWN_CHARS_MAX: Final = 80
JOBS_SHOWN: Final = 100
#: Requests of one account that may wait for an end at once.
WAITS_MAX: Final = 256


class JobEndpoints:
    """Jobs of the account whose key a request brings."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: Store,
        jobs: JobService,
        submissions: SubmissionChecks,
        uploads: Uploads,
        streams: ClientStreams,
    ) -> None:
        self._engine = engine
        self._store = store
        self._jobs = jobs
        self._submissions = submissions
        self._uploads = uploads
        self._streams = streams
        self._waits: Counter[str] = Counter()

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        account = Access.ACCOUNT
        one = "/v1/jobs/{job}"
        return [
            Endpoint(
                method="POST",
                path="/v1/jobs",
                handler=self.submit,
                access=account,
                body=JobRequest,
                body_bytes_max=DOCUMENT_BODY_BYTES_MAX,
                reply=JobView,
                status=201,
            ),
            Endpoint(method="GET", path="/v1/jobs", handler=self.list_jobs, access=account, reply=JobList),
            Endpoint(method="GET", path=one, handler=self.show, access=account, reply=JobView),
            Endpoint(method="DELETE", path=one, handler=self.cancel, access=account, reply=JobView),
            Endpoint(
                method="GET",
                path=f"{one}/output",
                handler=self.output,
                access=account,
                reply=bytes,
                media="application/octet-stream",
            ),
            Endpoint(
                method="GET",
                path=f"{one}/explanation",
                handler=self.explanation,
                access=account,
                reply=Explanation,
            ),
            Endpoint(
                method="DELETE",
                path="/v1/quarantines/{pipeline}",
                handler=self.lift_quarantine,
                access=account,
                reply=QuarantineView,
            ),
            Endpoint(
                method="GET", path="/v1/account", handler=self.account, access=account, reply=AccountView
            ),
            Endpoint(
                method="GET", path="/v1/client", handler=self._streams.handle, access=account, status=101
            ),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Submit a job. It is durable when this answers; a repeated idempotency key gives the first job."""
        account = request[ACCOUNT]
        submission = await self._submissions.check(account, await read_body(request, JobRequest))
        job = job_of(await self._engine.ask(submission))
        return reply(self._jobs.view(account, job), status=201, headers={"Location": f"/v1/jobs/{job}"})

    async def list_jobs(self, request: web.Request) -> web.StreamResponse:
        """The account's jobs, newest first: at most `limit` (1 to 1000), older than the job `before`.

        With `changed=true`, only those whose result was found wrong after they had ended.
        """
        limit = read_limit(request, JOBS_SHOWN, JOBS_SHOWN_MAX)
        account, before = request[ACCOUNT], request.query.get("before")
        newest = newest_jobs(
            account,
            before=None if before is None else self._cursor(account, before),
            changed=_is_true(request, "changed"),
        )
        found = list(self._store.find(Job, newest.limit(limit + 1)))
        shown = found[:limit]
        older = shown[-1].id if len(found) > limit else None
        return reply(JobList(jobs=tuple(map(_entry, shown)), older=older))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """A job as it stands; with `wait_s` (at most 60), once it has ended or that time has passed."""
        account, job = request[ACCOUNT], request.match_info["job"]
        wait_s = read_wait_s(request)
        if wait_s > 0:
            await self._wait(account, job, wait_s)
        return reply(self._jobs.view(account, job))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a job that has not ended; what was reserved for it is free again."""
        return reply(await self._jobs.cancel(request[ACCOUNT], request.match_info["job"]))

    async def lift_quarantine(self, request: web.Request) -> web.StreamResponse:
        """Let the account's jobs on a pipeline be leased again, after they failed on everybody."""
        view = await self._jobs.lift_quarantine(request[ACCOUNT], request.match_info["pipeline"])
        return reply(view)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """The output document of an accepted job, as the receipts commit to it."""
        job = self._jobs.job(request[ACCOUNT], request.match_info["job"])
        delivery = self._store.get(Delivery, job.accepted[0]) if job.accepted else None
        if delivery is None or not delivery.output_cid:
            raise UnknownJob(
                f"job {job.id} is {job.status.value} and has no output",
                hint="Only an accepted job has an output.",
                job=job.id,
            )
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Content-Type-Options": "nosniff",
            "X-Output-Cid": delivery.output_cid,
        }
        if delivery.output is not None:
            return web.Response(body=delivery.output, headers=headers)
        response = web.StreamResponse(headers=headers)
        await send_pieces(request, response, self._uploads.stream_output(delivery))
        return response

    async def explanation(self, request: web.Request) -> web.StreamResponse:
        """Of a job that has ended: why each lease went where it went, why others lost, and what was found."""
        job = self._jobs.job(request[ACCOUNT], request.match_info["job"])
        return reply(explain_job(self._store, job, with_outcomes=True))

    async def account(self, request: web.Request) -> web.StreamResponse:
        """What the account may spend, and what is reserved for its open jobs."""
        name = request[ACCOUNT]
        ledger_id = credits_of(name)
        entry = self._store.get(Account, ledger_id) or Account(id=ledger_id)
        return reply(
            AccountView(
                account=name,
                available_microcredits=entry.available_microcredits,
                reserved_microcredits=entry.reserved_microcredits,
            )
        )

    def _cursor(self, account: str, before: str) -> str:
        """The job that a page is to follow. Raises `UnknownJob` for any but one of the account's."""
        try:
            return self._jobs.job(account, before).id
        except UnknownJob:
            raise UnknownJob(
                f"before is {before[:_SHOWN_CHARS_MAX]!r}, which is no job of account {account}",
                hint="Pass the `older` of the page before, or nothing for the newest jobs.",
            ) from None

    async def _wait(self, account: str, job: str, wait_s: float) -> None:
        if self._waits[account] >= WAITS_MAX:
            raise QuotaExceeded(f"{WAITS_MAX} requests of {account} are waiting", limit=WAITS_MAX)
        ended = asyncio.Event()

        def watcher(_: JobView) -> None:
            ended.set()

        self._waits[account] += 1
        self._jobs.watch(account, job, watcher)
        try:
            async with asyncio.timeout(wait_s):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            self._waits[account] -= 1
            self._jobs.unwatch(job, watcher)


def newest_jobs(account: str, *, before: str | None, changed: bool) -> Select[Any]:
    """A select of the account's jobs, newest first: those older than the job `before`, if it is given.

    With `changed`, only those whose verdict has changed.
    """
    table = CODECS[Job].table
    newest = select(table).where(table.c.account == account).order_by(table.c.id.desc())
    id_: ColumnElement[str] = table.c.id
    if changed:
        # Written so that SQLite reads the index of changed verdicts, which are few, and not all jobs. The
        # plus keeps it from going by the ids.
        newest, id_ = newest.where(table.c.verdict_changed_at >= 0), literal_column("+jobs.id")
    return newest if before is None else newest.where(id_ < before)


def _entry(job: Job) -> JobEntry:
    return JobEntry(
        job=job.id,
        status=job.status,
        pipeline=job.pipeline,
        input_cid=job.input,
        submitted_at=job.submitted_at,
        finished_at=job.finished_at,
        price_microcredits=job.paid_microcredits,
        verdict_changed_at=job.verdict_changed_at,
    )


def _is_true(request: web.Request, name: str) -> bool:
    """A switch in a query. Raises `InvalidRequest` for anything but true and false."""
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} is {text[:_SHOWN_CHARS_MAX]!r}; it must be true or false")
    return text == "true"
