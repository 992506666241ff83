"""The common part of this package's commands: options, and the signer that they name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tradepost.errors import IdentityRefused, InvalidArtifact
from tradepost.file_status import READABLE_BY_OTHERS
from tradepost_signing.bundles.bundle import Signer, read_bundle
from tradepost_signing.checks.signature_check import claimed_signer
from tradepost_signing.commands.passphrase import existing_passphrase
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keyless.signing import TOKEN_VARIABLE, KeylessSigner
from tradepost_signing.keys import PublicKey, SigningKey

PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file with the key's passphrase. Default: TRADEPOST_KEY_PASSPHRASE.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"With --keyless: a file with an identity token. Default: {TOKEN_VARIABLE}, or log in."
    ),
]


def load_key(key: Path, passphrase_file: Path | None) -> SigningKey:
    """The signing key in a file. Warns where others may read it or its passphrase. Raises `InvalidKey`."""
    loaded = SigningKey.load(key, passphrase=lambda: existing_passphrase(key, passphrase_file))
    for secret in (key, passphrase_file):
        if secret is not None and secret.exists() and secret.stat().st_mode & READABLE_BY_OTHERS:
            typer.echo(f"Other users may read {secret}. To fix it: chmod 600 {secret}", err=True)
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
        if not token:
            raise IdentityRefused(f"identity token file {token_file} is empty")
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
