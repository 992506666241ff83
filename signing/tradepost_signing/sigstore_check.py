"""Checking a keyless signature, offline: the certificate, its place in the logs, and the time of signing.

The work is done by the `sigstore` package. It builds the certificate's chain to a root that the trusted
root names, checks that the certificate was logged, that the signature was logged while the certificate was
valid, and that the log entry is about this signature. Network and clock play no part: the time is the
log's.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError
from sigstore_models.bundle.v1 import Bundle
from sigstore_models.common.v1 import HashAlgorithm
from sigstore_models.trustroot.v1 import TrustedRoot

from tradepost.errors import ExpiredSignature, InvalidSignature, InvalidTrustPolicy
from tradepost_signing.sigstore_identity import SigstoreIdentity, identity_of_certificate

if TYPE_CHECKING:  # the package takes a third of a second to import, and most signatures are by keys
    from sigstore import models
    from sigstore.verify import Verifier

#: Where the `sigstore` package keeps the root of Sigstore's public instance.
_CARRIED_ROOT: Final = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"
_ROOT_BYTES_MAX: Final = 1 << 20
_DETAIL_CHARS_MAX: Final = 500
_OTHER_INSTANCE: Final = "If another instance of Sigstore issued the certificate, name its trusted root."


def read_trusted_root(path: Path) -> bytes:
    """The trusted root (JSON) in the file at `path`. Raises `InvalidTrustPolicy`."""
    try:
        with path.open("rb") as file:
            data = file.read(_ROOT_BYTES_MAX + 1)
        if len(data) > _ROOT_BYTES_MAX:
            raise InvalidTrustPolicy(f"{path} is larger than any trusted root")
        TrustedRoot.from_json(data)
    except OSError as error:
        raise InvalidTrustPolicy(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise InvalidTrustPolicy(
            f"{path} is not a trusted root: {error.errors(include_url=False)[0]['msg']}",
            hint="`cosign trusted-root create` writes one.",
        ) from None
    return data


def check_message(bundle: Bundle, identity: SigstoreIdentity, digest: bytes, root: bytes | None) -> None:
    """Raise unless `bundle` is `identity`'s signature over bytes with this SHA-256.

    `root` is Sigstore's trusted root (JSON); `None` stands for the one that the `sigstore` package carries.
    Raises `ExpiredSignature` or `InvalidSignature`.
    """
    from sigstore.hashes import Hashed

    hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)
    _check(bundle, root, lambda verifier, its: verifier.verify_artifact(hashed, its, _Names(identity)))


def check_envelope(bundle: Bundle, identity: SigstoreIdentity, root: bytes | None) -> None:
    """Raise, as `check_message` does, unless the DSSE envelope in `bundle` is signed by `identity`."""
    _check(bundle, root, lambda verifier, its: verifier.verify_dsse(its, _Names(identity)))


class _Names:
    """The certificate must name this identity; a policy as `sigstore` has them."""

    def __init__(self, identity: SigstoreIdentity) -> None:
        self._identity = identity

    def verify(self, cert: x509.Certificate) -> None:
        named = identity_of_certificate(cert.public_bytes(serialization.Encoding.DER))
        if named != self._identity:
            raise InvalidSignature(f"the certificate is for {named}, not for {self._identity}")


def _check(bundle: Bundle, root: bytes | None, verify: Callable[[Verifier, models.Bundle], object]) -> None:
    from sigstore.errors import CertValidationError
    from sigstore.models import Bundle as TheirBundle

    verifier = _verifier(root)
    try:
        theirs = TheirBundle.from_json(bundle.to_json())
        try:
            verify(verifier, theirs)
            _check_tree_size(theirs)
        except CertValidationError as error:
            if _was_out_of_time(theirs):
                raise ExpiredSignature(_detail(error)) from None
            raise InvalidSignature(_detail(error), hint=_OTHER_INSTANCE) from None
    except InvalidSignature:
        raise
    except Exception as error:  # its many parsers raise what they like on hostile bytes; it all means no
        raise InvalidSignature(_detail(error)) from None


def _check_tree_size(bundle: models.Bundle) -> None:
    """Raise unless the inclusion proof is for a log of the size that the checkpoint signs.

    The `sigstore` package compares the two hashes alone. But which leaf a path of hashes belongs to follows
    from the log's size (RFC 6962, section 2.1.1): with another size, it proves another place in the log.
    """
    proof = bundle.log_entry._inner.inclusion_proof
    signed = proof.checkpoint.envelope.split("\n")[1] if proof.checkpoint else "none"
    if str(proof.tree_size) != signed:
        raise InvalidSignature(
            f"the inclusion proof is for a log of {proof.tree_size} entries, and the log signed {signed}"
        )


def _was_out_of_time(bundle: models.Bundle) -> bool:
    """Whether the certificate was not valid at a time at which the bundle says it was used."""
    certificate = bundle.signing_certificate
    times = []
    if (seconds := bundle.log_entry._inner.integrated_time) is not None:
        times.append(datetime.fromtimestamp(seconds, UTC))
    if (stamps := bundle.verification_material.timestamp_verification_data) is not None:
        times.extend(response.tst_info.gen_time for response in stamps.rfc3161_timestamps)
    return any(
        not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc for time in times
    )


def _detail(error: Exception) -> str:
    return f"Sigstore's check failed: {error}"[:_DETAIL_CHARS_MAX]


@lru_cache(maxsize=4)
def _verifier(root: bytes | None) -> Verifier:
    from sigstore import models
    from sigstore.errors import Error
    from sigstore.verify import Verifier

    if root is None:
        root = importlib.resources.files("sigstore._store").joinpath(_CARRIED_ROOT).read_bytes()
    try:
        return Verifier(trusted_root=models.TrustedRoot(TrustedRoot.from_json(root)))
    except (Error, ValueError) as error:
        raise InvalidTrustPolicy(f"the trusted root cannot be used: {error}") from None
