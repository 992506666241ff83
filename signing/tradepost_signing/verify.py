"""Verifying a signature over an artifact. What is empty, unknown or not understood is rejected.

Whose signature counts is the trust policy's decision (`tradepost_signing.trust`); this module establishes who
signed what. It needs neither network nor clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sigstore_models.bundle.v1 import Bundle
from sigstore_models.common.v1 import HashAlgorithm, MessageSignature

from tradepost.content import Cid, add_bytes, add_file
from tradepost.errors import InvalidBundle, InvalidSignature
from tradepost_signing.bundle import read_bundle
from tradepost_signing.publisher import Publisher


class Trust(Protocol):
    """Who is trusted."""

    def publisher_by_hint(self, hint: str) -> Publisher:
        """The trusted publisher whose key a bundle names by `hint`. Raises `UntrustedSigner`."""
        ...

    def refuse_denied(self, cid: Cid) -> None:
        """Raise `UntrustedSigner` if the artifact at `cid` is denied, whoever signed it."""
        ...


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification established: bytes with this SHA-256 (hex) were signed by this publisher."""

    publisher: Publisher
    sha256: str


def verify_artifact(artifact: bytes, bundle_json: str, trust: Trust) -> Verified:
    """Who signed `artifact`, once these steps have passed:

    1. There is a bundle, and it reads as a canonical Sigstore bundle v0.3.
    2. It holds a message signature made with a key, with a SHA-256 digest and nothing else to be believed.
    3. The trust policy names the key.
    4. The digest in the bundle is the artifact's.
    5. The signature is the key's, over the artifact.
    6. The trust policy does not deny the artifact.

    Raises `UnsignedArtifact` or `InvalidBundle` (1), `InvalidBundle` (2), `UntrustedSigner` (3, 6) or
    `InvalidSignature` (4, 5).
    """
    digest = hashlib.sha256(artifact).digest()
    return _verify(digest, bundle_json, trust, cid=lambda: add_bytes(artifact, put=None))


def verify_file(path: Path, bundle_json: str, trust: Trust) -> Verified:
    """As `verify_artifact`, for a file that is read as a stream."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return _verify(digest, bundle_json, trust, cid=lambda: add_file(path, put=None))


def _verify(digest: bytes, bundle_json: str, trust: Trust, *, cid: Callable[[], Cid]) -> Verified:
    # Step 1
    bundle = read_bundle(bundle_json)
    # Step 2
    hint = signer_hint(bundle)
    message, claimed = _message_signature(bundle)
    # Step 3
    publisher = trust.publisher_by_hint(hint)
    # Step 4
    if claimed != digest:
        raise InvalidSignature(f"these bytes have the SHA-256 {digest.hex()}; {claimed.hex()} was signed")
    # Step 5
    publisher.key.verify(message.signature, digest)
    # Step 6
    trust.refuse_denied(cid())
    return Verified(publisher, digest.hex())


def signer_hint(bundle: Bundle) -> str:
    """How the bundle names the key that made it. Raises `InvalidBundle` if none is named."""
    key = bundle.verification_material.public_key
    if key is None:
        raise InvalidBundle("it is signed with a certificate; trust policies name keys")
    if not key.hint:
        raise InvalidBundle("it does not name the key that signed it")
    return key.hint


def _message_signature(bundle: Bundle) -> tuple[MessageSignature, bytes]:
    message = bundle.message_signature
    if message is None:
        raise InvalidBundle("it holds a DSSE envelope, which signs a directory, not a file")
    if message.message_digest is None or message.message_digest.algorithm is not HashAlgorithm.SHA2_256:
        raise InvalidBundle("it does not give the artifact's SHA-256")
    return message, message.message_digest.digest
