"""`tradepost publish`: from a `pipeline.toml` to a pipeline that jobs can name by its CID."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from yarl import URL

from tradepost.broker_url import parse_broker_url
from tradepost.errors import Unauthorized
from tradepost_signing.keys import SigningKey
from tradepost_signing.passphrase import existing_passphrase
from tradepost_signing.pipeline_toml import load_pipeline
from tradepost_signing.publish import SignedPipeline, Uploaded, sign_pipeline
from tradepost_signing.publish import publish as publish_signed
from tradepost_signing.validation import validate_pipeline


def publish(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline.toml.", metavar="PIPELINE.TOML")],
    key: Annotated[Path, typer.Option(help="The publisher's signing key; `tradepost keygen` makes one.")],
    broker: Annotated[
        str | None, typer.Option(help="The broker's URL.", envvar="TRADEPOST_URL", show_default=False)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="The account's API key.", envvar="TRADEPOST_API_KEY", show_default=False),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="A file with the key's passphrase; else TRADEPOST_KEY_PASSPHRASE.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Validate, address and sign, but send nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Validate a pipeline, sign it, bring it to a broker, and print its CID."""
    loaded = load_pipeline(pipeline)
    validate_pipeline(loaded)
    signing_key = SigningKey.load(key, passphrase=lambda: existing_passphrase(key, passphrase_file))
    signed = sign_pipeline(loaded, signing_key)
    uploaded = None
    if broker is None or dry_run:
        reason = "a dry run" if dry_run else "no --broker was given"
        typer.echo(f"Nothing was sent: {reason}.", err=True)
    else:
        uploaded = _send(signed, parse_broker_url(broker), api_key, quiet=json)
    if json:
        typer.echo(msgspec.json.encode(_report(signed, signing_key, uploaded)).decode())
    else:
        typer.echo(signed.cid)


def _send(signed: SignedPipeline, broker: URL, api_key: str | None, *, quiet: bool) -> Uploaded:
    if not api_key:
        raise Unauthorized("no API key was given", hint="Pass --api-key or set TRADEPOST_API_KEY.")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("Publishing", total=signed.total_bytes)
        return asyncio.run(
            publish_signed(
                signed, broker=broker, api_key=api_key, progress=lambda size: bar.advance(task, size)
            )
        )


def _report(signed: SignedPipeline, key: SigningKey, uploaded: Uploaded | None) -> dict[str, object]:
    return {
        "pipeline": signed.cid,
        "key_id": key.public_key.id,
        "artifacts": {artifact.source: cid for cid, artifact in signed.artifacts.items()},
        "published": uploaded is not None,
        "sent_blocks": uploaded.sent_blocks if uploaded else 0,
        "sent_bytes": uploaded.sent_bytes if uploaded else 0,
        "present_blocks": uploaded.present_blocks if uploaded else 0,
    }
