"""Verifies a signature over an artifact. Empty, unknown or unreadable input is rejected.

The trust policy decides whose signature counts (`tradepost_signing.policy.trust`); this module finds out who
signed what. It needs neither network nor clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigstore_models.bundle.v1 import Bundle
from sigstore_models.common.v1 import HashAlgorithm

from tradepost.content import Cid, add_bytes, add_file
from tradepost.errors import InvalidBundle, InvalidSignature
from tradepost_signing.bundles.attestation import attested_digests
from tradepost_signing.bundles.bundle import read_bundles, read_pipeline_bundles, split_bundles
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.signature_check import (
    Trust,
    check_envelope,
    check_message,
    claimed_signer,
    envelope_of,
    first_that_passes,
    trusted_publisher,
)
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import key_id_of_hint


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification established: bytes with this SHA-256 (hex) were signed by this publisher."""

    publisher: Publisher
    sha256: str


def verify_artifact(artifact: bytes, bundles: str, trust: Trust) -> Verified:
    """Who signed `artifact`, once these steps have passed, 2 to 5 of them for any one of its signatures:

    1. There are one to eight bundles, and all read as canonical Sigstore bundles v0.3.
    2. The bundle holds a signature over a SHA-256, or over a statement that files with certain SHA-256s were
       published.
    3. The trust policy names the signer, and neither denies it nor knows it as revoked.
    4. The SHA-256 in the bundle is the artifact's.
    5. The signature is the signer's: by the key; or by a certificate that Sigstore issued to the identity, as
       Sigstore's logs show, and at a time when it was valid.
    6. The trust policy does not deny the artifact, and does not know it as revoked.

    Raises `UnsignedArtifact` or `InvalidBundle` (1), `InvalidBundle` (2), `UntrustedSigner` or `Revoked`
    (3, 6), `InvalidSignature` (4, 5) or `ExpiredSignature` (5).
    """
    digest = hashlib.sha256(artifact).digest()
    return _verify(digest, read_bundles(bundles), trust, cid=lambda: add_bytes(artifact, put=None))


def verify_pipeline(manifest_block: bytes, bundles: str, trust: Trust) -> Verified:
    """As `verify_artifact`, for a pipeline as a broker serves it. Step 1 is `read_pipeline_bundles`."""
    digest = hashlib.sha256(manifest_block).digest()
    read = read_pipeline_bundles(bundles)
    return _verify(digest, read, trust, cid=lambda: add_bytes(manifest_block, put=None))


def verify_file(path: Path, bundles: str, trust: Trust) -> Verified:
    """As `verify_artifact`, for a file that is read as a stream."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return _verify(digest, read_bundles(bundles), trust, cid=lambda: add_file(path, put=None))


def _verify(digest: bytes, read: Sequence[Bundle], trust: Trust, *, cid: Callable[[], Cid]) -> Verified:
    # Step 1 is the caller's.
    # Steps 2 to 5
    publisher = first_that_passes(read, lambda bundle: _signer_of(bundle, digest, trust))
    # Step 6
    trust.refuse_denied(cid())
    return Verified(publisher, digest.hex())


def _signer_of(bundle: Bundle, digest: bytes, trust: Trust) -> Publisher:
    # Step 2
    signed = signed_digests(bundle)
    # Step 3
    publisher = trusted_publisher(bundle, trust)
    # Step 4
    if digest not in signed:
        others = ", ".join(sorted(one.hex() for one in signed)[:4])
        raise InvalidSignature(f"these bytes have the SHA-256 {digest.hex()}; {others} was signed")
    # Step 5
    check = check_message if bundle.dsse_envelope is None else _check_attestation
    check(bundle, publisher, digest, trust)
    return publisher


def signed_digests(bundle: Bundle) -> frozenset[bytes]:
    """The SHA-256 of what the bundle says was signed. Raises `InvalidBundle` if that is no file."""
    if bundle.dsse_envelope is not None:
        return attested_digests(envelope_of(bundle)[0])
    message = bundle.message_signature
    if message is None or message.message_digest is None:
        raise InvalidBundle("it does not give the artifact's SHA-256")
    if message.message_digest.algorithm is not HashAlgorithm.SHA2_256:
        raise InvalidBundle("the digest in it is not a SHA-256")
    return frozenset({message.message_digest.digest})


def claimed_publishers(artifact: bytes, bundles: str) -> tuple[str, ...]:
    """The ids of the keys and identities whose signatures over `artifact` the bundles claim to hold.

    Raises as `claimed_signatures` does.
    """
    return tuple(signer for signer, _ in claimed_signatures(artifact, bundles))


def claimed_signatures(artifact: bytes, bundles: str) -> tuple[tuple[str, str], ...]:
    """Each signature over `artifact` that the bundles claim to hold: the signer's id, and the bundle's text.

    For one who has no trust policy, such as a broker: no signature is checked. Raises `UnsignedArtifact`,
    `InvalidBundle`, or `InvalidSignature` where a bundle is over other bytes.
    """
    digest = hashlib.sha256(artifact).digest()
    signatures: list[tuple[str, str]] = []
    for text, bundle in split_bundles(bundles):
        if digest not in signed_digests(bundle):
            raise InvalidSignature("a bundle signs other bytes than these")
        signer = claimed_signer(bundle)
        signer_id = signer.id if isinstance(signer, SigstoreIdentity) else key_id_of_hint(signer)
        if signer_id is None:
            raise InvalidBundle("its key hint is not the key's SHA-256")
        signatures.append((signer_id, text))
    return tuple(signatures)


def _check_attestation(bundle: Bundle, publisher: Publisher, _digest: bytes, trust: Trust) -> None:
    check_envelope(bundle, publisher, trust)
