"""Checks a keyless signature offline: the certificate, its log entries, and the time of signing.

The work is done by the `sigstore` package. It builds the certificate's chain to a root that the trusted
root names, checks that the certificate was logged, that the signature was logged while the certificate was
valid, and that the log entry is about this signature; what it leaves open, `root` and `log_entry`
check. Network and clock play no part: the time is the log's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sigstore_models.bundle.v1 import Bundle
from sigstore_models.common.v1 import HashAlgorithm

from tradepost.errors import ExpiredSignature, InvalidSignature
from tradepost_signing.keyless.identity import SigstoreIdentity, identity_of_certificate
from tradepost_signing.keyless.log_entry import check_log_entry
from tradepost_signing.keyless.root import OTHER_INSTANCE, parse_trusted_root, root_for, signing_times

if TYPE_CHECKING:  # the package takes a third of a second to import, and most signatures are by keys
    from sigstore import models
    from sigstore.verify import Verifier

_DETAIL_CHARS_MAX: Final = 500


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
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    trusted = parse_trusted_root(root)
    try:
        theirs = TheirBundle.from_json(bundle.to_json())
        verifier = Verifier(trusted_root=TrustedRoot(root_for(theirs, trusted)))
        try:
            verify(verifier, theirs)
        except CertValidationError as error:
            if _was_out_of_time(theirs):
                raise ExpiredSignature(_detail(error)) from None
            raise InvalidSignature(_detail(error), hint=OTHER_INSTANCE) from None
        check_log_entry(theirs.log_entry._inner)
    except InvalidSignature:
        raise
    except Exception as error:  # its many parsers raise what they like on hostile bytes; it all means no
        raise InvalidSignature(_detail(error)) from None


def _was_out_of_time(bundle: models.Bundle) -> bool:
    """Whether the certificate was not valid at a time at which the bundle says it was used."""
    certificate = bundle.signing_certificate
    return any(
        not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc
        for time in signing_times(bundle)
    )


def _detail(error: Exception) -> str:
    return f"the verification by sigstore failed: {error}"[:_DETAIL_CHARS_MAX]
