"""A certificate authority as Fulcio is one: it issues short-lived certificates, and logs each (RFC 6962)."""

from __future__ import annotations

import hashlib
import struct
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tradepost_signing.keyless.identity import SigstoreIdentity

VALID_FOR: Final = timedelta(minutes=10)

#: The issuer stands in a certificate twice, as a DER string and, for older readers, as it is.
_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_AS_IT_IS: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SIGNED_TIMESTAMPS: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_NAME: Final = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "sigstore.example"),
        x509.NameAttribute(NameOID.COMMON_NAME, "fake"),
    ]
)


class CertificateAuthority:
    """Issues certificates below a root of its own, which is valid from `start` on."""

    def __init__(self, start: datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._log_key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        self.root = (
            x509.CertificateBuilder()
            .subject_name(_NAME)
            .issuer_name(_NAME)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def log_public_key(self) -> bytes:
        """The key (DER) of the log of certificates."""
        return _der(self._log_key.public_key())

    def issue(
        self, public_key: ec.EllipticCurvePublicKey, identity: SigstoreIdentity, at: datetime
    ) -> x509.Certificate:
        """A certificate for `public_key` in the name of `identity`, valid for ten minutes from `at` on."""
        unlogged = self._builder(public_key, identity, at)
        # The log signs the certificate as it is without the log's own signature in it.
        timestamp = self._log(unlogged.sign(self._key, hashes.SHA256()).tbs_certificate_bytes, at)
        extension = x509.UnrecognizedExtension(_SIGNED_TIMESTAMPS, timestamp)
        return unlogged.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())

    def _builder(
        self, public_key: ec.EllipticCurvePublicKey, identity: SigstoreIdentity, at: datetime
    ) -> x509.CertificateBuilder:
        is_email = "@" in identity.subject and "://" not in identity.subject
        name: x509.GeneralName = (
            x509.RFC822Name(identity.subject)
            if is_email
            else x509.UniformResourceIdentifier(identity.subject)
        )
        issuer = x509.UnrecognizedExtension(_ISSUER, asn1.encode_der(identity.issuer))
        issuer_as_it_is = x509.UnrecognizedExtension(_ISSUER_AS_IT_IS, identity.issuer.encode())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(_NAME)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at)
            .not_valid_after(at + VALID_FOR)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(issuer, critical=False)
            .add_extension(issuer_as_it_is, critical=False)
        )

    def _log(self, tbs: bytes, at: datetime) -> bytes:
        """The extension's value: a list of one signed certificate timestamp."""
        time_ms = int(at.timestamp() * 1000)
        issuer = hashlib.sha256(_der(self._key.public_key())).digest()
        entry = issuer + len(tbs).to_bytes(3, "big") + tbs
        # Version 1, a certificate's timestamp, of a certificate before it was logged, without extensions.
        signed = struct.pack("!BBQH", 0, 0, time_ms, 1) + entry + b"\0\0"
        signature = self._log_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        log_id = hashlib.sha256(self.log_public_key).digest()
        # SHA-256 with ECDSA is 4, 3 in TLS.
        timestamp = struct.pack("!B32sQHBBH", 0, log_id, time_ms, 0, 4, 3, len(signature)) + signature
        return asn1.encode_der(struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp)


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )
