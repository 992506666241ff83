"""`tradepost keygen` and `sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import show
from tradepost_signing.bundles.bundle import sign_file
from tradepost_signing.checks.signature_directory import sign_directory
from tradepost_signing.checks.signature_files import (
    bundle_bytes_max,
    first_path,
    further_path,
    signature_paths,
    write_signature,
)
from tradepost_signing.commands.options import (
    PassphraseFile,
    TokenFile,
    keyless_signer,
    load_key,
    reading,
    signer_of,
)
from tradepost_signing.commands.passphrase import new_passphrase
from tradepost_signing.keys import SigningKey, public_path


def keygen(
    out: Annotated[
        Path,
        typer.Option(help="The file for the private key; the public key is written beside it, as OUT.pub."),
    ] = Path("publisher.key"),
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool,
        typer.Option("--no-passphrase", help="Do not encrypt the key: only file permissions protect it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Create a P-256 signing key. The passphrase is read from a prompt, the environment or a file."""
    made = SigningKey.generate()
    made.save(out, passphrase=None if no_passphrase else new_passphrase(passphrase_file))
    facts = {"key": str(out), "public_key": str(public_path(out)), "key_id": made.public_key.id}
    show(facts, f"{out} (private)\n{public_path(out)} (public)\nkey id {made.public_key.id}", as_json=as_json)


def sign(
    path: Annotated[Path, typer.Argument(help="The file or directory to sign.")],
    key: Annotated[Path | None, typer.Option(help="The signing key.")] = None,
    keyless: Annotated[
        bool,
        typer.Option("--keyless", help="Sign with your identity through Sigstore. Requires the network."),
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Keep existing signatures, and add one beside them.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write the signature to (default: PATH.sigstore.json, or DIRECTORY/model.sig)."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    identity_token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Sign a file (as cosign does) or a directory (as OpenSSF Model Signing does)."""
    if append and out is not None:
        raise typer.BadParameter("--append chooses the file name itself; remove --out")
    if (key is None) != keyless:
        raise typer.BadParameter("give either --key or --keyless")
    signer = keyless_signer(identity_token_file) if key is None else load_key(key, passphrase_file)
    with reading():
        first = out or first_path(path)
        bundle = sign_directory(path, signer, signature=first) if path.is_dir() else sign_file(path, signer)
        who = signer_of(bundle, signer, bytes_max=bundle_bytes_max(path))
        target = further_path(path, who.id) if append and signature_paths(path) else first
        write_signature(target, bundle)
    show({"signature": str(target)} | who.facts(), str(target), as_json=as_json)
