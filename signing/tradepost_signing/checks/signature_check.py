"""Checks the signature in a bundle and finds its signer: keys here, certificates in `keyless`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from sigstore_models.bundle.v1 import Bundle

from tradepost.content import Cid
from tradepost.errors import (
    ExpiredSignature,
    InvalidBundle,
    InvalidSignature,
    Revoked,
    TradepostError,
    UntrustedSigner,
)
from tradepost_signing.bundles.statement import PAYLOAD_TYPE, pre_authentication_encoding
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keyless import certificate_check
from tradepost_signing.keyless.identity import SigstoreIdentity, identity_of_certificate
from tradepost_signing.keys import PublicKey

T = TypeVar("T")

#: Of several signatures none of which passes, the refusal that says most is raised.
_MOST_TELLING_FIRST: Final = (Revoked, ExpiredSignature, InvalidSignature, UntrustedSigner)


class Trust(Protocol):
    """The trusted signers. Certificates are checked with `trusted_root`; see `keyless.certificate_check`."""

    @property
    def trusted_root(self) -> bytes | None: ...

    def publisher_by_hint(self, hint: str) -> Publisher:
        """The trusted publisher whose key a bundle names by `hint`. Raises `UntrustedSigner`."""
        ...

    def publisher_by_identity(self, identity: SigstoreIdentity) -> Publisher:
        """The trusted publisher that signs with this identity. Raises `UntrustedSigner`."""
        ...

    def refuse_denied(self, cid: Cid) -> None:
        """Raise `UntrustedSigner` if the artifact at `cid` is denied or revoked, no matter who signed it."""
        ...


def claimed_signer(bundle: Bundle) -> str | SigstoreIdentity:
    """Who the bundle says has signed: a key by its hint, or an identity. Raises `InvalidBundle`."""
    material = bundle.verification_material
    if material.certificate is not None:
        return identity_of_certificate(material.certificate.raw_bytes)
    if material.public_key is None:
        raise InvalidBundle("it contains a certificate chain, the format before version 0.3")
    if not material.public_key.hint:
        raise InvalidBundle("it does not name the key that signed it")
    return material.public_key.hint


def trusted_publisher(bundle: Bundle, trust: Trust) -> Publisher:
    """The publisher whom the trust policy names for the claimed signer. Raises `UntrustedSigner`."""
    signer = claimed_signer(bundle)
    if isinstance(signer, SigstoreIdentity):
        return trust.publisher_by_identity(signer)
    return trust.publisher_by_hint(signer)


def check_message(bundle: Bundle, publisher: Publisher, digest: bytes, trust: Trust) -> None:
    """Raise `InvalidSignature` unless `bundle` holds the publisher's signature over this SHA-256."""
    if isinstance(publisher.key, SigstoreIdentity):
        certificate_check.check_message(bundle, publisher.key, digest, trust.trusted_root)
    elif bundle.message_signature is None:
        raise InvalidBundle("it contains no message signature")
    else:
        publisher.key.verify(bundle.message_signature.signature, digest)


def check_envelope(bundle: Bundle, publisher: Publisher, trust: Trust) -> None:
    """Raise `InvalidSignature` unless the publisher has signed the envelope in `bundle`."""
    payload, signature = envelope_of(bundle)
    if isinstance(publisher.key, PublicKey):
        digest = hashlib.sha256(pre_authentication_encoding(payload)).digest()
        publisher.key.verify(signature, digest)
    else:
        certificate_check.check_envelope(bundle, publisher.key, trust.trusted_root)


def envelope_of(bundle: Bundle) -> tuple[bytes, bytes]:
    """The in-toto statement in the bundle's DSSE envelope, and the one signature. Raises `InvalidBundle`."""
    envelope = bundle.dsse_envelope
    if envelope is None:
        raise InvalidBundle("it contains a message signature, which is for a file, not for a directory")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidBundle(f"its payload is {envelope.payload_type[:64]!r}, not an in-toto statement")
    if len(envelope.signatures) != 1:
        raise InvalidBundle(
            f"its envelope has {len(envelope.signatures)} signatures, but exactly one is required"
        )
    return envelope.payload, envelope.signatures[0].sig


def first_that_passes(bundles: Sequence[Bundle], check: Callable[[Bundle], T]) -> T:
    """What `check` gives for the first bundle that it lets pass; else its most telling refusal is raised."""
    refusals: list[TradepostError] = []
    for bundle in bundles:
        try:
            return check(bundle)
        except (InvalidSignature, UntrustedSigner) as error:
            refusals.append(error)
    raise min(refusals, key=_rank)


def _rank(error: TradepostError) -> int:
    return next(rank for rank, kind in enumerate(_MOST_TELLING_FIRST) if isinstance(error, kind))
