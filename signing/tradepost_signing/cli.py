"""`tradepost keygen` and `sign`, and what the commands of this package share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tradepost.commands.terminal import show
from tradepost.errors import IdentityRefused, InvalidArtifact
from tradepost_signing.bundle import Signer, read_bundle, sign_file
from tradepost_signing.directory import sign_directory
from tradepost_signing.keyless_signing import TOKEN_VARIABLE, KeylessSigner
from tradepost_signing.keys import PublicKey, SigningKey, public_path
from tradepost_signing.passphrase import existing_passphrase, new_passphrase
from tradepost_signing.signature_check import claimed_signer
from tradepost_signing.signature_files import (
    bundle_bytes_max,
    first_path,
    further_path,
    signature_paths,
    write_signature,
)
from tradepost_signing.sigstore_identity import SigstoreIdentity

PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file with the key's passphrase; else TRADEPOST_KEY_PASSPHRASE.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help=f"With --keyless: a file with an identity token; else {TOKEN_VARIABLE}, or sign in."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def keygen(
    out: Annotated[
        Path, typer.Option(help="Where to write the private key; the public key goes beside it, as OUT.pub.")
    ] = Path("publisher.key"),
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool,
        typer.Option("--no-passphrase", help="Leave the key unencrypted: file permissions alone protect it."),
    ] = False,
    json: Json = False,
) -> None:
    """Make a P-256 signing key. Its passphrase comes from a prompt, the environment or a file."""
    made = SigningKey.generate()
    made.save(out, passphrase=None if no_passphrase else new_passphrase(passphrase_file))
    facts = {"key": str(out), "public_key": str(public_path(out)), "key_id": made.public_key.id}
    show(facts, f"{out} (private)\n{public_path(out)} (public)\nkey id {made.public_key.id}", as_json=json)


def sign(
    path: Annotated[Path, typer.Argument(help="The file or directory to sign.")],
    key: Annotated[Path | None, typer.Option(help="The signing key.")] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign as whom you sign in, through Sigstore. Needs the network.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Keep the signatures that there are, and add one beside them.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the signature (default: PATH.sigstore.json, or DIRECTORY/model.sig)."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    identity_token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Sign a file (as cosign does) or a directory (as OpenSSF Model Signing does)."""
    if append and out is not None:
        raise typer.BadParameter("--append names the file itself; leave out --out")
    if (key is None) != keyless:
        raise typer.BadParameter("give either --key or --keyless")
    signer = keyless_signer(identity_token_file) if key is None else load_key(key, passphrase_file)
    with reading():
        first = out or first_path(path)
        bundle = sign_directory(path, signer, signature=first) if path.is_dir() else sign_file(path, signer)
        who = signer_of(bundle, signer, bytes_max=bundle_bytes_max(path))
        target = further_path(path, who.id) if append and signature_paths(path) else first
        write_signature(target, bundle)
    show({"signature": str(target)} | who.facts(), str(target), as_json=json)


def load_key(key: Path, passphrase_file: Path | None) -> SigningKey:
    """The signing key in a file. Warns where others may read it or its passphrase. Raises `InvalidKey`."""
    loaded = SigningKey.load(key, passphrase=lambda: existing_passphrase(key, passphrase_file))
    for secret in (key, passphrase_file):
        if secret is not None and secret.exists() and secret.stat().st_mode & 0o044:
            typer.echo(f"Others may read {secret}: chmod 600 {secret}", err=True)
    return loaded


def keyless_signer(token_file: Path | None) -> KeylessSigner:
    """Who signs in: by a token from the file, the environment or the CI system, or with a browser.

    Raises `SigstoreUnavailable` or `IdentityRefused`.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise IdentityRefused(f"identity token file {token_file}: {error}") from None
    return KeylessSigner.connect(token=token or None, interactive=sys.stdin.isatty())


def signer_of(bundle: str, signer: Signer, *, bytes_max: int) -> PublicKey | SigstoreIdentity:
    """Whose signature a bundle that `signer` has made is: for a certificate, whom it names."""
    if isinstance(signer, SigningKey):
        return signer.public_key
    named = claimed_signer(read_bundle(bundle, bytes_max=bytes_max))
    assert isinstance(named, SigstoreIdentity)
    return named


@contextmanager
def reading() -> Iterator[None]:
    """Turns the system's errors about files into `InvalidArtifact`."""
    try:
        yield
    except OSError as error:
        raise InvalidArtifact(f"{error.filename}: {error.strerror}") from None
