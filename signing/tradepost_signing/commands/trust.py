"""`tradepost trust`: what a trust policy allows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tradepost.client.sync_client import Client
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.terminal import show
from tradepost.content import cid_of_block, verify_block
from tradepost.content.ipld.cids import parse_cid_argument
from tradepost.errors import InvalidTrustPolicy
from tradepost.pipeline.manifest import MANIFEST_BYTES_MAX, decode_manifest
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.signature_files import read_signatures, signature_paths
from tradepost_signing.commands.options import reading
from tradepost_signing.policy.explanation import explain
from tradepost_signing.policy.policy_file import PublisherLimits, policy_schema
from tradepost_signing.policy.trust import TrustPolicy

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The trust policy: which publishers' pipelines may run on a device, and their limits.",
)


@app.command()
def check(
    policy: Annotated[Path, typer.Argument(help="The trust policy (TOML).")],
    pipeline: Annotated[
        str | None,
        typer.Option(help="Check this pipeline: a manifest's file with its signature beside it, or a CID."),
    ] = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Check a trust policy, and print what it allows. A CID is fetched from the broker."""
    if not policy.exists():
        raise InvalidTrustPolicy(f"{policy} does not exist")
    trust = TrustPolicy.load(policy)
    facts: dict[str, Any] = {
        "publishers": [_facts(publisher) for publisher in trust.publishers],
        "deny": sorted(trust.deny),
    }
    sentences = explain(trust)
    if pipeline is not None:
        block, bundles = _read(pipeline, broker, api_key)
        manifest = decode_manifest(block)
        publisher = trust.check_pipeline(manifest, block, bundles)
        cid = cid_of_block(block, "dag-cbor")
        facts["pipeline"] = {"cid": cid, "allowed": True, "publisher": publisher.name}
        sentences.append(f"{manifest.name} {manifest.version} ({cid}) may run: {publisher.name} signed it.")
    show(facts, "\n".join(sentences), as_json=as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a trust policy, for editors that check TOML with it."""
    typer.echo(policy_schema().decode(), nl=False)


def _read(pipeline: str, broker: str | None, api_key: str | None) -> tuple[bytes, str]:
    """The manifest's block and the bundles over it."""
    path = Path(pipeline)
    if path.exists():
        with reading(), path.open("rb") as file:
            block = file.read(MANIFEST_BYTES_MAX + 1)
            return block, read_signatures(signature_paths(path), bytes_max=BUNDLE_BYTES_MAX)
    cid = parse_cid_argument(pipeline)
    with Client(broker, api_key=api_key) as client:
        view = client.pipeline(cid)
    verify_block(cid, view.manifest, source="the broker")
    return view.manifest, view.bundle


def _facts(publisher: Publisher) -> dict[str, Any]:
    limits = {name: getattr(publisher, name) for name in PublisherLimits.__struct_fields__}
    given = {name: value for name, value in limits.items() if value is not None}
    return given | publisher.key.facts()
