"""Builds a broker's parts from its settings, each from the parts that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec
from aiohttp import web

from tradepost.content import FolderStore
from tradepost.errors import DatabaseDamaged, InvalidKey, InvalidSettings, InvariantBroken
from tradepost.identity import Identity
from tradepost.protocol import broker_codec_for_workers
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.access.credentials import Credentials, load_or_create_operator_token
from tradepost_broker.access.joining import JoinService
from tradepost_broker.access.revocations import FILE_NAME, IssuedRevocations, RevocationService
from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.content.catalog import PIPELINES_MAX, Catalog
from tradepost_broker.content.kept_documents import KeptDocuments, are_needed
from tradepost_broker.content.retention import Retention
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.core_recovery import CoreRecovery
from tradepost_broker.engine.engine import Engine, EngineObservers
from tradepost_broker.engine.market_clock import MarketClock
from tradepost_broker.jobs.instruction_sender import InstructionSender
from tradepost_broker.jobs.job_service import JobService
from tradepost_broker.jobs.open_jobs import OpenJobs
from tradepost_broker.jobs.output_checks import OutputChecks
from tradepost_broker.jobs.output_comparison import OutputComparison
from tradepost_broker.jobs.output_quota import OutputQuota
from tradepost_broker.jobs.receipt_checks import ReceiptChecks
from tradepost_broker.jobs.stored_documents import StoredDocuments
from tradepost_broker.jobs.submission import SubmissionChecks
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Evidence, Transfer
from tradepost_broker.market.model.events import Instruction, Save
from tradepost_broker.reporting.checkpoints import CheckpointPublisher
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.reporting.loop_stalls import LoopStalls
from tradepost_broker.reporting.loop_watchdog import LoopWatchdog
from tradepost_broker.reporting.metrics import Metrics
from tradepost_broker.reporting.recent_activity import RecentActivity
from tradepost_broker.reporting.running_counts import RunningCounts
from tradepost_broker.reporting.standings import Standings
from tradepost_broker.reporting.start_warnings import (
    log_missing_blocks,
    log_policy_changes,
    log_shared_folder,
)
from tradepost_broker.settings import Settings
from tradepost_broker.storage.data_folder import IDENTITY_FILE, make_data_folder
from tradepost_broker.storage.database_checks import RESTORE
from tradepost_broker.storage.disk_space import DiskSpace
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.streams.watchers import Watchers
from tradepost_broker.web.admin import AdminEndpoints
from tradepost_broker.web.application import build_application
from tradepost_broker.web.audit_log import AuditLogEndpoints
from tradepost_broker.web.client_stream import WATCHES_MAX, ClientStreams
from tradepost_broker.web.connections import Connections, open_connections_max
from tradepost_broker.web.content import ContentEndpoints
from tradepost_broker.web.endpoints import Endpoint
from tradepost_broker.web.estimates import EstimateEndpoints
from tradepost_broker.web.fleet import FleetEndpoints
from tradepost_broker.web.gateway import GatewayEndpoints
from tradepost_broker.web.handshakes import Handshakes
from tradepost_broker.web.jobs import JobEndpoints
from tradepost_broker.web.openapi import OpenApiEndpoints
from tradepost_broker.web.page_replies import PageReplies
from tradepost_broker.web.pages import PageEndpoints
from tradepost_broker.web.pipeline_pages import PipelinePageEndpoints
from tradepost_broker.web.pipelines import PipelineEndpoints
from tradepost_broker.web.set_aside import SetAsideEndpoints
from tradepost_broker.web.stalls import StallEndpoints
from tradepost_broker.web.worker_pages import WorkerPageEndpoints
from tradepost_broker.web.worker_session import WorkerSession
from tradepost_broker.web.worker_stream import ConnectionLimits, WorkerStreams
from tradepost_broker.web.workers import WorkerEndpoints
from tradepost_signing.keys import PublicKey

#: What the offers of one worker may add to the journal, in bytes, at once and per second.
JOURNAL_BYTES_BURST: Final = 512 << 10
JOURNAL_BYTES_PER_S: Final = 1024.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A broker that is built but not running yet."""

    broker: Identity
    store: Store
    market: Market
    engine: Engine
    uploads: Uploads
    space: DiskSpace
    receipts: ReceiptChecks
    retention: Retention
    revocations: RevocationService
    checkpoints: CheckpointPublisher
    endpoints: tuple[Endpoint, ...]
    application: web.Application
    connections: Connections
    quota: AccountQuota
    operator_token: str
    stalls: LoopStalls
    watchdog: LoopWatchdog


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a start reads from the data folder, or creates there."""

    settings: Settings
    store: Store
    clock: Callable[[], float]
    broker: Identity
    operator_token: str
    revocations: IssuedRevocations
    market: Market
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The connected clients and workers, and the watchers of jobs."""

    sessions: Sessions
    watchers: Watchers


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Counters of the market's instructions."""

    running: RunningCounts
    open_jobs: OpenJobs
    metrics: Metrics
    stalls: LoopStalls


