"""Directories, signed as OpenSSF Model Signing v1.0 does it: `model_signing verify key` checks ours.

The signature covers a list of every file with its SHA-256 and is kept as `model.sig` inside the directory.
The files that git uses, and the signature itself, are not part of it. Symbolic links are refused, since what
they point to may change without the directory. (Spec: github.com/ossf/model-signing-spec.)
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sigstore_models.bundle.v1 import Bundle
from sigstore_models.intoto import Envelope, Signature

from tradepost.content import add_file
from tradepost.errors import InvalidArtifact, InvalidBundle, InvalidSignature
from tradepost_signing.bundle import read_bundle, write_bundle
from tradepost_signing.keys import SigningKey
from tradepost_signing.publisher import Publisher
from tradepost_signing.statement import (
    PAYLOAD_TYPE,
    FileList,
    decode_statement,
    encode_statement,
    pre_authentication_encoding,
)
from tradepost_signing.verify import Trust, signer_hint

SIGNATURE_NAME: Final = "model.sig"
#: Enough for some 80,000 files.
DIRECTORY_BUNDLE_BYTES_MAX: Final = 16 << 20

#: Left out by the reference implementation unless it is told otherwise, so its verifier expects them out.
_GIT_PATHS: Final = (".git", ".gitattributes", ".github", ".gitignore")
_NAMED_FILES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class VerifiedDirectory:
    """What a verification established: these files, and no others, were signed by this publisher."""

    publisher: Publisher
    sha256: str
    files: tuple[str, ...]


def sign_directory(directory: Path, key: SigningKey, *, signature: Path) -> str:
    """The bundle (JSON) with `key`'s signature over every file in `directory` but the one at `signature`.

    Raises `InvalidArtifact` for a directory without files, or with links or special files.
    """
    ignored = (*_inside(directory, signature), *_GIT_PATHS)
    files = {name: _sha256(directory / name) for name in _files(directory, ignored)}
    if not files:
        raise InvalidArtifact(f"there are no files to sign in {directory}")
    payload = encode_statement(directory.resolve().name, files, ignored)
    digest = hashlib.sha256(pre_authentication_encoding(payload)).digest()
    text = write_bundle(
        key.public_key.directory_hint,
        dsse_envelope=Envelope(
            payload=base64.b64encode(payload),
            payload_type=PAYLOAD_TYPE,
            signatures=[Signature(sig=base64.b64encode(key.sign(digest)), keyid="")],
        ),
    )
    if len(text) > DIRECTORY_BUNDLE_BYTES_MAX:
        raise InvalidArtifact(f"{directory} has too many files for one signature: {len(files):,}")
    return text


def verify_directory(
    directory: Path, bundle_json: str, trust: Trust, *, signature: Path
) -> VerifiedDirectory:
    """Who signed `directory`, once these steps have passed:

    1. There is a bundle, and it reads as a canonical Sigstore bundle v0.3.
    2. It holds an in-toto statement in a DSSE envelope with one signature, made with a key.
    3. The trust policy names the key.
    4. The signature is the key's, over the envelope's type and payload.
    5. The statement lists files by SHA-256 and is consistent.
    6. The directory holds exactly those files, each with its digest.
    7. The trust policy denies none of them.

    The file at `signature`, if inside the directory, is not looked at. Raises `UnsignedArtifact` (1),
    `InvalidBundle` (1, 2, 5), `UntrustedSigner` (3, 7) or `InvalidSignature` (4, 6), which names the files.
    """
    # Step 1
    bundle = read_bundle(bundle_json, bytes_max=DIRECTORY_BUNDLE_BYTES_MAX)
    # Step 2
    hint = signer_hint(bundle)
    payload, signed = _envelope(bundle)
    # Step 3
    publisher = trust.publisher_by_hint(hint)
    # Step 4
    publisher.key.verify(signed, hashlib.sha256(pre_authentication_encoding(payload)).digest())
    # Step 5
    listed = decode_statement(payload)
    # Step 6
    _compare(directory, listed, signature)
    # Step 7
    for name in listed.files:
        trust.refuse_denied(add_file(directory / name, put=None))
    return VerifiedDirectory(publisher, listed.sha256, tuple(listed.files))


def _envelope(bundle: Bundle) -> tuple[bytes, bytes]:
    envelope = bundle.dsse_envelope
    if envelope is None:
        raise InvalidBundle("it holds a message signature, which signs a file, not a directory")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidBundle(f"its payload is {envelope.payload_type!r}, not an in-toto statement")
    if len(envelope.signatures) != 1:
        raise InvalidBundle(f"it holds {len(envelope.signatures)} signatures; one is wanted")
    return envelope.payload, envelope.signatures[0].sig


def _compare(directory: Path, listed: FileList, signature: Path) -> None:
    try:
        present = set(_files(directory, (*listed.ignored, *_inside(directory, signature))))
    except InvalidArtifact as error:
        raise InvalidSignature(error.detail) from None
    changed = [
        name
        for name, digest in listed.files.items()
        if name in present and _sha256(directory / name) != digest
    ]
    missing = [name for name in listed.files if name not in present]
    added = sorted(present - set(listed.files))
    differences = [
        f"{what}: {', '.join(names[:_NAMED_FILES_MAX])}{' and more' if len(names) > _NAMED_FILES_MAX else ''}"
        for what, names in (("changed", changed), ("missing", missing), ("not signed", added))
        if names
    ]
    if differences:
        raise InvalidSignature("; ".join(differences), changed=changed, missing=missing, added=added)


def _files(directory: Path, ignored: Sequence[str]) -> Iterator[str]:
    """The path below `directory` of each file in it but those ignored; refuses what is no file or folder."""
    skipped = {PurePosixPath(path) for path in ignored}
    waiting = [PurePosixPath()]
    while waiting:
        folder = waiting.pop()
        with os.scandir(directory / folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if path in skipped:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield _checked(path)
                else:
                    raise InvalidArtifact(f"{path} is a link or a special file; only files can be signed")


def _checked(path: PurePosixPath) -> str:
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidArtifact(f"{name!r} is not a UTF-8 name, which a statement cannot carry") from None
    return name


def _inside(directory: Path, path: Path) -> tuple[str, ...]:
    relative = Path(os.path.relpath(path.resolve(), directory.resolve()))
    return () if ".." in relative.parts else (relative.as_posix(),)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
