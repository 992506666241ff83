"""`tradepost broker`: run a market, and operate it.

The database and the web server load only in the commands that need them: most commands just ask the running
broker, and should answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from tradepost.atomic_files import replace_file
from tradepost.bounded import AccountName
from tradepost.commands.number_options import integer_option, number_option
from tradepost.commands.options import Json, LogJson
from tradepost.commands.terminal import show, show_json
from tradepost.errors import InvalidCall, InvalidCommandLine
from tradepost.file_writing import writing
from tradepost.logs import set_up_logging
from tradepost.money import counted_credits, format_credits, to_microcredits
from tradepost.protocol import AccountView
from tradepost.protocol.job_bounds import JOBS_SHOWN_MAX
from tradepost.schema_errors import describe_mismatch
from tradepost_broker.commands.database import collusion, verify, verify_audit_log
from tradepost_broker.commands.options import Config, DataDir, load_settings
from tradepost_broker.commands.tables import local_time, show_table
from tradepost_broker.operator.client import OperatorClient
from tradepost_broker.operator.device_table import device_table
from tradepost_broker.operator.messages import (
    TTL_S_MAX,
    DeviceView,
    EnforcedRevocations,
    Funding,
    IssuedToken,
    JobSummary,
    NewAccount,
    NewApiKey,
    NewRevocations,
    NewToken,
    Readmission,
    SetAsideView,
    StallView,
)
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.settings import MARKET, Settings
from tradepost_reputation.dashboard import EvidenceView, WorkerView

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run and operate a market.")
account = typer.Typer(no_args_is_help=True, add_completion=False, help="Submitters' accounts.")
app.add_typer(account, name="account")
audit_log = typer.Typer(no_args_is_help=True, add_completion=False, help="The log of all records.")
app.add_typer(audit_log, name="audit-log")

_ID_CHARS: Final = 12


@app.command()
def run(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; TLS is required except on loopback.")
    ] = None,
    port: Annotated[
        int | None, integer_option(high=65_535, about="Port to listen on, 0 for any free port.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="The URL under which others reach this broker.")
    ] = None,
    hold_s: Annotated[
        float | None, number_option(about="Seconds for which a payment is held before it matures.")
    ] = None,
    audit_rate: Annotated[
        float | None, number_option(high=1, about="Share of results checked by an auditor.")
    ] = None,
    fault_fraction: Annotated[
        float | None, number_option(high=1, about="Share of workers believed faulty.")
    ] = None,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port to this file when the broker is ready.")
    ] = None,
    as_json: LogJson = False,
) -> None:
    """Run the broker until Ctrl-C or SIGTERM."""
    policy = {"hold_s": hold_s, "audit_rate": audit_rate, "fault_fraction": fault_fraction}
    options = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "public_url": public_url,
        MARKET: policy,
    }
    settings = Settings.load(config=config, options=options)
    set_up_logging(as_json=as_json, level=settings.log_level, date_format=None)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    asyncio.run(_run(settings, port_file))


async def _run(settings: Settings, port_file: Path | None) -> None:
    from tradepost_broker.app import running_broker

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with running_broker(settings) as broker:
        if port_file is not None:
            with writing(port_file):
                replace_file(port_file, str(broker.port).encode(), durable=False)
        typer.echo(
            f"The market is open at {broker.url}/ (data in {settings.data_dir}). Press Ctrl-C to stop it."
        )
        # Modules and what else stays for good: a collection of garbage, which stops everything, need not look
        # through them each time.
        gc.collect()
        gc.freeze()
        stop = asyncio.create_task(stopping.wait())
        failure = asyncio.create_task(broker.failed())
        await asyncio.wait((stop, failure), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not failure.done():
            failure.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await failure


@app.command()
def migrate(data_dir: DataDir = None, config: Config = None) -> None:
    """Create the database, or upgrade its schema. `run` does this automatically."""
    from tradepost_broker.storage import database
    from tradepost_broker.storage.data_folder import IDENTITY_FILE, make_data_folder

    settings = load_settings(data_dir, config)
    make_data_folder(settings.data_dir)
    database.require_own_market(settings.database_path, settings.data_dir / IDENTITY_FILE)
    database.migrate(settings.database_path)
    typer.echo(f"{settings.database_path} has this version's schema.")


@account.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="The account's name; if it exists, it gets another key.")],
    credits_: Annotated[str, typer.Option("--credits", help="Initial credits.")] = "0",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Create an account and print its API key. The key is never shown again."""
    _check_name(name, "the account's name")
    body = NewAccount(name=name, funds_microcredits=_microcredits(credits_))
    made = _client(data_dir, config).post("v1/admin/accounts", body, NewApiKey)
    people = (
        f"Account {made.account} has {counted_credits(made.available_microcredits)}.\n"
        f"Its API key, which is never shown again: {made.api_key}"
    )
    show(made, people, as_json=as_json)


