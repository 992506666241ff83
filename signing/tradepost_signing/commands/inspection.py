"""Describes an artifact or a bundle, and the signer that it claims. Nothing is verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography import x509
from sigstore_models.bundle.v1 import Bundle

from tradepost.content import add_file, cid_of_block
from tradepost.errors import InvalidBundle, InvalidPipeline, InvalidRevocations, UnsignedArtifact
from tradepost.pipeline.manifest import MANIFEST_BYTES_MAX, decode_manifest
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX, read_bundles
from tradepost_signing.bundles.statement import decode_statement
from tradepost_signing.checks.signature_check import claimed_signer, envelope_of
from tradepost_signing.checks.signature_directory import DIRECTORY_BUNDLE_BYTES_MAX, inspect_directory
from tradepost_signing.checks.signature_files import bundle_bytes_max, read_signatures, signature_paths
from tradepost_signing.checks.verify import signed_digests
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import key_id_of_hint
from tradepost_signing.policy.revocation import REVOCATIONS_BYTES_MAX, decode_revocations


class SignatureFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of a bundle: what was signed, and by which signer. Times are Unix seconds.

    `sha256` is that of a file, of each file that was published, or of a directory's list of files. A key that
    the bundle names otherwise than by its id is given as `key_hint`.
    """

    file: str
    signs: Literal["file", "directory", "publication", "something else"]
    sha256: tuple[str, ...] = ()
    files: int | None = None
    key_id: str | None = None
    key_hint: str | None = None
    issuer: str | None = None
    subject: str | None = None
    identity_id: str | None = None
    valid_from: int | None = None
    valid_until: int | None = None
    logged_at: int | None = None
    log_index: int | None = None


class ArtifactFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The artifact at a path and its signatures; for a bundle, the signatures in it.

    `name` is what a pipeline's manifest or a revocation list calls itself. A directory's `sha256` is the
    one by which signatures know it.
    """

    path: str
    kind: Literal["file", "directory", "pipeline", "revocation list", "bundle"]
    sha256: str
    files: int | None = None
    cid: str | None = None
    name: str | None = None
    signatures: tuple[SignatureFacts, ...] = ()


def inspect(path: Path) -> ArtifactFacts:
    """What is at `path`. Raises `OSError`, `InvalidArtifact`, or `InvalidBundle` (a signature beside it)."""
    if path.is_dir():
        sha256, files = inspect_directory(path)
        return ArtifactFacts(
            path=str(path), kind="directory", sha256=sha256, files=files, signatures=_kept_for(path)
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    signatures = _inside(path)
    if signatures:
        return ArtifactFacts(path=str(path), kind="bundle", sha256=sha256, signatures=signatures)
    return ArtifactFacts(path=str(path), sha256=sha256, signatures=_kept_for(path), **_document(path))


def _document(path: Path) -> dict[str, Any]:
    """What kind of file it is: a manifest and a revocation list are known by their content."""
    if path.stat().st_size <= max(MANIFEST_BYTES_MAX, REVOCATIONS_BYTES_MAX):
        data = path.read_bytes()
        try:
            manifest = decode_manifest(data)
        except InvalidPipeline:
            pass
        else:
            name = f"{manifest.name} {manifest.version}"
            return {"kind": "pipeline", "cid": cid_of_block(data, "dag-cbor"), "name": name}
        try:
            revocations = decode_revocations(data)
        except InvalidRevocations:
            pass
        else:
            return {"kind": "revocation list", "name": f"version {revocations.version}"}
    return {"kind": "file", "cid": add_file(path, put=None)}


def _kept_for(path: Path) -> tuple[SignatureFacts, ...]:
    return tuple(
        facts
        for kept in signature_paths(path)
        for facts in _read(kept, read_signatures([kept], bytes_max=bundle_bytes_max(path)))
    )


def _inside(path: Path) -> tuple[SignatureFacts, ...]:
    """The signatures in a file, none if it is no bundle."""
    if path.stat().st_size > DIRECTORY_BUNDLE_BYTES_MAX:
        return ()
    try:
        return _read(path, path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, InvalidBundle, UnsignedArtifact):
        return ()


def _read(file: Path, text: str) -> tuple[SignatureFacts, ...]:
    bytes_max = max(BUNDLE_BYTES_MAX, DIRECTORY_BUNDLE_BYTES_MAX)
    return tuple(
        SignatureFacts(file=str(file), **_signed(bundle), **_signer(bundle), **_times(bundle))
        for bundle in read_bundles(text, bytes_max=bytes_max)
    )


def _signed(bundle: Bundle) -> dict[str, Any]:
    try:
        digests = tuple(sorted(digest.hex() for digest in signed_digests(bundle)))
        return {"signs": "file" if bundle.dsse_envelope is None else "publication", "sha256": digests}
    except InvalidBundle:
        pass  # then it is a directory's, perhaps
    try:
        listed = decode_statement(envelope_of(bundle)[0])
        return {"signs": "directory", "sha256": (listed.sha256,), "files": len(listed.files)}
    except InvalidBundle:
        return {"signs": "something else"}


def _signer(bundle: Bundle) -> dict[str, Any]:
    signer = claimed_signer(bundle)
    if isinstance(signer, SigstoreIdentity):
        return dict(signer.facts())
    key_id = key_id_of_hint(signer)
    return {"key_hint": signer} if key_id is None else {"key_id": key_id}


def _times(bundle: Bundle) -> dict[str, Any]:
    """When the certificate was valid, and when the log took the signature up."""
    times: dict[str, Any] = {}
    if (raw := bundle.verification_material.certificate) is not None:
        certificate = x509.load_der_x509_certificate(raw.raw_bytes)
        times["valid_from"] = int(certificate.not_valid_before_utc.timestamp())
        times["valid_until"] = int(certificate.not_valid_after_utc.timestamp())
    for entry in bundle.verification_material.tlog_entries[:1]:
        times |= {"log_index": entry.log_index, "logged_at": entry.integrated_time}
    return times
