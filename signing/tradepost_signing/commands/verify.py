"""`tradepost verify`.

It has exit codes of its own, so that a script can tell bytes that were changed from a signer that is merely
unknown. They are stable; `docs/signing.md` lists them.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import report, show, show_json
from tradepost.commands.working_folder import hint_at_working_folder
from tradepost.errors import (
    ExpiredSignature,
    InvalidArtifact,
    InvalidBundle,
    InvalidSignature,
    Revoked,
    TradepostError,
    UnsignedArtifact,
    UntrustedSigner,
)
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.signature_directory import verify_directory
from tradepost_signing.checks.signature_files import (
    bundle_bytes_max,
    first_path,
    read_signatures,
    signature_paths,
)
from tradepost_signing.checks.verify import verify_file
from tradepost_signing.commands.options import reading
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keyless.root import read_trusted_root
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy.revocation_store import load_revocations
from tradepost_signing.policy.trust import TrustPolicy


class Verdict(IntEnum):
    """The verdict of `verify`, and its exit code."""

    OK = 0
    TAMPERED = 20
    UNTRUSTED = 21
    UNSIGNED = 22
    REVOKED = 23
    EXPIRED = 24
    UNREADABLE = 26


#: The first that matches counts, so a kind of error stands before the kind that it is a case of.
_VERDICTS: Final[tuple[tuple[type[TradepostError], Verdict], ...]] = (
    (UnsignedArtifact, Verdict.UNSIGNED),
    (Revoked, Verdict.REVOKED),
    (UntrustedSigner, Verdict.UNTRUSTED),
    (ExpiredSignature, Verdict.EXPIRED),
    (InvalidBundle, Verdict.UNREADABLE),
    (InvalidSignature, Verdict.TAMPERED),
    (TradepostError, Verdict.UNREADABLE),
)


def verify(
    path: Annotated[Path, typer.Argument(help="The file or directory to verify.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="The signature (default: all signatures of PATH that `sign` wrote)."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The public key of the required signer.")] = None,
    identity: Annotated[
        str | None,
        typer.Option(help="The identity of the required keyless signer: an e-mail address or URL."),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(help="The URL of the provider that confirmed --identity.")
    ] = None,
    trust: Annotated[Path | None, typer.Option(help="A trust policy that must name the signer.")] = None,
    trusted_root: Annotated[
        Path | None, typer.Option(help="With --identity: Sigstore's trusted root, if not the public one.")
    ] = None,
    revocations: Annotated[
        Path | None, typer.Option(help="A revocation list to enforce, signed by --operator.")
    ] = None,
    operator: Annotated[Path | None, typer.Option(help="The public key of the market's operator.")] = None,
    as_json: Json = False,
) -> None:
    """Verify a signature.

    Exit codes: 0 ok, 20 tampered, 21 untrusted, 22 unsigned, 23 revoked, 24 expired, 26 unreadable.
    """
    if sum(given is not None for given in (key, trust, identity)) != 1:
        raise typer.BadParameter("give exactly one of --key, --identity and --trust")
    if (identity is None) != (issuer is None):
        raise typer.BadParameter("give --identity and --issuer together")
    if trusted_root is not None and identity is None:
        raise typer.BadParameter("use --trusted-root only with --identity; a policy names its own root")
    if (revocations is None) != (operator is None):
        raise typer.BadParameter("give --revocations and --operator together")
    try:
        with reading():
            policy = _policy(key, identity, issuer, trust, trusted_root)
            if revocations is not None and operator is not None:
                policy = policy.enforcing(load_revocations(revocations, PublicKey.load(operator)))
            publisher, facts = _verify(path, bundle, policy)
    except TradepostError as error:
        hint_at_working_folder(error)
        verdict = next(verdict for kind, verdict in _VERDICTS if isinstance(error, kind))
        if as_json:
            show_json({"verdict": verdict.name.lower(), "problem": error.to_problem()})
        else:
            report(error, as_json=False)
        raise typer.Exit(verdict) from None
    facts = {"verdict": "ok", "publisher": publisher.name} | publisher.key.facts() | facts
    name = "" if isinstance(publisher.key, SigstoreIdentity) and trust is None else f"{publisher.name}, "
    text = f"ok: signed by {name}{publisher.key}"
    if facts.get("left_out"):
        text += f"\nnot covered by the signature: {', '.join(facts['left_out'])}"
    show(facts, text, as_json=as_json)


def _policy(
    key: Path | None, identity: str | None, issuer: str | None, trust: Path | None, root: Path | None
) -> TrustPolicy:
    if key is not None:
        return TrustPolicy.of_key(PublicKey.load(key), name=str(key))
    if identity is not None and issuer is not None:
        wanted = SigstoreIdentity(issuer=issuer, subject=identity)
        return TrustPolicy.of_identity(wanted, trusted_root=None if root is None else read_trusted_root(root))
    if trust is None or not trust.exists():
        raise InvalidArtifact(f"the trust policy {trust} does not exist")
    return TrustPolicy.load(trust)


def _verify(path: Path, bundle: Path | None, trust: TrustPolicy) -> tuple[Publisher, dict[str, Any]]:
    path.stat()  # an absent artifact is not an unsigned one
    files = [bundle] if bundle is not None else signature_paths(path)
    bundles = read_signatures(files, bytes_max=bundle_bytes_max(path))
    if path.is_dir():
        directory = verify_directory(path, bundles, trust, signature=bundle or first_path(path))
        facts = {"sha256": directory.sha256, "files": len(directory.files), "left_out": directory.left_out}
        return directory.publisher, facts
    verified = verify_file(path, bundles, trust)
    return verified.publisher, {"sha256": verified.sha256}
