"""Sigstore bundles v0.3: the JSON file that carries a signature beside what it signs.

A file's bundle holds a `messageSignature`, which `cosign verify-blob` reads; a directory's holds a DSSE
envelope, which `model_signing verify` reads. Reading is strict, because a bundle comes from a stranger: a
size cap before parsing, no name twice, no unknown field, one encoding of each value. So two tools that read
the same bundle read the same thing. (Spec: github.com/sigstore/protobuf-specs, `sigstore_bundle.proto`.)
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from sigstore_models.bundle.v1 import Bundle, VerificationMaterial
from sigstore_models.common.v1 import HashAlgorithm, HashOutput, MessageSignature, PublicKeyIdentifier

from tradepost.errors import InvalidBundle, UnsignedArtifact
from tradepost_signing.keys import SigningKey

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
#: cosign before version 2.4 wrote version 0.3 in this older form.
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")

BUNDLE_BYTES_MAX: Final = 64 << 10
BUNDLE_SUFFIX: Final = ".sigstore.json"


def sign_bytes(artifact: bytes, key: SigningKey) -> str:
    """The bundle (JSON) with `key`'s signature over `artifact`."""
    return _message_bundle(hashlib.sha256(artifact).digest(), key)


def sign_file(path: Path, key: SigningKey) -> str:
    """The bundle (JSON) with `key`'s signature over the file at `path`, which is read as a stream."""
    with path.open("rb") as file:
        return _message_bundle(hashlib.file_digest(file, "sha256").digest(), key)


def bundle_path(path: Path) -> Path:
    """Where the bundle over the file at `path` is kept unless told otherwise."""
    return path.with_name(path.name + BUNDLE_SUFFIX)


def read_bundle(text: str, *, bytes_max: int = BUNDLE_BYTES_MAX) -> Bundle:
    """The bundle in `text`. Nothing in it is verified.

    Raises `UnsignedArtifact` for an empty text and `InvalidBundle` for one that is no canonical v0.3 bundle.
    """
    if len(text) > bytes_max:
        raise InvalidBundle(f"{len(text):,} characters; the limit is {bytes_max:,}")
    if not text.strip():
        raise UnsignedArtifact("there is no signature bundle")
    try:
        tree: Any = json.loads(text, object_pairs_hook=_without_duplicates)
        if isinstance(tree, dict) and isinstance(tree.get("verificationMaterial"), dict):
            # protobuf's JSON leaves out empty lists; sigstore-models wants this one.
            tree["verificationMaterial"].setdefault("tlogEntries", [])
        bundle = Bundle.from_json(json.dumps(tree))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidBundle(f"not a Sigstore bundle: {where or 'the whole'}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"not a Sigstore bundle: {error}") from None
    if bundle.media_type not in _MEDIA_TYPES:
        raise InvalidBundle(f"its media type is {bundle.media_type}; this version reads {MEDIA_TYPE}")
    # The models decode base64 leniently; written again, only the canonical text gives itself.
    if bundle.to_dict() != tree:
        raise InvalidBundle("it is not in canonical form (camelCase names, padded base64, no nulls)")
    return bundle


def write_bundle(key_hint: str, **content: Any) -> str:
    """A bundle (JSON) with this content, made by the key that `key_hint` names."""
    return Bundle(
        media_type=MEDIA_TYPE,
        verification_material=VerificationMaterial(
            public_key=PublicKeyIdentifier(hint=key_hint), tlog_entries=[]
        ),
        **content,
    ).to_json()


def _message_bundle(digest: bytes, key: SigningKey) -> str:
    return write_bundle(
        key.public_key.hint,
        message_signature=MessageSignature(
            # The models take their bytes fields as base64, as they stand in JSON.
            message_digest=HashOutput(algorithm=HashAlgorithm.SHA2_256, digest=base64.b64encode(digest)),
            signature=base64.b64encode(key.sign(digest)),
        ),
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return tree
