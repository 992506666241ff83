"""Sigstore bundles v0.3: the JSON file with a signature, stored beside the signed file.

A file's bundle holds a `messageSignature`, which `cosign verify-blob` reads; a directory's holds a DSSE
envelope, which `model_signing verify` reads. Reading is strict, because a bundle comes from a stranger: a
size cap before parsing, no name twice, no unknown field, one encoding of each value. So two tools that read
the same bundle read the same thing. (Spec: github.com/sigstore/protobuf-specs, `sigstore_bundle.proto`.)

Several signatures over one artifact are several bundles, one after the other, each on a line of its own;
every line is what other tools read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import ValidationError
from sigstore_models.bundle.v1 import Bundle, VerificationMaterial
from sigstore_models.common.v1 import HashAlgorithm, HashOutput, MessageSignature, PublicKeyIdentifier
from sigstore_models.intoto import Envelope, Signature

from tradepost.errors import InvalidArtifact, InvalidBundle, UnsignedArtifact
from tradepost_signing.bundles.statement import ENVELOPE_START, PAYLOAD_TYPE, pre_authentication_encoding
from tradepost_signing.keys import SigningKey

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
#: cosign before version 2.4 wrote version 0.3 in this older form.
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")

#: Of all signatures over one artifact together, since a pipeline's travel in one message.
BUNDLE_BYTES_MAX: Final = 64 << 10
SIGNATURES_MAX: Final = 8
#: Of a published pipeline, to which several accounts may add signatures.
PIPELINE_BUNDLES_BYTES_MAX: Final = 512 << 10
PIPELINE_SIGNATURES_MAX: Final = 64
_SPACE: Final = " \t\r\n"
BUNDLE_SUFFIX: Final = ".sigstore.json"


class Keyless(Protocol):
    """Signs with a certificate; `tradepost_signing.keyless.signing.KeylessSigner` does."""

    def sign_digest(self, digest: bytes) -> str:
        """The bundle (JSON) over bytes with this SHA-256."""
        ...

    def sign_statement(self, statement: bytes) -> str:
        """The bundle (JSON) with this in-toto statement in a DSSE envelope."""
        ...


Signer = SigningKey | Keyless


def sign_bytes(artifact: bytes, signer: Signer) -> str:
    """The bundle (JSON) with `signer`'s signature over `artifact`. Raises as `sign_file` does."""
    _refuse_envelope(artifact)
    return _sign_digest(hashlib.sha256(artifact).digest(), signer)


def sign_file(path: Path, signer: Signer) -> str:
    """The bundle (JSON) with `signer`'s signature over the file at `path`, which is read as a stream.

    Raises `InvalidArtifact` for a file whose signature could be passed off as one over a directory.
    """
    with path.open("rb") as file:
        _refuse_envelope(file.read(len(ENVELOPE_START)))
        file.seek(0)
        return _sign_digest(hashlib.file_digest(file, "sha256").digest(), signer)


def sign_statement(statement: bytes, signer: Signer) -> str:
    """The bundle (JSON) with the in-toto `statement` in a DSSE envelope that `signer` has signed."""
    if not isinstance(signer, SigningKey):
        return signer.sign_statement(statement)
    digest = hashlib.sha256(pre_authentication_encoding(statement)).digest()
    return _write_bundle(
        signer.public_key.directory_hint,
        dsse_envelope=Envelope(
            payload=base64.b64encode(statement),
            payload_type=PAYLOAD_TYPE,
            signatures=[Signature(sig=base64.b64encode(signer.sign(digest)), keyid="")],
        ),
    )


def bundle_path(path: Path) -> Path:
    """Where the bundle over the file at `path` is kept unless told otherwise."""
    return path.with_name(path.name + BUNDLE_SUFFIX)


def join_bundles(bundles: Iterable[str]) -> str:
    """Several signatures over one artifact as one text."""
    return "\n".join(bundle.strip(_SPACE) for bundle in bundles)


def read_bundle(text: str, *, bytes_max: int = BUNDLE_BYTES_MAX) -> Bundle:
    """The one bundle in `text`. Nothing in it is verified. Raises as `read_bundles` does."""
    bundles = read_bundles(text, bytes_max=bytes_max)
    if len(bundles) != 1:
        raise InvalidBundle(f"there are {len(bundles)} bundles, but exactly one is required")
    return bundles[0]


