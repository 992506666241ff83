"""`tradepost revocations`: the operator's revocation list."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tradepost.commands.options import Json
from tradepost.commands.output_file import check_writable
from tradepost.commands.terminal import show
from tradepost.errors import InvalidRevocations, RevocationRollback
from tradepost_signing.commands.options import PassphraseFile, load_key
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy.revocation import RevocationDocument, decode_revocations, revocations_from_toml
from tradepost_signing.policy.revocation_store import (
    load_revocations,
    read_revocations,
    sign_revocations,
    write_revocations,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The operator's revocation lists.")

ListFile = Annotated[Path, typer.Argument(help="The signed list (JSON), with its bundle beside it.")]


@app.command()
def sign(
    source: Annotated[Path, typer.Argument(help="Your list (TOML).", metavar="LIST.TOML")],
    key: Annotated[Path, typer.Option(help="The operator's signing key.")],
    out: Annotated[
        Path, typer.Option(help="The file to write the list to, with the bundle beside it.")
    ] = Path("revocations.json"),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign a list. Its version must be higher than the version of an existing list at OUT."""
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRevocations(f"{source}: {error}") from None
    check_writable(out)
    document = revocations_from_toml(text, issued_at=int(time.time()))
    signing_key = load_key(key, passphrase_file)
    if out.exists():
        before = load_revocations(out, signing_key.public_key)
        if document.version <= before.version:
            raise RevocationRollback(f"{out} has version {before.version}, {source} {document.version}")
    write_revocations(out, sign_revocations(document, signing_key))
    facts = {"revocations": str(out), "version": document.version} | signing_key.public_key.facts()
    show(facts, f"{out}: version {document.version}", as_json=as_json)


@app.command("show")
def show_list(path: ListFile, as_json: Json = False) -> None:
    """Show what a list revokes, without verifying it."""
    document = decode_revocations(read_revocations(path).document).document
    show(document, _words(document), as_json=as_json)


@app.command()
def verify(
    path: ListFile,
    key: Annotated[Path, typer.Option(help="The operator's public key.")],
    as_json: Json = False,
) -> None:
    """Verify that the operator signed a list, and show it."""
    document = load_revocations(path, PublicKey.load(key)).document
    facts = {"verdict": "ok", "revocations": document}
    show(facts, f"ok: signed by the operator\n{_words(document)}", as_json=as_json)


def _words(document: RevocationDocument) -> str:
    issued = datetime.fromtimestamp(document.issued_at, UTC).isoformat()
    lines = [f"version {document.version}, issued {issued}"]
    lines += [f"publisher {key_id}: {reason}" for key_id, reason in document.publishers.items()]
    lines += [
        f"publisher {entry.subject} (issuer {entry.issuer}): {entry.reason}" for entry in document.identities
    ]
    lines += [f"artifact {cid}: {reason}" for cid, reason in document.cids.items()]
    lines += [f"{name} older than {floor}" for name, floor in document.engines.items()]
    return "\n".join([*lines, *(["nothing is revoked"] if len(lines) == 1 else [])])
