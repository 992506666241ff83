"""The life of a broker process: locked, opened, started, and stopped in order.

Crash-only: a broker that cannot make its state durable ends at once, and a restart continues from the last
commit. A clean stop differs only in that streams are closed politely and accepted work is finished first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from tradepost.atomic_files import replace_file
from tradepost.errors import CannotListen, DiskFull, InvalidSettings, TradepostError
from tradepost_broker.assembly import Parts, assemble
from tradepost_broker.engine.engine import TICK_S, Outcome
from tradepost_broker.engine.market_clock import MarketClock
from tradepost_broker.engine.work import EventWork
from tradepost_broker.jobs.receipt_checks import tick_work
from tradepost_broker.market.model.events import Restarted, goes_on
from tradepost_broker.settings import Settings
from tradepost_broker.storage import database
from tradepost_broker.storage.data_folder import (
    IDENTITY_FILE,
    URL_FILE,
    locked_data_folder,
    typed_folder_errors,
)
from tradepost_broker.storage.database_checks import typed_errors
from tradepost_broker.storage.store import Store
from tradepost_broker.web.connections import Connections, LimitedSite
from tradepost_broker.web.server_log import ServerLog

#: How long a clean stop waits for requests that are under way.
SHUTDOWN_S_MAX: Final = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunningBroker:
    """A broker that answers at `url`."""

    parts: Parts
    host: str
    port: int
    url: str
    tasks: tuple[asyncio.Task[None], ...]
    database_path: Path

    async def failed(self) -> None:
        """Wait until something that must go on fails, and raise why. Never returns while all is well."""
        done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        with typed_errors(self.database_path):
            done.pop().result()


@asynccontextmanager
async def running_broker(
    settings: Settings, *, clock: Callable[[], float] | None = None
) -> AsyncIterator[RunningBroker]:
    """A broker with these settings, until the context ends. Its time is `clock`, or a `MarketClock`.

    Raises `DataFolderInUse`, `DataFolderUnusable`, `MissingDatabase`, `DatabaseTooNew`, `DatabaseDamaged`,
    `DatabaseUnusable`, `DiskFull`, `CannotListen`, or `InvalidSettings`.
    """
    folder = settings.data_dir
    with locked_data_folder(folder), _opened_store(settings) as store:
        with typed_folder_errors(folder):
            parts = assemble(settings, store, clock=clock or MarketClock(not_before=store.last_at()))
        async with parts.watchdog.watching(), _running(parts, settings) as running:
            yield running


@asynccontextmanager
async def _running(parts: Parts, settings: Settings) -> AsyncIterator[RunningBroker]:
    folder = settings.data_dir
    engine = asyncio.create_task(parts.engine.run(), name="tradepost-engine")
    background: list[asyncio.Task[None]] = []
    runner = web.AppRunner(
        parts.application,
        access_log=None,
        logger=ServerLog(),
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S_MAX,
        # Also bounds how long a request's headers may take to arrive.
        keepalive_timeout=settings.idle_connection_s,
    )
    try:
        await parts.engine.ask(EventWork(lambda moment: Restarted(at=moment.at)))
        await parts.revocations.enforce()
        await parts.checkpoints.publish()
        background = [
            asyncio.create_task(_tick(parts), name="tradepost-tick"),
            asyncio.create_task(parts.retention.run(), name="tradepost-retention"),
            asyncio.create_task(parts.checkpoints.run(), name="tradepost-checkpoints"),
        ]
        host, port = await _listen(runner, settings, parts.connections)
        here = _url(settings, host, port)
        url = settings.public_url or here
        with typed_folder_errors(folder):
            replace_file(folder / URL_FILE, here.encode(), durable=False)
        _warn_of_little_space(parts)
        log.info("Broker %s is listening at %s", parts.broker.id, url, extra={"action": "listening"})
        yield RunningBroker(
            parts=parts,
            host=host,
            port=port,
            url=url,
            tasks=(engine, *background),
            database_path=settings.database_path,
        )
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await runner.cleanup()
        parts.engine.stop()
        await asyncio.wait([engine])
        if not engine.cancelled():
            engine.exception()  # raised by the code that watches `failed`; here it is only retrieved
        parts.uploads.close()


@contextmanager
def _opened_store(settings: Settings) -> Iterator[Store]:
    """The market's database. What SQLite raises while it is open is typed: it stops the broker."""
    path = settings.database_path
    database.require_own_market(path, settings.data_dir / IDENTITY_FILE)
    with typed_errors(path), contextlib.closing(Store(path)) as store:
        yield store


def _warn_of_little_space(parts: Parts) -> None:
    try:
        parts.space.require_for_new_work()
    except DiskFull as error:
        log.warning(
            "The broker accepts no new work until disk space is freed: %s",
            error.detail,
            extra={"action": "disk_almost_full"},
        )


async def _tick(parts: Parts) -> None:
    """Bring a tick every `TICK_S`, the next one when the one before it is done.

    If that had more to do than one event may, the next one comes sooner: after as long as it took, so that
    other work has half of the time.
    """
    pause_s = TICK_S
    while True:
        await asyncio.sleep(pause_s)
        began = time.monotonic()
        outcome = await _outcome_of_a_tick(parts)
        pause_s = min(TICK_S, time.monotonic() - began) if _is_more(outcome) else TICK_S


async def _outcome_of_a_tick(parts: Parts) -> Outcome:
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def reply(outcome: Outcome) -> None:
        if not done.done():
            done.set_result(outcome)

    parts.engine.submit(tick_work(parts.receipts), reply)
    return await done


def _is_more(outcome: Outcome) -> bool:
    return not isinstance(outcome, TradepostError) and goes_on(outcome)


async def _listen(runner: web.AppRunner, settings: Settings, connections: Connections) -> tuple[str, int]:
    await runner.setup()
    site = LimitedSite(
        runner, settings.host, settings.port, connections=connections, ssl_context=_tls(settings)
    )
    try:
        await site.start()
    except OSError as error:
        raise CannotListen(f"{settings.host}:{settings.port}: {error.strerror}") from None
    host, port = runner.addresses[0][:2]
    return host, port


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError:
        raise InvalidSettings(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} are no certificate and its key",
            hint="Both files must be PEM, and the key must not be encrypted.",
        ) from None
    except OSError as error:
        files = f"tls_cert {settings.tls_cert} or tls_key {settings.tls_key}"
        raise InvalidSettings(f"{files} cannot be read: {error.strerror}") from None
    return context


def _url(settings: Settings, host: str, port: int) -> str:
    """The broker's address as this machine sees it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.uses_tls else 'http'}://{shown}:{port}"
