"""The in-toto statement of OpenSSF Model Signing v1.0: every file of a directory with its SHA-256.

The subject's digest is the SHA-256 of all files' digests in the order listed, so one hash stands for the
directory. The statement is signed in a DSSE envelope, over its pre-authentication encoding.
(Predicate: https://model_signing/signature/v1.0; DSSE: github.com/secure-systems-lab/dsse.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

import msgspec

from tradepost.errors import UNDECODABLE, InvalidBundle
from tradepost.schema_errors import describe_mismatch

#: How the bytes begin that the signature in an envelope covers.
ENVELOPE_START: Final = b"DSSEv1 "
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its path below the directory, with `/` between the parts, and its SHA-256 in hex."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    algorithm: Literal["sha256"]
    digest: Sha256


class _Serialization(msgspec.Struct, frozen=True, kw_only=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = ()


class _Predicate(msgspec.Struct, frozen=True, kw_only=True):
    serialization: _Serialization
    resources: Annotated[tuple[Resource, ...], msgspec.Meta(min_length=1)]


class _Digest(msgspec.Struct, frozen=True, kw_only=True):
    sha256: Sha256


class _Subject(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: _Digest


class _Statement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[_Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a statement: each file's SHA-256 (hex) by its path, and the paths that it leaves out.

    `allows_links` is whether its signer followed symbolic links.
    """

    sha256: str
    files: dict[str, str]
    ignored: tuple[str, ...]
    allows_links: bool = False


def encode_statement(name: str, files: dict[str, str], ignored: Sequence[str]) -> bytes:
    """The statement (JSON) about a directory called `name`, whose files have these SHA-256 (hex)."""
    resources = tuple(
        Resource(name=path, algorithm="sha256", digest=files[path]) for path in _in_order(files)
    )
    return msgspec.json.encode(
        _Statement(
            type="https://in-toto.io/Statement/v1",
            subject=(_Subject(name=name, digest=_Digest(sha256=root_digest(files))),),
            predicate_type="https://model_signing/signature/v1.0",
            predicate=_Predicate(
                serialization=_Serialization(method="files", hash_type="sha256", ignore_paths=tuple(ignored)),
                resources=resources,
            ),
        )
    )


def decode_statement(payload: bytes) -> FileList:
    """What the statement in `payload` says.

    Raises `InvalidBundle` unless it is one of this predicate with SHA-256 of whole files, about at least one
    file, none twice, whose subject is the digest of its list, and which leaves out only paths below it.
    """
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except UNDECODABLE as error:
        problem = describe_mismatch(error, whole="the statement")
        raise InvalidBundle(f"it contains no statement that this version can read: {problem}") from None
    resources = statement.predicate.resources
    files = {resource.name: resource.digest for resource in resources}
    if len(files) != len(resources):
        raise InvalidBundle("its statement lists a file twice")
    sha256 = statement.subject[0].digest.sha256
    if sha256 != _digest_of(resource.digest for resource in resources):
        raise InvalidBundle("the digest of its subject does not match the listed files")
    ignored = statement.predicate.serialization.ignore_paths
    for path in ignored:
        parts = PurePosixPath(path).parts
        # "." would leave out everything.
        if not parts or ".." in parts or parts[0] == "/":
            raise InvalidBundle(f"its statement leaves out {path!r}")
    allows_links = statement.predicate.serialization.allow_symlinks
    return FileList(sha256=sha256, files=files, ignored=ignored, allows_links=allows_links)


def pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that a DSSE signature over an in-toto `payload` covers."""
    return ENVELOPE_START + b"%d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def root_digest(files: Mapping[str, str]) -> str:
    """The SHA-256 (hex) that stands for a directory whose files have these SHA-256 (hex)."""
    return _digest_of(files[path] for path in _in_order(files))


def _in_order(files: Iterable[str]) -> list[str]:
    return sorted(files, key=PurePosixPath)


def _digest_of(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