@dataclass(frozen=True, kw_only=True)
class Content:
    """Blocks and published pipelines."""

    uploads: Uploads
    catalog: Catalog
    space: DiskSpace
    documents: StoredDocuments
    quota: AccountQuota
    outputs: OutputQuota


@dataclass(frozen=True, kw_only=True)
class InstructionRelease:
    """Counts each durable instruction, then executes it."""

    counters: Counters
    sender: InstructionSender
    market: Market

    def __call__(self, instruction: Instruction) -> None:
        """Release one instruction."""
        if isinstance(instruction, Save) and not isinstance(instruction.record, Evidence | Transfer):
            return  # most instructions are records that nobody counts
        self.counters.running.observe(instruction)
        self.counters.metrics.observe(instruction, self.market)
        self.sender.send(instruction)


def assemble(settings: Settings, store: Store, *, clock: Callable[[], float]) -> Parts:
    """Restore the market from `store`, and build what surrounds it."""
    restored = _restore(settings, store, clock)
    streams = Streams(sessions=Sessions(), watchers=Watchers())
    counters = _build_counters(restored, streams)
    kept = KeptDocuments(store=store)
    recovery = _build_recovery(restored, counters, kept)
    engine = _build_engine(restored, streams, counters, recovery)
    content = _build_content(restored, engine, kept)
    log_shared_folder(settings.data_dir)
    log_missing_blocks(content.uploads.missing_public_blocks(), settings.data_dir)
    credentials = Credentials(store=store, operator_token=restored.operator_token)
    revocations = RevocationService(revocations=restored.revocations, engine=engine)
    joins = JoinService(
        broker=restored.broker.id,
        store=store,
        engine=engine,
        clock=clock,
        revocations_key=restored.revocations.key_pem,
    )
    standings = Standings(
        store=store,
        market=restored.market,
        sessions=streams.sessions,
        counts=counters.running,
        policy=settings.market,
    )
    devices = DeviceReadings(clock=clock)
    checkpoints = CheckpointPublisher(
        store=store, engine=engine, broker=restored.broker, every_s=settings.checkpoint_s
    )
    receipts = _build_receipts(restored, content)
    jobs = JobService(store=store, engine=engine, watchers=streams.watchers)
    described = OpenApiEndpoints(
        (
            *_public_endpoints(restored, counters, standings, content.catalog),
            *_content_endpoints(restored, content, engine),
            *_job_endpoints(restored, engine, jobs, counters, content),
            *EstimateEndpoints(
                market=restored.market,
                catalog=content.catalog,
                estimates=RateLimit(burst=100, per_s=10.0, monotonic=time.monotonic),
            ).endpoints(),
            *AuditLogEndpoints(
                broker=restored.broker, store=store, jobs=jobs, checkpoints=checkpoints
            ).endpoints(),
            *WorkerEndpoints(
                joins=joins,
                standings=standings,
                streams=_build_worker_streams(restored, engine, streams, receipts, devices),
                failures=RateLimit(burst=30, per_s=1.0, monotonic=time.monotonic),
            ).endpoints(),
            *AdminEndpoints(engine=engine, store=store, credentials=credentials, clock=clock).endpoints(),
            *SetAsideEndpoints(engine=engine, store=store, recovery=recovery).endpoints(),
            *FleetEndpoints(
                joins=joins, revocations=revocations, sessions=streams.sessions, devices=devices
            ).endpoints(),
            *StallEndpoints(stalls=counters.stalls).endpoints(),
        ),
        version=version("tradepost"),
    )
    store.set_aside_unreadable(at=clock())
    connections = Connections(
        total=open_connections_max(settings.connections_max),
        each=settings.connections_per_address_max,
        unlimited=settings.trusted_proxies,
    )
    return Parts(
        broker=restored.broker,
        store=store,
        market=restored.market,
        engine=engine,
        uploads=content.uploads,
        space=content.space,
        receipts=receipts,
        retention=Retention(
            engine=engine,
            uploads=content.uploads,
            documents=kept,
            quota=content.quota,
            are_needed=partial(are_needed, restored.market),
            kept_s=settings.documents_kept_s,
            clock=clock,
        ),
        revocations=revocations,
        checkpoints=checkpoints,
        endpoints=described.endpoints(),
        application=build_application(
            described.endpoints(),
            credentials,
            connections=connections,
            trusted_proxies=settings.trusted_proxies,
        ),
        connections=connections,
        quota=content.quota,
        operator_token=restored.operator_token,
        stalls=counters.stalls,
        watchdog=LoopWatchdog(report=counters.stalls.note),
    )