def read_bundles(text: str, *, bytes_max: int = BUNDLE_BYTES_MAX) -> tuple[Bundle, ...]:
    """The bundles in `text`, one to eight. Nothing in them is verified.

    Raises `UnsignedArtifact` for an empty text, and `InvalidBundle` unless all are canonical v0.3 bundles.
    """
    pieces = _split(text, bytes_max=bytes_max, signatures_max=SIGNATURES_MAX)
    return tuple(_bundle(tree) for _, tree in pieces)


def split_bundles(text: str) -> tuple[tuple[str, Bundle], ...]:
    """The bundles in `text`, each with its own text. Raises as `read_bundles` does."""
    pieces = _split(text, bytes_max=BUNDLE_BYTES_MAX, signatures_max=SIGNATURES_MAX)
    return tuple((piece, _bundle(tree)) for piece, tree in pieces)


def read_pipeline_bundles(text: str) -> tuple[Bundle, ...]:
    """Those bundles over a published pipeline that this version reads. Nothing in them is verified.

    Several accounts add them, so one that is unreadable must not hide the others: it counts as absent.
    Raises `UnsignedArtifact` for an empty text, and `InvalidBundle` if none is readable, or if there are more
    than `PIPELINE_SIGNATURES_MAX`.
    """
    bundles: list[Bundle] = []
    problem: InvalidBundle | None = None
    for _, tree in _split(text, bytes_max=PIPELINE_BUNDLES_BYTES_MAX, signatures_max=PIPELINE_SIGNATURES_MAX):
        try:
            bundles.append(_bundle(tree))
        except InvalidBundle as error:
            problem = problem or error
    if problem is not None and not bundles:
        raise problem
    return tuple(bundles)


def _split(text: str, *, bytes_max: int, signatures_max: int) -> list[tuple[str, Any]]:
    """Each JSON value in `text`: as text, and decoded."""
    if len(text) > bytes_max:
        raise InvalidBundle(f"{len(text):,} characters; the limit is {bytes_max:,}")
    rest = text.strip(_SPACE)
    if not rest:
        raise UnsignedArtifact("there is no signature bundle")
    pieces: list[tuple[str, Any]] = []
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    while rest:
        if len(pieces) == signatures_max:
            raise InvalidBundle(f"there are more than {signatures_max} signatures")
        try:
            tree, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError) as error:
            raise InvalidBundle(f"not a Sigstore bundle: {error}") from None
        pieces.append((rest[:end], tree))
        rest = rest[end:].lstrip(_SPACE)
    return pieces


def _bundle(tree: Any) -> Bundle:
    if isinstance(tree, dict) and isinstance(tree.get("verificationMaterial"), dict):
        # protobuf's JSON leaves out empty lists; sigstore-models wants this one.
        tree["verificationMaterial"].setdefault("tlogEntries", [])
    try:
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


def _sign_digest(digest: bytes, signer: Signer) -> str:
    if not isinstance(signer, SigningKey):
        return signer.sign_digest(digest)
    return _write_bundle(
        signer.public_key.hint,
        message_signature=MessageSignature(
            # The models take their bytes fields as base64, as they stand in JSON.
            message_digest=HashOutput(algorithm=HashAlgorithm.SHA2_256, digest=base64.b64encode(digest)),
            signature=base64.b64encode(signer.sign(digest)),
        ),
    )


def _refuse_envelope(artifact: bytes) -> None:
    """The formats that other tools read put nothing in front of a file's bytes to tell the two apart."""
    if artifact.startswith(ENVELOPE_START):
        raise InvalidArtifact(
            "it begins like the statement in a signature over a directory, so it cannot be signed as a file"
        )


def _write_bundle(key_hint: str, **content: Any) -> str:
    return Bundle(
        media_type=MEDIA_TYPE,
        verification_material=VerificationMaterial(
            public_key=PublicKeyIdentifier(hint=key_hint), tlog_entries=[]
        ),
        **content,
    ).to_json()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("an object has a duplicate name")
    return tree
