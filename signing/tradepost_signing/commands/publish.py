"""`tradepost publish`: publishes a `pipeline.toml` as a pipeline with a CID that jobs can use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from yarl import URL

from tradepost.broker_url import parse_api_key, parse_broker_url
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.output_file import check_writable, write_output
from tradepost.commands.progress import progress_bar
from tradepost.commands.terminal import show
from tradepost.content import Cid
from tradepost.content.transfer.kubo import Kubo
from tradepost.errors import Unauthorized
from tradepost_signing.bundles.bundle import Signer, bundle_path
from tradepost_signing.checks.signature_files import write_signature
from tradepost_signing.checks.verify import claimed_publishers
from tradepost_signing.commands.options import PassphraseFile, TokenFile, keyless_signer, load_key
from tradepost_signing.publishing.compile_cost import CompileCost, compile_warnings, measure_kernels
from tradepost_signing.publishing.kubo_publish import publish_to_kubo
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.publish import SignedPipeline, Uploaded, sign_pipeline
from tradepost_signing.publishing.publish import publish as publish_signed
from tradepost_signing.publishing.repeatability import check_repeatability
from tradepost_signing.publishing.validation import validate_pipeline


def publish(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline.toml.", metavar="PIPELINE.TOML")],
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="The signing key (create one with `tradepost keygen`); repeatable for several signatures."
        ),
    ] = None,
    keyless: Annotated[
        bool,
        typer.Option("--keyless", help="Sign with your identity through Sigstore. Requires the network."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Also write the manifest to this file, with the signatures beside it.")
    ] = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    kubo: Annotated[
        list[str] | None,
        typer.Option(
            help="Pin it in the Kubo node with this RPC API, such as /ip4/127.0.0.1/tcp/5001; repeatable."
        ),
    ] = None,
    no_broker: Annotated[
        bool, typer.Option("--no-broker", help="Do not publish to a broker, even if TRADEPOST_URL is set.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    identity_token_file: TokenFile = None,
    dry_run: Annotated[bool, typer.Option(help="Validate, hash and sign, but send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Validate and sign a pipeline, upload it to a broker, to Kubo nodes or both, and print its CID."""
    if not key and not keyless:
        raise typer.BadParameter("give --key, --keyless, or both")
    check_writable(save)
    url = parse_broker_url(broker) if broker and not no_broker else None
    nodes = [Kubo(address) for address in kubo or ()]
    loaded = load_pipeline(pipeline)
    validate_pipeline(loaded)
    untried = check_repeatability(loaded)
    costs = measure_kernels(loaded)
    for warning in (*untried, *compile_warnings(costs, wall_s=loaded.manifest.limits.wall_ms / 1000)):
        typer.echo(f"Warning: {warning}", err=True)
    signers: list[Signer] = [load_key(one, passphrase_file) for one in key or []]
    if keyless:
        signers.append(keyless_signer(identity_token_file))
    signed = sign_pipeline(loaded, *signers)
    if save is not None:
        write_output(save, signed.manifest_block)
        write_signature(bundle_path(save), signed.bundle)
    if dry_run or not (url or nodes):
        reason = "a dry run" if dry_run else "neither --broker nor --kubo was given"
        typer.echo(f"Nothing was sent: {reason}.", err=True)
        url, nodes = None, []
    # The broker comes last: what it lists can be fetched from everywhere by then.
    api_key = _require_key(api_key) if url else ""
    pinned = [{"kubo": node.address, "bundle": _send_to_kubo(signed, node)} for node in nodes]
    uploaded = _send_to_broker(signed, url, api_key) if url else None
    show(_report(signed, uploaded, pinned, costs), signed.cid, as_json=as_json)


def _require_key(api_key: str | None) -> str:
    if not api_key:
        raise Unauthorized("no API key was given", hint="Pass --api-key or set TRADEPOST_API_KEY.")
    return parse_api_key(api_key)


def _send_to_broker(signed: SignedPipeline, url: URL, api_key: str) -> Uploaded:
    with progress_bar("Publishing", signed.total_bytes) as progress:
        return asyncio.run(publish_signed(signed, broker=url, api_key=api_key, progress=progress))


def _send_to_kubo(signed: SignedPipeline, node: Kubo) -> Cid:
    with progress_bar(f"To {node.name}", signed.total_bytes) as progress:
        return publish_to_kubo(signed, node, progress=progress)


def _report(
    signed: SignedPipeline,
    uploaded: Uploaded | None,
    pinned: list[dict[str, str]],
    costs: list[CompileCost],
) -> dict[str, object]:
    return {
        "pipeline": signed.cid,
        "publishers": claimed_publishers(signed.manifest_block, signed.bundle),
        "artifacts": {artifact.source: cid for cid, artifact in signed.artifacts.items()},
        "published": uploaded is not None,
        "sent_blocks": uploaded.sent_blocks if uploaded else 0,
        "sent_bytes": uploaded.sent_bytes if uploaded else 0,
        "present_blocks": uploaded.present_blocks if uploaded else 0,
        "pinned": pinned,
        "compile_costs": msgspec.to_builtins(costs),
    }