def _restore(settings: Settings, store: Store, clock: Callable[[], float]) -> Restored:
    policy, folder = settings.market, settings.data_dir
    operator_token = load_or_create_operator_token(folder / "operator.token")
    revocations = IssuedRevocations(
        path=folder / FILE_NAME, operator=_operator_key(settings), has_enforced=store.has_revocations()
    )
    log_policy_changes(store.starts(), policy)
    started_at = clock()
    without = store.left_out()
    try:
        sifted = store.sift(at=started_at, policy=policy, without=without)
        left_out = [(one.kind, one.id) for one in sifted.left_out] + without
        market = Market.restore(sifted.records, policy, left_out=left_out)
    except InvariantBroken as error:  # nothing has been decided yet: what was stored is at fault
        raise DatabaseDamaged(f"{settings.database_path}: {error}", hint=RESTORE) from error
    store.record_start(
        at=started_at,
        version=version("tradepost"),
        policy=msgspec.msgpack.encode(policy),
        left_out=left_out,
    )
    # Only after a start is recorded: a database without one, beside an identity, is not that market's.
    broker = Identity.load_or_create(folder / IDENTITY_FILE)
    return Restored(
        settings=settings,
        store=store,
        clock=clock,
        broker=broker,
        operator_token=operator_token,
        revocations=revocations,
        market=market,
        left_out=tuple(left_out),
    )


def _build_counters(restored: Restored, streams: Streams) -> Counters:
    find_job, store = restored.market.job, restored.store
    metrics = Metrics()
    metrics.gauge("workers_connected", "Workers with a stream.", lambda: len(streams.sessions))
    return Counters(
        running=RunningCounts(store=store, find_job=find_job),
        open_jobs=OpenJobs(
            store=store,
            jobs_max=restored.settings.open_jobs_max,
            unpaid_per_s=restored.settings.unpaid_jobs_per_s,
            find_job=find_job,
        ),
        metrics=metrics,
        stalls=LoopStalls(observe_stall=metrics.observe_stall, clock=restored.clock),
    )


def _build_recovery(restored: Restored, counters: Counters, kept: KeptDocuments) -> CoreRecovery:
    def recount() -> None:
        counters.open_jobs.recount()
        kept.recount()

    return CoreRecovery(
        core=restored.market,
        store=restored.store,
        policy=restored.settings.market,
        version=version("tradepost"),
        left_out=restored.left_out,
        observe_restored=recount,
    )


def _build_engine(restored: Restored, streams: Streams, counters: Counters, recovery: CoreRecovery) -> Engine:
    sender = InstructionSender(
        records=restored.market,
        store=restored.store,
        sessions=streams.sessions,
        watchers=streams.watchers,
        clock=restored.clock,
        revocations=restored.revocations.frame,
    )
    clock = restored.clock
    return Engine(
        core=restored.market,
        store=restored.store,
        recovery=recovery,
        release=InstructionRelease(counters=counters, sender=sender, market=restored.market),
        clock=clock,
        observers=EngineObservers(
            decided=counters.open_jobs.observe,
            batch=counters.metrics.observe_batch,
            blocked=clock.stand_still if isinstance(clock, MarketClock) else lambda _is_blocked: None,
        ),
    )


