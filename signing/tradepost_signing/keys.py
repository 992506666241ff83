"""Publishers' P-256 keys: generate them, store them encrypted, sign and verify artifacts with them.

A publisher's signature is over the SHA-256 of the artifact's raw bytes, with nothing in front, because that
is what cosign and OpenSSL check. (Signatures between broker and worker are domain-separated instead; see
`tradepost.identity`.) Private keys are PKCS#8 PEM, public keys SubjectPublicKeyInfo PEM.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature as _CryptographyInvalidSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tradepost.atomic_files import OWNER_ONLY, READABLE_BY_ALL, create_file
from tradepost.errors import InvalidKey, InvalidSignature
from tradepost.file_writing import writing
from tradepost.identity import key_id, key_id_of_digest, public_key_from_der

#: The id of a key, or of a keyless identity, as `tradepost.identity.key_id` makes it.
PublisherId = Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{52}\Z")]

_ECDSA_OF_DIGEST: Final = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
_KEY_FILE_BYTES_MAX: Final = 16 << 10
_COSIGN_LABELS: Final = (
    b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----",
    b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----",
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A publisher's public key, as DER SubjectPublicKeyInfo. Raises `InvalidKey` unless it is P-256."""

    der: bytes

    def __post_init__(self) -> None:
        public_key_from_der(self.der)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """The key in a PEM document. Raises `InvalidKey`."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidKey(f"not a PEM public key: {error}") from None
        return cls(
            key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """The key in the PEM file at `path`. Raises `InvalidKey`."""
        pem = _read(path)
        if b"PRIVATE KEY" in pem:
            raise InvalidKey(f"{path} is a private key", hint=f"Use the public key: {public_path(path)}")
        try:
            return cls.from_pem(pem)
        except InvalidKey as error:
            raise InvalidKey(f"{path}: {error.detail}") from None

    @property
    def id(self) -> str:
        """The key's id: see `tradepost.identity.key_id`."""
        return key_id(self.der)

    def facts(self) -> dict[str, str]:
        """The key as JSON output and errors give it."""
        return {"key_id": self.id}

    def __str__(self) -> str:
        return f"key {self.id}"

    @property
    def hint(self) -> str:
        """How a bundle over a file names this key: base64 SHA-256 of the DER, as cosign writes it."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @property
    def directory_hint(self) -> str:
        """How a bundle over a directory names this key: hex SHA-256 of the PEM, as model_signing does."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def pem(self) -> bytes:
        """The key as a PEM document."""
        return public_key_from_der(self.der).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, signature: bytes, digest: bytes) -> None:
        """Raise `InvalidSignature` unless `signature` (DER) is this key's over bytes with this SHA-256."""
        try:
            public_key_from_der(self.der).verify(signature, digest, _ECDSA_OF_DIGEST)
        except _CryptographyInvalidSignature:
            raise InvalidSignature(f"the signature over these bytes was not made by key {self.id}") from None


class SigningKey:
    """A publisher's private key. Raises `InvalidKey` unless it is P-256."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        self.public_key = PublicKey(
            private_key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the system's random source."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path, *, passphrase: Callable[[], bytes]) -> SigningKey:
        """The key in the PEM file at `path`, PKCS#8 or SEC1. `passphrase` is called only if it is encrypted.

        Raises `InvalidKey`.
        """
        pem = _read(path)
        if any(label in pem for label in _COSIGN_LABELS):
            raise InvalidKey(
                f"{path} is encrypted in a format that only cosign reads",
                hint="Create a key with `tradepost keygen`; `cosign import-key-pair` imports it into cosign.",
            )
        try:
            try:
                key = serialization.load_pem_private_key(pem, password=None)
            except TypeError:  # it is encrypted, in PKCS#8 or in the older way of SEC1 keys
                key = _decrypted(path, pem, passphrase())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidKey(f"{path}: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidKey(f"{path} is not an ECDSA P-256 private key")
        return cls(key)

    def save(self, path: Path, *, passphrase: bytes | None) -> None:
        """Write the key to `path` (mode 0600) and the public key beside it; never over an existing file.

        `None` leaves the key unencrypted. Raises `InvalidKey` and `FileNotWritten`.
        """
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        try:
            pem = self._private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
        except ValueError as error:
            raise InvalidKey(
                f"the passphrase cannot be used: {error}", hint="Use another passphrase."
            ) from None
        # The public file first: a failure then leaves no private key behind that nobody was told about.
        public = public_path(path)
        _create(public, self.public_key.pem, mode=READABLE_BY_ALL)
        try:
            _create(path, pem, mode=OWNER_ONLY)
        except InvalidKey:
            public.unlink()
            raise

    def sign(self, digest: bytes) -> bytes:
        """An ECDSA signature (DER) over bytes with this SHA-256."""
        return self._private_key.sign(digest, _ECDSA_OF_DIGEST)


def key_id_of_hint(hint: str) -> str | None:
    """The id of the key that a file's bundle names by `hint`; `None` for a hint of another kind."""
    try:
        digest = base64.b64decode(hint, validate=True)
    except ValueError:
        return None
    return key_id_of_digest(digest) if len(digest) == hashlib.sha256().digest_size else None


def public_path(path: Path) -> Path:
    """Where the public key of the private key at `path` is kept."""
    return path.with_name(f"{path.name}.pub")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidKey(f"{path}: {error.strerror}", hint="Create a key with `tradepost keygen`.") from None
    if len(data) > _KEY_FILE_BYTES_MAX:
        raise InvalidKey(f"{path} is too large for a key")
    return data


def _decrypted(path: Path, pem: bytes, passphrase: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=passphrase)
    except ValueError:
        raise InvalidKey(f"{path}: the passphrase is wrong, or the file is damaged") from None


def _create(path: Path, data: bytes, *, mode: int) -> None:
    try:
        with writing(path, passing=FileExistsError):
            create_file(path, data, mode=mode)
    except FileExistsError:
        raise InvalidKey(
            f"{path} already exists, and keys are never overwritten", hint="Choose another name."
        ) from None
