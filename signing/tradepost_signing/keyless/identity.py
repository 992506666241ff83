"""The signer of a keyless signature: the identity in the short-lived certificate from Sigstore's Fulcio.

An identity is a subject and the issuer that vouched for it, and means nothing without the issuer: anyone may
run an OpenID Connect provider that calls its users what it likes.
(Extensions: github.com/sigstore/fulcio, `docs/oid-info.md`.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.hazmat import asn1

from tradepost.errors import InvalidBundle
from tradepost.identity import key_id_of_digest

Issuer = Annotated[str, msgspec.Meta(pattern=r"^https://[\x21-\x7e]{1,500}\Z")]
Subject = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,1024}\Z")]

#: What the certificate reader raises on hostile bytes, as fuzzing found; its own errors have no common base.
UNREADABLE: Final = (
    ValueError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_BEFORE_2022: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_USERNAME: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")


@dataclass(frozen=True, slots=True)
class SigstoreIdentity:
    """`subject`, an e-mail address or the URL of a workflow, as the provider at the URL `issuer` names it."""

    issuer: str
    subject: str

    @property
    def id(self) -> str:
        """52 characters that stand for the identity where a key's id stands for a key."""
        named = msgspec.json.encode(["tradepost-identity/1", self.issuer, self.subject])
        return key_id_of_digest(hashlib.sha256(named).digest())

    def facts(self) -> dict[str, str]:
        """The identity as JSON output and errors give it."""
        return {"issuer": self.issuer, "subject": self.subject, "identity_id": self.id}

    def __str__(self) -> str:
        return f"{self.subject} (issuer {self.issuer})"


def identity_of_certificate(der: bytes) -> SigstoreIdentity:
    """The identity that a certificate claims. Whether Fulcio issued it is not looked at here.

    Raises `InvalidBundle` unless it names one issuer and one subject.
    """
    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        issuer, subjects = _issuer(extensions), _subjects(extensions)
    except UNREADABLE as error:
        raise InvalidBundle(f"its certificate cannot be read: {error}") from None
    if len(subjects) != 1 or not subjects[0] or not issuer:
        raise InvalidBundle("its certificate does not name one subject and its issuer")
    return SigstoreIdentity(issuer=issuer, subject=subjects[0])


def _issuer(extensions: x509.Extensions) -> str:
    try:
        return asn1.decode_der(str, _value(extensions, _ISSUER))
    except x509.ExtensionNotFound:
        return _value(extensions, _ISSUER_BEFORE_2022).decode()


def _value(extensions: x509.Extensions, oid: x509.ObjectIdentifier) -> bytes:
    extension = extensions.get_extension_for_oid(oid).value
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise ValueError(f"the extension {oid.dotted_string} is not in Fulcio's format")
    return extension.value


def _subjects(extensions: x509.Extensions) -> list[str]:
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
        *(
            asn1.decode_der(str, other.value)
            for other in names.get_values_for_type(x509.OtherName)
            if other.type_id == _USERNAME
        ),
    ]