def _build_content(restored: Restored, engine: Engine, kept: KeptDocuments) -> Content:
    settings, store = restored.settings, restored.store
    folder = settings.data_dir / "blocks"
    make_data_folder(folder)
    blocks = FolderStore(folder, bytes_max=settings.content_bytes_max, evict=False, conceal_held=True)
    space = DiskSpace(settings.data_dir, reserve_bytes=settings.disk_reserve_bytes)
    uploads = Uploads(blocks=blocks, store=store, engine=engine, space=space, documents=kept)
    catalog = Catalog(
        store=store,
        uploads=uploads,
        engine=engine,
        space=space,
        document_bytes_max=settings.document_bytes_max,
    )
    documents = StoredDocuments(folder=settings.data_dir)
    quota = AccountQuota(uploads=uploads, documents=kept, bytes_max=settings.upload_bytes_max)
    return Content(
        uploads=uploads,
        catalog=catalog,
        space=space,
        documents=documents,
        quota=quota,
        outputs=OutputQuota(market=restored.market, quota=quota),
    )


def _public_endpoints(
    restored: Restored, counters: Counters, standings: Standings, catalog: Catalog
) -> list[Endpoint]:
    activity = RecentActivity(store=restored.store)
    replies = PageReplies()
    pages = PageEndpoints(
        settings=restored.settings,
        broker=restored.broker,
        store=restored.store,
        standings=standings,
        counts=counters.running,
        metrics=counters.metrics,
        activity=activity,
        replies=replies,
    )
    return [
        *pages.endpoints(),
        *WorkerPageEndpoints(standings=standings, replies=replies).endpoints(),
        *PipelinePageEndpoints(
            store=restored.store, catalog=catalog, activity=activity, replies=replies
        ).endpoints(),
    ]


def _content_endpoints(restored: Restored, content: Content, engine: Engine) -> list[Endpoint]:
    uploads, catalog, clock = content.uploads, content.catalog, restored.clock
    return [
        *PipelineEndpoints(
            catalog=catalog,
            store=restored.store,
            clock=clock,
            publications=RateLimit(burst=PIPELINES_MAX, per_s=0.1, monotonic=time.monotonic),
        ).endpoints(),
        *ContentEndpoints(
            uploads=uploads,
            catalog=catalog,
            market=restored.market,
            clock=clock,
            quota=content.quota,
            outputs=content.outputs,
            engine=engine,
        ).endpoints(),
        *GatewayEndpoints(uploads=uploads).endpoints(),
    ]


def _job_endpoints(
    restored: Restored, engine: Engine, jobs: JobService, counters: Counters, content: Content
) -> list[Endpoint]:
    submissions = SubmissionChecks(
        market=restored.market,
        catalog=content.catalog,
        uploads=content.uploads,
        documents=content.documents,
        open_jobs=counters.open_jobs,
        quota=content.quota,
        space=content.space,
        clock=restored.clock,
    )
    return JobEndpoints(
        engine=engine,
        store=restored.store,
        jobs=jobs,
        submissions=submissions,
        uploads=content.uploads,
        streams=ClientStreams(
            engine=engine,
            submissions=submissions,
            jobs=jobs,
            watches_max=max(restored.settings.open_jobs_max, WATCHES_MAX),
        ),
    ).endpoints()


def _build_receipts(restored: Restored, content: Content) -> ReceiptChecks:
    uploads, documents = content.uploads, content.documents
    return ReceiptChecks(
        broker=restored.broker.id,
        market=restored.market,
        catalog=content.catalog,
        outputs=OutputChecks(uploads=uploads, documents=documents),
        comparison=OutputComparison(store=restored.store, uploads=uploads, documents=documents),
        quota=content.outputs,
    )


def _build_worker_streams(
    restored: Restored, engine: Engine, streams: Streams, receipts: ReceiptChecks, devices: DeviceReadings
) -> WorkerStreams:
    market = restored.market
    journal_bytes = RateLimit(burst=JOURNAL_BYTES_BURST, per_s=JOURNAL_BYTES_PER_S, monotonic=time.monotonic)
    return WorkerStreams(
        broker=restored.broker,
        market=market,
        engine=engine,
        sessions=streams.sessions,
        revocations=restored.revocations,
        limits=ConnectionLimits(
            reconnects=RateLimit(burst=20, per_s=0.5, monotonic=time.monotonic),
            handshakes=Handshakes(total=128, each=32),
            journal_bytes=journal_bytes,
        ),
        new_session=partial(
            WorkerSession,
            codec=broker_codec_for_workers(),
            market=market,
            engine=engine,
            receipts=receipts,
            devices=devices,
            journal_bytes=journal_bytes,
        ),
    )


def _operator_key(settings: Settings) -> PublicKey | None:
    path = settings.revocations_key
    try:
        return None if path is None else PublicKey.load(path)
    except InvalidKey as error:
        raise InvalidSettings(f"revocations_key: {error.detail}", hint=error.hint) from None
