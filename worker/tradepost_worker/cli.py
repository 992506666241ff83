"""`tradepost worker`: lend a device, and see what it does and earns."""

from __future__ import annotations

import asyncio
import json
import platform
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tradepost.money import format_credits
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy_file import add_publisher
from tradepost_signing.publisher import Publisher
from tradepost_signing.trust import TrustPolicy
from tradepost_worker.assembly import Decorate, agent_from_settings
from tradepost_worker.joining import join as join_broker
from tradepost_worker.logs import set_up_logging
from tradepost_worker.outbox import read_earnings, read_pending
from tradepost_worker.settings import FILE_NAME, Settings, load_settings, save_settings
from tradepost_worker.state import StateFolder

StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where this worker keeps its state.")]
Price = Annotated[str | None, typer.Option("--price", help="Credits per work unit that this device asks.")]
Capacity = Annotated[int | None, typer.Option("--capacity", min=1, help="Leases to hold at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DAY_S = 24 * 3600


def create_app(*, decorate: Decorate = lambda runners: runners) -> typer.Typer:
    """The command; `decorate` is put between the agent and its runners."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        help="Lend this device to a market: see what it does and earns, and stop it at any time.",
    )
    trust = typer.Typer(no_args_is_help=True, help="Whose pipelines may run on this device.")
    app.add_typer(trust, name="trust")

    @app.command()
    def join(
        url: Annotated[str, typer.Argument(help="The broker: https://host[:port].")],
        token: Annotated[str, typer.Option("--token", help="What the operator's `broker token` printed.")],
        name: Annotated[str | None, typer.Option("--name", help="What to call this device.")] = None,
        price: Price = None,
        capacity: Capacity = None,
        state_dir: StateDir = None,
        no_run: Annotated[bool, typer.Option("--no-run", help="Join only; `run` starts it later.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Join a market with a token, then run in the foreground."""
        settings = load_settings({"state_dir": state_dir, "price_per_unit": price, "capacity": capacity})
        state = StateFolder(settings.state_dir)
        device = name or platform.node() or "device"
        membership = asyncio.run(join_broker(state, broker_url=url, token=token, device=device))
        chosen: dict[str, str | int | None] = {"price_per_unit": price, "capacity": capacity}
        save_settings(
            state.path / FILE_NAME, {key: value for key, value in chosen.items() if value is not None}
        )
        if as_json:
            typer.echo(msgspec.json.encode(membership))
        else:
            typer.echo(
                f"{membership.device} joined {membership.broker_url} for {membership.owner} as worker "
                f"{membership.worker}, with {format_credits(membership.stake_microcredits)} credits at stake."
            )
            typer.echo(_advice(settings))
        if not no_run:
            _run(settings, decorate, as_json=as_json)

    @app.command()
    def run(
        price: Price = None,
        capacity: Capacity = None,
        state_dir: StateDir = None,
        as_json: Annotated[bool, typer.Option("--json", help="Log JSON lines.")] = False,
    ) -> None:
        """Work for the market that this device joined, until Ctrl-C."""
        flags = {"state_dir": state_dir, "price_per_unit": price, "capacity": capacity}
        _run(load_settings(flags), decorate, as_json=as_json)

    @app.command()
    def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
        """Say in one sentence whether this device works, and what it earned."""
        facts = _facts(load_settings({"state_dir": state_dir}))
        typer.echo(json.dumps(facts) if as_json else _sentence(facts))

    @app.command()
    def earnings(state_dir: StateDir = None, as_json: AsJson = False) -> None:
        """What this device earned, by its own record of settled leases."""
        database = StateFolder(load_settings({"state_dir": state_dir}).state_dir).database
        periods = {"last_day": time.time() - _DAY_S, "last_week": time.time() - 7 * _DAY_S, "ever": 0.0}
        sums = {name: read_earnings(database, since=since) for name, since in periods.items()}
        if as_json:
            typer.echo(msgspec.json.encode(sums))
            return
        for name, total in sums.items():
            typer.echo(
                f"{name.replace('_', ' '):<10} {format_credits(total.earned_microcredits):>14} credits"
                f"   {total.paid_leases:,} of {total.leases:,} leases paid"
            )

    @trust.command("add")
    def trust_add(
        name: Annotated[str, typer.Argument(help="What you call the publisher.")],
        public_key_file: Annotated[Path, typer.Argument(help="Their public key (PEM).")],
        state_dir: StateDir = None,
    ) -> None:
        """Let a publisher's pipelines run on this device. A running worker takes notice at once."""
        path = load_settings({"state_dir": state_dir}).trust_path
        key = PublicKey.load(public_key_file)
        add_publisher(path, Publisher(name=name, key=key))
        typer.echo(f"Pipelines of {name} (key {key.id}) may run here. Limits for them: {path}")

    @trust.command("list")
    def trust_list(state_dir: StateDir = None, as_json: AsJson = False) -> None:
        """The publishers whose pipelines may run on this device."""
        path = load_settings({"state_dir": state_dir}).trust_path
        publishers = TrustPolicy.load(path).publishers
        if as_json:
            typer.echo(json.dumps([{"name": item.name, "key_id": item.key.id} for item in publishers]))
            return
        for item in publishers:
            typer.echo(f"{item.key.id}  {item.name}")
        if not publishers:
            typer.echo(
                f"Nobody: no pipeline can run. Add one: tradepost worker trust add NAME KEY.pub ({path})"
            )

    return app


def _run(settings: Settings, decorate: Decorate, *, as_json: bool) -> None:
    set_up_logging(as_json=as_json)
    asyncio.run(_work(settings, decorate))


async def _work(settings: Settings, decorate: Decorate) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with agent_from_settings(settings, decorate=decorate) as agent:
        await agent.run(stop)


def _facts(settings: Settings) -> dict[str, Any]:
    state = StateFolder(settings.state_dir)
    membership = state.membership()
    connection = state.connection()
    total = read_earnings(state.database)
    return {
        "state_dir": str(state.path),
        "broker": membership and membership.broker_url,
        "worker": membership and membership.worker,
        "device": membership and membership.device,
        "running": connection is not None,
        "connected": connection is not None and connection.is_connected,
        "unacknowledged": read_pending(state.database),
        "leases": total.leases,
        "paid_leases": total.paid_leases,
        "earned_credits": format_credits(total.earned_microcredits),
        "publishers_trusted": len(TrustPolicy.load(settings.trust_path).publishers),
    }


def _sentence(facts: dict[str, Any]) -> str:
    if facts["broker"] is None:
        return f"Not joined (state: {facts['state_dir']}): tradepost worker join URL --token TOKEN"
    earned = f"{facts['earned_credits']} credits for {facts['paid_leases']:,} of {facts['leases']:,} leases"
    waiting = f"; {facts['unacknowledged']} results wait for the broker" if facts["unacknowledged"] else ""
    if not facts["running"]:
        doing = "Stopped"
    elif not facts["connected"]:
        doing = f"Trying to reach {facts['broker']}"
    elif not facts["publishers_trusted"]:
        doing = f"Connected to {facts['broker']}, but no publisher is trusted, so nothing can run"
    else:
        doing = f"Working for {facts['broker']}"
    return f"{doing}; earned {earned}{waiting}."


def _advice(settings: Settings) -> str:
    if TrustPolicy.load(settings.trust_path).publishers:
        return "Stop it at any time with Ctrl-C; `tradepost worker status` tells what it does."
    return "Nothing runs until you trust a publisher: tradepost worker trust add NAME KEY.pub"


app = create_app()
