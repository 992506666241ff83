"""Builds a broker's parts from its settings, each from the parts that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import msgspec
from aiohttp import web

from tradepost.content import FolderStore
from tradepost.errors import InvalidKey, InvalidSettings
from tradepost.identity import Identity
from tradepost_broker.access.credentials import Credentials, load_or_create_operator_token
from tradepost_broker.access.joining import Joinings
from tradepost_broker.access.revocations import FILE_NAME, RevocationDesk
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.content.retention import Retention
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.jobs.delivery import Courier
from tradepost_broker.jobs.job_service import JobDesk
from tradepost_broker.jobs.open_jobs import OpenJobs
from tradepost_broker.jobs.output_comparison import OutputComparison
from tradepost_broker.jobs.receipt_checks import ReceiptChecks
from tradepost_broker.jobs.submission import Submissions
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Evidence, Transfer
from tradepost_broker.market.model.events import Instruction, Save
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.reporting.metrics import Metrics
from tradepost_broker.reporting.running_counts import Tallies
from tradepost_broker.reporting.standings import Standings
from tradepost_broker.settings import Settings
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.streams.watchers import Watchers
from tradepost_broker.web.admin import AdminEndpoints
from tradepost_broker.web.application import build_application
from tradepost_broker.web.caller_limits import RateLimit
from tradepost_broker.web.client_stream import ClientStreams
from tradepost_broker.web.content import ContentEndpoints
from tradepost_broker.web.endpoints import Endpoint
from tradepost_broker.web.gateway import GatewayEndpoints
from tradepost_broker.web.jobs import JobEndpoints
from tradepost_broker.web.openapi import openapi_document
from tradepost_broker.web.pages import PageEndpoints
from tradepost_broker.web.pipelines import PipelineEndpoints
from tradepost_broker.web.worker_stream import WorkerStreams
from tradepost_broker.web.workers import WorkerEndpoints
from tradepost_signing.keys import PublicKey


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A broker that is built and does not run yet."""

    broker: Identity
    store: Store
    market: Market
    engine: Engine
    uploads: Uploads
    retention: Retention
    revocations: RevocationDesk
    endpoints: tuple[Endpoint, ...]
    application: web.Application
    operator_token: str


def assemble(settings: Settings, store: Store, *, clock: Callable[[], float] = time.time) -> Parts:
    """Restore the market from `store`, and build what surrounds it."""
    policy = settings.market
    broker = Identity.load_or_create(settings.data_dir / "identity.pem")
    operator_token = load_or_create_operator_token(settings.data_dir / "operator.token")
    started_at = clock()
    market = Market.restore(store.load(at=started_at, policy=policy), policy)
    store.record_run(at=started_at, version=version("tradepost"), policy=msgspec.msgpack.encode(policy))

    sessions, watchers, metrics = Sessions(), Watchers(), Metrics()
    tallies = Tallies(store=store, job_status=lambda job: _status(market, job))
    open_jobs = OpenJobs(
        store=store, jobs_max=settings.open_jobs_max, account_of=lambda job: _account(market, job)
    )

    def release(instruction: Instruction) -> None:
        if isinstance(instruction, Save) and not isinstance(instruction.record, Evidence | Transfer):
            return  # most instructions are records that nobody counts
        tallies.observe(instruction)
        metrics.observe(instruction, market.job)
        courier.release(instruction)

    engine = Engine(
        core=market,
        store=store,
        release=release,
        clock=clock,
        observe_decided=open_jobs.observe,
        observe_batch=metrics.observe_batch,
    )
    revocations = RevocationDesk(
        path=settings.data_dir / FILE_NAME, operator=_operator_key(settings), engine=engine
    )
    courier = Courier(
        records=market,
        store=store,
        sessions=sessions,
        watchers=watchers,
        revocations=revocations.frame,
    )
    blocks = FolderStore(settings.data_dir / "blocks", bytes_max=settings.content_bytes_max, evict=False)
    uploads = Uploads(blocks=blocks, store=store, engine=engine)
    catalog = Catalog(
        store=store, uploads=uploads, engine=engine, document_bytes_max=settings.document_bytes_max
    )
    credentials = Credentials(store=store, operator_token=operator_token)
    joinings = Joinings(
        broker=broker.id, store=store, engine=engine, clock=clock, revocations_key=revocations.key_pem
    )
    desk = JobDesk(store=store, engine=engine, watchers=watchers)
    submissions = Submissions(
        market=market, catalog=catalog, uploads=uploads, open_jobs=open_jobs, clock=clock
    )
    standings = Standings(store=store, market=market, sessions=sessions, tallies=tallies)
    devices = DeviceReadings(clock=clock)
    metrics.gauge("workers_connected", "Workers with a stream.", lambda: len(sessions))

    pages = PageEndpoints(
        settings=settings,
        broker=broker,
        store=store,
        standings=standings,
        tallies=tallies,
        metrics=metrics,
    )
    endpoints = (
        *pages.endpoints(),
        *PipelineEndpoints(catalog=catalog, store=store, clock=clock).endpoints(),
        *ContentEndpoints(
            uploads=uploads,
            catalog=catalog,
            market=market,
            clock=clock,
            upload_bytes_max=settings.upload_bytes_max,
        ).endpoints(),
        *GatewayEndpoints(uploads=uploads).endpoints(),
        *JobEndpoints(
            engine=engine,
            store=store,
            desk=desk,
            submissions=submissions,
            uploads=uploads,
            streams=ClientStreams(engine=engine, submissions=submissions, desk=desk),
        ).endpoints(),
        *WorkerEndpoints(
            joinings=joinings,
            standings=standings,
            streams=WorkerStreams(
                broker=broker,
                market=market,
                engine=engine,
                receipts=ReceiptChecks(
                    broker=broker.id,
                    market=market,
                    catalog=catalog,
                    uploads=uploads,
                    outputs=OutputComparison(store=store, uploads=uploads, folder=settings.data_dir),
                ),
                sessions=sessions,
                revocations=revocations,
                devices=devices,
                reconnects=RateLimit(burst=20, per_s=0.5, monotonic=time.monotonic),
                failures=RateLimit(burst=20, per_s=0.5, monotonic=time.monotonic),
            ),
            failures=RateLimit(burst=30, per_s=1.0, monotonic=time.monotonic),
        ).endpoints(),
        *AdminEndpoints(
            engine=engine,
            store=store,
            credentials=credentials,
            joinings=joinings,
            revocations=revocations,
            sessions=sessions,
            devices=devices,
            clock=clock,
        ).endpoints(),
    )
    pages.openapi = openapi_document(endpoints, version=version("tradepost"))
    return Parts(
        broker=broker,
        store=store,
        market=market,
        engine=engine,
        uploads=uploads,
        retention=Retention(engine=engine, uploads=uploads, kept_s=settings.documents_kept_s, clock=clock),
        revocations=revocations,
        endpoints=endpoints,
        application=build_application(endpoints, credentials),
        operator_token=operator_token,
    )


def _operator_key(settings: Settings) -> PublicKey | None:
    path = settings.revocations_key
    try:
        return None if path is None else PublicKey.load(path)
    except InvalidKey as error:
        raise InvalidSettings(f"revocations_key: {error.detail}", hint=error.hint) from None


def _status(market: Market, job_id: str) -> str | None:
    job = market.job(job_id)
    return None if job is None else job.status.value


def _account(market: Market, job_id: str) -> str | None:
    job = market.job(job_id)
    return None if job is None else job.account
