"""`tradepost worker status | earnings`: the worker's state and its earnings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tradepost.broker_url import parse_broker_url
from tradepost.commands.options import Json
from tradepost.commands.terminal import show, show_json
from tradepost.money import counted_credits, format_credits
from tradepost.plurals import counted
from tradepost_worker.commands.owner import StateDir
from tradepost_worker.commands.status import read_status
from tradepost_worker.leases.earnings import (
    EarningsRow,
    read_earnings,
    read_earnings_by_day,
    read_earnings_by_pipeline,
)
from tradepost_worker.leases.findings import describe_finding, read_findings
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.market_view import MarketView, look_at_market
from tradepost_worker.settings import Settings, load_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.wording import local_time

_DAY_S = 24 * 3600
WATCH_S = 2.0


def add_report_commands(app: typer.Typer, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Add the commands to `tradepost worker`. Between two looks, `--watch` calls `pause` with the seconds."""

    @app.command()
    def status(
        state_dir: StateDir = None,
        as_json: Json = False,
        watch: Annotated[
            bool, typer.Option("--watch", help="Print it again every 2 s, until Ctrl-C.")
        ] = False,
    ) -> None:
        """Print in one sentence whether this device works and why, and its earnings."""
        _say_status(state_dir, as_json=as_json)
        with suppress(KeyboardInterrupt):  # how it is meant to end
            while watch:
                pause(WATCH_S)
                _say_status(state_dir, as_json=as_json)

    app.command()(earnings)


def _say_status(state_dir: Path | None, *, as_json: bool) -> None:
    settings = load_settings({"state_dir": state_dir})
    found = read_status(settings)
    if found.connection is not None and found.connection.is_connected:
        found = msgspec.structs.replace(found, market=look(settings))
    show(found.to_json(), found.sentence(), as_json=as_json)


def earnings(state_dir: StateDir = None, as_json: Json = False) -> None:
    """Show this device's earnings, from its own record of settled leases and according to the broker."""
    settings = load_settings({"state_dir": state_dir})
    database = StateFolder(settings.state_dir).database
    periods = {"last_day": time.time() - _DAY_S, "last_week": time.time() - 7 * _DAY_S, "ever": 0.0}
    sums = {name: read_earnings(database, since=since) for name, since in periods.items()}
    by_day, by_pipeline = read_earnings_by_day(database), read_earnings_by_pipeline(database)
    findings = read_findings(database)
    market = look(settings)
    account = None if market is None else market.account
    if as_json:
        report: dict[str, Any] = {
            **sums,
            "by_day": by_day,
            "by_pipeline": by_pipeline,
            "account": account,
            "findings": findings,
        }
        show_json(report)
        return
    for name, total in sums.items():
        typer.echo(_line(name.replace("_", " "), EarningsRow(of=name, **msgspec.structs.asdict(total))))
    for title, rows in (("by day", by_day), ("by pipeline", by_pipeline)):
        if rows:
            typer.echo(f"\n{title}")
        for row in rows:
            typer.echo(_line(row.of, row))
    if findings:
        typer.echo("\nlowered this device's reputation, newest first")
    for finding in findings:
        typer.echo(f"{local_time(finding.at)}  {finding.lease}  {describe_finding(finding)}")
    if StateFolder(settings.state_dir).membership() is None:
        typer.echo("\nThis device has not joined. To join: tradepost worker join URL --token TOKEN")
    elif account is None:
        typer.echo("\nThe broker does not answer, so the matured credits are unknown.")
    else:
        typer.echo(
            f"\nAccording to the broker: {counted_credits(account.earned_microcredits)} matured, "
            f"{format_credits(account.held_microcredits)} pending, "
            f"{format_credits(account.stake_microcredits)} at stake, "
            f"{format_credits(account.slashed_microcredits)} lost; standing {account.standing}."
        )


def look(settings: Settings) -> MarketView | None:
    """What the broker that this device joined tells everybody; `None` if it does not answer."""
    membership = StateFolder(settings.state_dir).membership()
    if membership is None:
        return None

    async def ask() -> MarketView | None:
        async with BrokerApi(parse_broker_url(membership.broker_url)) as broker:
            return await look_at_market(broker, membership.worker)

    return asyncio.run(ask())


def _line(name: str, row: EarningsRow) -> str:
    amount = format_credits(row.earned_microcredits)
    return f"{name:<10} {amount:>14} credits   {row.paid_leases:,} of {counted(row.leases, 'lease')} paid"
