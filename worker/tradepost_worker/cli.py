"""`tradepost worker`: lend a device, and show its work and earnings."""

from __future__ import annotations

import asyncio
import platform
import signal
from pathlib import Path
from typing import Annotated

import typer

from tradepost.commands.number_options import integer_option
from tradepost.commands.options import Json, LogJson
from tradepost.commands.terminal import show, show_json
from tradepost.logs import set_up_logging
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.assembly import Decorate, run_worker, worker_from_settings
from tradepost_worker.commands.device import add_device_commands
from tradepost_worker.commands.join_report import gather_facts
from tradepost_worker.commands.owner import StateDir, add_owner_commands
from tradepost_worker.commands.report import add_report_commands
from tradepost_worker.link.joining import join as join_broker
from tradepost_worker.settings import FILE_NAME, Settings, load_settings, save_settings
from tradepost_worker.state import StateFolder

Price = Annotated[
    str | None, typer.Option("--price", help="Price that this device asks, in credits per work unit.")
]
Capacity = Annotated[
    int | None, integer_option("--capacity", low=1, about="Maximum of leases at the same time.")
]


def create_app(*, decorate: Decorate = lambda runners: runners) -> typer.Typer:
    """The command; `decorate` is put between the agent and its runners."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        help="Lend this device to a market. Show its work and earnings; stop it at any time.",
    )
    trust = typer.Typer(no_args_is_help=True, help="Publishers whose pipelines may run on this device.")
    app.add_typer(trust, name="trust")

    @app.command()
    def join(
        url: Annotated[str, typer.Argument(help="The broker's URL: https://host[:port].")],
        token: Annotated[
            str, typer.Option("--token", help="The join token that the operator's `broker token` printed.")
        ],
        name: Annotated[str | None, typer.Option("--name", help="A name for this device.")] = None,
        price: Price = None,
        capacity: Capacity = None,
        state_dir: StateDir = None,
        no_run: Annotated[
            bool, typer.Option("--no-run", help="Only join; start the worker later with `run`.")
        ] = False,
        measure: Annotated[
            bool, typer.Option("--measure/--no-measure", help="Measure the device's speed.")
        ] = True,
        as_json: Json = False,
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
        facts = gather_facts(membership, load_settings({"state_dir": state_dir}), measure=measure)
        show(facts.to_json(), "\n".join(facts.lines()), as_json=as_json)
        if not no_run:
            _run(settings, decorate, as_json=as_json)

    @app.command()
    def run(
        price: Price = None,
        capacity: Capacity = None,
        state_dir: StateDir = None,
        as_json: LogJson = False,
    ) -> None:
        """Work for the market that this device joined, until Ctrl-C."""
        flags = {"state_dir": state_dir, "price_per_unit": price, "capacity": capacity}
        _run(load_settings(flags), decorate, as_json=as_json)

    add_owner_commands(app)
    add_report_commands(app)
    add_device_commands(app)

    @trust.command("add")
    def trust_add(
        name: Annotated[str, typer.Argument(help="Your name for the publisher.")],
        public_key_file: Annotated[
            Path | None, typer.Argument(help="The publisher's public key (PEM file).")
        ] = None,
        identity: Annotated[
            str | None, typer.Option(help="The identity of a keyless publisher: an e-mail address or URL.")
        ] = None,
        issuer: Annotated[
            str | None, typer.Option(help="The URL of the provider that confirmed --identity.")
        ] = None,
        state_dir: StateDir = None,
        as_json: Json = False,
    ) -> None:
        """Allow a publisher's pipelines on this device. A running worker applies it at once."""
        key = _key(public_key_file, identity, issuer)
        settings = load_settings({"state_dir": state_dir})
        path = settings.trust_path
        # Trusting may come before joining, and the folder is private.
        if path.parent == settings.state_dir and StateFolder(settings.state_dir).make():
            typer.echo(f"Created the state folder {settings.state_dir}.", err=True)
        add_publisher(path, Publisher(name=name, key=key))
        facts = {"name": name, "policy": str(path)} | key.facts()
        text = f"Pipelines of {name} ({key}) may now run on this device. Set limits for them in {path}"
        show(facts, text, as_json=as_json)

    @trust.command("list")
    def trust_list(state_dir: StateDir = None, as_json: Json = False) -> None:
        """List the publishers whose pipelines may run on this device."""
        path = load_settings({"state_dir": state_dir}).trust_path
        publishers = TrustPolicy.load(path).publishers
        if as_json:
            show_json([{"name": item.name} | item.key.facts() for item in publishers])
            return
        for item in publishers:
            typer.echo(f"{item.name}, {item.key}")
        if not publishers:
            typer.echo(
                f"No publisher is trusted in {path}, so nothing can run. "
                "Add one: tradepost worker trust add NAME KEY.pub"
            )

    return app


def _key(file: Path | None, identity: str | None, issuer: str | None) -> PublicKey | SigstoreIdentity:
    """What a publisher signs with, of what the command was given."""
    if (identity is None) != (issuer is None):
        raise typer.BadParameter("give --identity and --issuer together")
    if file is not None and identity is None:
        return PublicKey.load(file)
    if file is None and identity is not None and issuer is not None:
        return SigstoreIdentity(issuer=issuer, subject=identity)
    raise typer.BadParameter("give either a public key file or --identity, not both")


def _run(settings: Settings, decorate: Decorate, *, as_json: bool) -> None:
    set_up_logging(as_json=as_json)
    asyncio.run(_work(settings, decorate))


async def _work(settings: Settings, decorate: Decorate) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await run_worker(worker_from_settings(settings, decorate=decorate), stop)


app = create_app()
