"""P-256 identities and the domain-separated signatures that they make.

One key algorithm everywhere, because TLS, TPMs, cosign and sigstore all take it. A signature here is ECDSA
with SHA-256 (FIPS 186-5), DER-encoded, over `tradepost/<domain>/1\\n` followed by the payload: bytes signed
for one purpose can never be presented for another.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature as _CryptographyInvalidSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tradepost.atomic_files import create_file
from tradepost.errors import InvalidKey, InvalidSignature
from tradepost.file_status import dangling_link

_ECDSA = ec.ECDSA(hashes.SHA256())


def key_id(public_key: bytes) -> str:
    """The id of a public key: lower-case base32 SHA-256 of its DER SubjectPublicKeyInfo, 52 characters."""
    return key_id_of_digest(hashlib.sha256(public_key).digest())


def key_id_of_digest(digest: bytes) -> str:
    """The id of the public key whose DER SubjectPublicKeyInfo has this SHA-256 digest of 32 bytes."""
    return base64.b32encode(digest).decode().rstrip("=").lower()


def public_key_from_der(public_key: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key in DER SubjectPublicKeyInfo bytes. Raises `InvalidKey` for anything else."""
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidKey(f"not a DER public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidKey("not an ECDSA P-256 public key")
    return key


def verify(public_key: bytes, domain: str, payload: bytes, signature: bytes) -> None:
    """Raise `InvalidSignature` unless `signature` is `public_key`'s over `payload` in `domain`."""
    try:
        public_key_from_der(public_key).verify(signature, _separated(domain, payload), _ECDSA)
    except _CryptographyInvalidSignature:
        raise InvalidSignature(f"the {domain} signature was not made by key {key_id(public_key)}") from None


class Identity:
    """A P-256 private key and what it may do: prove who holds it, and sign in a domain."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise InvalidKey(f"the curve is {private_key.curve.name}; Tradepost uses P-256")
        self._private_key = private_key
        self.public_key = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.id = key_id(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the system's random source."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity in the PKCS#8 PEM file at `path`, made there (mode 0600) if the file is absent.

        Raises `InvalidKey`.
        """
        if problem := dangling_link(path):
            raise InvalidKey(problem)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            identity = cls.generate()
            create_file(path, identity._to_pem())
            return identity
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The identity in the unencrypted PKCS#8 PEM file at `path`. Raises `InvalidKey`."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise InvalidKey(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidKey(f"{path} is not an unencrypted private key (PKCS#8, PEM)") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise InvalidKey(f"{path} is not an ECDSA P-256 key")
        return cls(key)

    def sign(self, domain: str, payload: bytes) -> bytes:
        """An ECDSA signature (DER) over `payload` in `domain`."""
        return self._private_key.sign(_separated(domain, payload), _ECDSA)

    def _to_pem(self) -> bytes:
        return self._private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def _separated(domain: str, payload: bytes) -> bytes:
    return f"tradepost/{domain}/1\n".encode() + payload