@app.command()
def fund(
    name: Annotated[str, typer.Argument(help="The account.")],
    amount: Annotated[str, typer.Argument(help="Credits to add.")],
    transfer: Annotated[str, typer.Option(help="An id; the same id funds an account only once.")] = "",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give an account credits from the treasury."""
    _check_name(name, "the account's name")
    amount_microcredits = _microcredits(amount)
    if not amount_microcredits:
        raise InvalidCommandLine(f"{amount} credits: give more than 0")
    body = Funding(account=name, amount_microcredits=amount_microcredits, transfer=transfer)
    view = _client(data_dir, config).post("v1/admin/fund", body, AccountView)
    show(view, f"{name} has {counted_credits(view.available_microcredits)}.", as_json=as_json)


@app.command()
def token(
    owner: Annotated[
        str, typer.Option(help="The device's owner; the market distinguishes owners by this name.")
    ] = "owner",
    stake: Annotated[str, typer.Option(help="The worker's stake in credits.")] = "10",
    auditor: Annotated[bool, typer.Option("--auditor", help="Trust the worker with reference runs.")] = False,
    ttl: Annotated[float, number_option(about="Seconds until the token expires.")] = 3600.0,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Create and print a single-use token for one device to join. It is never shown again."""
    _check_name(owner, "the owner's name")
    if not 0 < ttl <= TTL_S_MAX:  # NaN is not
        raise InvalidCommandLine(f"--ttl is {ttl:g} seconds; give more than 0 and at most {TTL_S_MAX:,}")
    body = NewToken(owner=owner, stake_microcredits=_microcredits(stake), auditor=auditor, ttl_s=ttl)
    issued = _client(data_dir, config).post("v1/admin/tokens", body, IssuedToken)
    show(issued, issued.token, as_json=as_json)


@app.command()
def revoke(
    path: Annotated[
        Path, typer.Argument(help="A list from `tradepost revocations sign`, with its bundle beside it.")
    ],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Enforce a signed revocation list on this broker and on every worker."""
    from tradepost_signing.policy.revocation_store import read_revocations

    signed = read_revocations(path)
    body = NewRevocations(document=signed.document, bundle=signed.bundle)
    done = _client(data_dir, config).post("v1/admin/revocations", body, EnforcedRevocations)
    people = f"Enforcing version {done.version}; sent it to {done.workers} connected workers."
    show(done, people, as_json=as_json)


@app.command()
def workers(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """List the workers: standing, score, credits."""
    views = _client(data_dir, config).get("v1/workers", list[WorkerView])
    if as_json:
        show_json(views)
        return
    table = Table("worker", "owner", "device", "standing", "score", "earned", "held", "stake")
    for one in views:
        money = (one.earned_microcredits, one.held_microcredits, one.stake_microcredits)
        standing = one.standing if one.connected else f"{one.standing}, away"
        table.add_row(
            one.worker[:_ID_CHARS],
            one.owner,
            one.device,
            standing,
            f"{one.score:.2f}",
            *map(format_credits, money),
        )
    show_table(table)


@app.command()
def devices(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Show the newest reading of each worker's device. It has no effect on reputation or payments."""
    views = _client(data_dir, config).get("v1/admin/devices", list[DeviceView])
    if as_json:
        show_json(views)
        return
    show_table(device_table(views, now=time.time()))


@app.command()
def jobs(
    limit: Annotated[
        int, integer_option(low=1, high=JOBS_SHOWN_MAX, about="Number of jobs, newest first.")
    ] = 20,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs of all accounts."""
    summaries = _client(data_dir, config).get("v1/admin/jobs", list[JobSummary], limit=limit)
    if as_json:
        show_json(summaries)
        return
    table = Table("job", "account", "status", "paid", "pipeline")
    for one in summaries:
        table.add_row(
            one.job, one.account, one.status, format_credits(one.paid_microcredits), one.pipeline[-_ID_CHARS:]
        )
    show_table(table)


@app.command()
def explain(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show why each lease of a job went to its worker, and the evidence found."""
    view = _client(data_dir, config).get("v1/admin/jobs/{}/explanation", Explanation, job)
    show(view, "\n".join(_explained(view)), as_json=as_json)


@app.command("set-aside")
def set_aside(
    readmit: Annotated[
        str, typer.Option(help="Let this be tried again: a request when it is sent again, a job at a start.")
    ] = "",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what a defect or a damaged record kept the broker from processing."""
    client = _client(data_dir, config)
    if readmit:
        view = client.post("v1/admin/set-aside", Readmission(id=readmit), SetAsideView)
        show(view, f"{view.id} is no longer set aside.", as_json=as_json)
        return
    views = client.get("v1/admin/set-aside", list[SetAsideView])
    if as_json:
        show_json(views)
        return
    table = Table("what", "kind", "when", "reason")
    for one in views:
        table.add_row(one.id, one.kind, local_time(one.at), one.reason)
    show_table(table)


@app.command()
def stalls(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Show where the broker stood still, and answered nobody, for longer than 50 ms."""
    views = _client(data_dir, config).get("v1/admin/stalls", list[StallView])
    if as_json:
        show_json(views)
        return
    table = Table("longest", "busy", "times", "total", "newest", "place")
    for one in views:
        longest, total = f"{one.longest_s * 1000:.0f} ms", f"{one.total_s:.1f} s"
        busy = f"{one.busiest_s * 1000:.0f} ms"
        table.add_row(longest, busy, str(one.count), total, local_time(one.newest_at), one.place)
    show_table(table)


app.command()(collusion)
app.command("verify-books")(verify)
audit_log.command("verify")(verify_audit_log)


def _check_name(name: str, what: str) -> None:
    try:
        msgspec.convert(name, AccountName)
    except msgspec.ValidationError as error:
        raise InvalidCommandLine(f"{name!r}: {describe_mismatch(error, whole=what)}") from None


def _microcredits(amount: str) -> int:
    try:
        return to_microcredits(amount)
    except InvalidCall as error:
        raise InvalidCommandLine(error.detail) from None


def _explained(view: Explanation) -> list[str]:
    lines = [f"Job {view.job} is {view.status}. {view.problem}".rstrip()]
    for lease in view.leases:
        lines.append(
            f"{lease.purpose} to {lease.worker[:_ID_CHARS]} for {format_credits(lease.price_microcredits)}: "
            f"{lease.state}, paid {format_credits(lease.paid_microcredits)}"
        )
        lines += [
            f"  {one.worker[:_ID_CHARS]} bid {format_credits(one.bid_microcredits)}, score "
            f"{format_credits(one.score_microcredits)}: {one.lost_because or 'won'}"
            for one in lease.candidates
        ]
        if lease.sole_bidder:
            lines.append("  the sole bidder: no other offer competed, so only the cap bounded the price")
        lines += [f"  not eligible: {count} {reason}" for reason, count in lease.left_out.items()]
    workers = {lease.lease: lease.worker for lease in view.leases}
    lines += [_found(one, workers.get(one.lease, "")) for one in view.evidence]
    return lines


def _found(one: EvidenceView, worker: str) -> str:
    """`found: agreed, worker abcdef123456`, with the stage and the detail if the finding has them."""
    where = f" at stage {one.stage}" if one.stage else ""
    of = f", worker {worker[:_ID_CHARS]}" if worker else f", lease {one.lease}"
    return f"found: {one.kind}{where}{of}" + (f": {one.detail}" if one.detail else "")


def _client(data_dir: Path | None, config: Path | None) -> OperatorClient:
    return OperatorClient(load_settings(data_dir, config))
