"""`tradepost keygen`, `sign` and `verify`.

`verify` has exit codes of its own, so that a script can tell bytes that were changed from a signer that is
merely unknown. They are stable; `docs/signing.md` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from tradepost.cli import report
from tradepost.errors import (
    InvalidArtifact,
    InvalidBundle,
    InvalidSignature,
    TradepostError,
    UnsignedArtifact,
    UntrustedSigner,
)
from tradepost_signing.bundle import BUNDLE_BYTES_MAX, bundle_path, sign_file
from tradepost_signing.directory import (
    DIRECTORY_BUNDLE_BYTES_MAX,
    SIGNATURE_NAME,
    sign_directory,
    verify_directory,
)
from tradepost_signing.keys import PublicKey, SigningKey, public_path
from tradepost_signing.passphrase import existing_passphrase, new_passphrase
from tradepost_signing.publisher import Publisher
from tradepost_signing.trust import TrustPolicy
from tradepost_signing.verify import Trust, verify_file


class Verdict(IntEnum):
    """What `verify` found, and the code that it exits with. 23 (revoked) and 24 (expired) are reserved."""

    OK = 0
    TAMPERED = 20
    UNTRUSTED = 21
    UNSIGNED = 22
    UNREADABLE = 26


#: The first that matches counts: `InvalidBundle` is an `InvalidSignature`.
_VERDICTS: Final[tuple[tuple[type[TradepostError], Verdict], ...]] = (
    (UnsignedArtifact, Verdict.UNSIGNED),
    (UntrustedSigner, Verdict.UNTRUSTED),
    (InvalidBundle, Verdict.UNREADABLE),
    (InvalidSignature, Verdict.TAMPERED),
    (TradepostError, Verdict.UNREADABLE),
)

PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file with the key's passphrase; else TRADEPOST_KEY_PASSPHRASE.")
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
    _print(facts, f"{out} (private)\n{public_path(out)} (public)\nkey id {made.public_key.id}", as_json=json)


def sign(
    path: Annotated[Path, typer.Argument(help="The file or directory to sign.")],
    key: Annotated[Path, typer.Option(help="The signing key.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the signature (default: PATH.sigstore.json, or DIRECTORY/model.sig)."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Sign a file (as cosign does) or a directory (as OpenSSF Model Signing does)."""
    signing_key = SigningKey.load(key, passphrase=lambda: existing_passphrase(key, passphrase_file))
    out = out or _default_signature(path)
    with _reading():
        if path.is_dir():
            bundle = sign_directory(path, signing_key, signature=out)
        else:
            bundle = sign_file(path, signing_key)
        out.write_text(bundle)
    _print({"signature": str(out), "key_id": signing_key.public_key.id}, str(out), as_json=json)


def verify(
    path: Annotated[Path, typer.Argument(help="The file or directory to verify.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="The signature (default: PATH.sigstore.json, or DIRECTORY/model.sig)."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed.")] = None,
    trust: Annotated[Path | None, typer.Option(help="A trust policy that must name the signer.")] = None,
    json: Json = False,
) -> None:
    """Verify a signature. Exit codes: 0 ok, 20 tampered, 21 untrusted, 22 unsigned, 26 unreadable."""
    if (key is None) == (trust is None):
        raise typer.BadParameter("give either --key or --trust, which says whose signature counts")
    try:
        with _reading():
            policy = _policy(key, trust)
            facts = _verify(path, bundle or _default_signature(path), policy)
    except TradepostError as error:
        verdict = next(verdict for kind, verdict in _VERDICTS if isinstance(error, kind))
        if json:
            _print({"verdict": verdict.name.lower(), "problem": error.to_problem()}, "", as_json=True)
        else:
            report(error, as_json=False)
        raise typer.Exit(verdict) from None
    _print(
        {"verdict": "ok", **facts},
        f"ok: signed by {facts['publisher']} (key {facts['key_id']})",
        as_json=json,
    )


def _policy(key: Path | None, trust: Path | None) -> TrustPolicy:
    if key is not None:
        return TrustPolicy.of_key(PublicKey.load(key), name=str(key))
    if trust is None or not trust.exists():
        raise InvalidArtifact(f"{trust}: there is no such trust policy")
    return TrustPolicy.load(trust)


def _verify(path: Path, signature: Path, trust: Trust) -> dict[str, Any]:
    path.stat()  # an absent artifact is not an unsigned one
    if path.is_dir():
        bundle = _read_signature(signature, DIRECTORY_BUNDLE_BYTES_MAX)
        directory = verify_directory(path, bundle, trust, signature=signature)
        return _facts(directory.publisher, directory.sha256) | {"files": len(directory.files)}
    file = verify_file(path, _read_signature(signature, BUNDLE_BYTES_MAX), trust)
    return _facts(file.publisher, file.sha256)


def _facts(publisher: Publisher, sha256: str) -> dict[str, Any]:
    return {"publisher": publisher.name, "key_id": publisher.key.id, "sha256": sha256}


def _read_signature(path: Path, bytes_max: int) -> str:
    if not path.exists():
        raise UnsignedArtifact(f"there is no {path}", hint="`tradepost sign` makes one.")
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidBundle(f"{path}: {error}") from None


def _default_signature(path: Path) -> Path:
    return path / SIGNATURE_NAME if path.is_dir() else bundle_path(path)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidArtifact(f"{error.filename}: {error.strerror}") from None


def _print(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(facts).decode() if as_json else text)
