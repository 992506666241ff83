"""Attestations of publishing: in-toto statements of package indexes and CI systems.

Most keyless signatures in the wild are of this kind: a DSSE envelope around a statement whose subject is
the file's SHA-256. What a statement says is its predicate type, so only those types count that say "this is
what we published"; a statement that a file was scanned, or was found wanting, is no signature on it.
(Specs: in-toto.io/Statement/v1; docs.pypi.org/attestations; slsa.dev/provenance.)
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tradepost.errors import UNDECODABLE, InvalidBundle
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.bundles.statement import Sha256

#: The statements that count, by their predicate type.
Published = Literal["https://docs.pypi.org/attestations/publish/v1", "https://slsa.dev/provenance/v1"]


class _Digests(msgspec.Struct, frozen=True, kw_only=True):
    sha256: Sha256


class _Subject(msgspec.Struct, frozen=True, kw_only=True):
    digest: _Digests


class _Statement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1024)]
    predicate_type: Published


def attested_digests(payload: bytes) -> frozenset[bytes]:
    """The SHA-256 of each file that the statement in `payload` says was published.

    Raises `InvalidBundle` for anything else, a statement of another kind included.
    """
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except UNDECODABLE as error:
        raise InvalidBundle(
            "its statement is not about publishing a file (it may sign a directory): "
            f"{describe_mismatch(error, whole='the statement')}"
        ) from None
    return frozenset(bytes.fromhex(subject.digest.sha256) for subject in statement.subject)
