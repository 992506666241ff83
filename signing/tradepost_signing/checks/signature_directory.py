"""Directory signatures of OpenSSF Model Signing v1.0; `model_signing verify key` can verify ours.

The signature covers a list of every file with its SHA-256 and is kept as `model.sig` inside the directory.
The files that git uses, and the signature itself, are not part of it. Symbolic links are refused, since what
they point to may change without the directory. (Spec: github.com/ossf/model-signing-spec.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sigstore_models.bundle.v1 import Bundle

from tradepost.content import add_file
from tradepost.errors import InvalidArtifact, InvalidSignature
from tradepost_signing.bundles.bundle import Signer, read_bundles, sign_statement
from tradepost_signing.bundles.statement import FileList, decode_statement, encode_statement, root_digest
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.signature_check import (
    Trust,
    check_envelope,
    envelope_of,
    first_that_passes,
    trusted_publisher,
)

SIGNATURE_NAME: Final = "model.sig"
#: Enough for some 80,000 files.
DIRECTORY_BUNDLE_BYTES_MAX: Final = 16 << 20

#: Left out by the reference implementation unless it is told otherwise, so its verifier expects them out.
_GIT_PATHS: Final = (".git", ".gitattributes", ".github", ".gitignore")
_NAMED_FILES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class VerifiedDirectory:
    """What a verification established: these files, and no others, were signed by this publisher.

    `left_out` are the paths in the directory that the signature does not cover, and says so: anybody may have
    put there what they like.
    """

    publisher: Publisher
    sha256: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def sign_directory(directory: Path, signer: Signer, *, signature: Path) -> str:
    """The bundle (JSON) with `signer`'s signature over every file in `directory` but the one at `signature`.

    Raises `InvalidArtifact` for a directory without files, or with links or special files.
    """
    ignored = (*_inside(directory, signature), *_GIT_PATHS)
    statement = encode_statement(directory.resolve().name, _digests(directory, ignored), ignored)
    text = sign_statement(statement, signer)
    if len(text) > DIRECTORY_BUNDLE_BYTES_MAX:
        raise InvalidArtifact(f"{directory} has too many files for one signature")
    return text


def inspect_directory(directory: Path) -> tuple[str, int]:
    """The SHA-256 (hex) by which a signature made now would know `directory`, and its number of files.

    Raises as `sign_directory` does.
    """
    digests = _digests(directory, (SIGNATURE_NAME, *_GIT_PATHS))
    return root_digest(digests), len(digests)


def verify_directory(directory: Path, bundles: str, trust: Trust, *, signature: Path) -> VerifiedDirectory:
    """Who signed `directory`, once these steps have passed, 2 to 6 of them for any one of its signatures:

    1. There are one to eight bundles, and all read as canonical Sigstore bundles v0.3.
    2. The bundle holds an in-toto statement in a DSSE envelope with one signature.
    3. The trust policy names the signer, and neither denies it nor knows it as revoked.
    4. The signature is the signer's, over the envelope's type and payload: by the key; or by a certificate
       that Sigstore issued to the identity, as Sigstore's logs show, and at a time when it was valid.
    5. The statement lists files by SHA-256 and is consistent.
    6. The directory holds exactly those files, each with its digest.
    7. The trust policy denies none of them, and knows none as revoked.

    The file at `signature`, if inside the directory, is not looked at. Raises `UnsignedArtifact` (1),
    `InvalidBundle` (1, 2, 5), `UntrustedSigner` or `Revoked` (3, 7), `ExpiredSignature` (4),
    `InvalidSignature` (4, 6), which names the files, or `InvalidArtifact` (6) for a directory with links that
    was signed with them.
    """
    # Step 1
    read = read_bundles(bundles, bytes_max=DIRECTORY_BUNDLE_BYTES_MAX)
    # Steps 2 to 6
    publisher, listed = first_that_passes(
        read, lambda bundle: _signer_of(bundle, directory, trust, signature=signature)
    )
    # Step 7
    for name in listed.files:
        trust.refuse_denied(add_file(directory / name, put=None))
    left_out = _present(directory, listed.ignored, but=_inside(directory, signature))
    return VerifiedDirectory(publisher, listed.sha256, tuple(listed.files), left_out)


def _signer_of(
    bundle: Bundle, directory: Path, trust: Trust, *, signature: Path
) -> tuple[Publisher, FileList]:
    # Step 2
    payload, _ = envelope_of(bundle)
    # Step 3
    publisher = trusted_publisher(bundle, trust)
    # Step 4
    check_envelope(bundle, publisher, trust)
    # Step 5
    listed = decode_statement(payload)
    # Step 6
    _compare(directory, listed, signature)
    return publisher, listed


def _digests(directory: Path, ignored: Sequence[str]) -> dict[str, str]:
    digests = {name: _sha256(directory / name) for name in _files(directory, ignored)}
    if not digests:
        raise InvalidArtifact(f"there are no files in {directory}")
    return digests


def _compare(directory: Path, listed: FileList, signature: Path) -> None:
    try:
        present = set(_files(directory, (*listed.ignored, *_inside(directory, signature))))
    except InvalidArtifact as error:
        if listed.allows_links:
            raise InvalidArtifact(
                f"{error.detail}. Its signature allows links, but Tradepost does not follow links",
                hint="Replace each link by the file that it points to.",
            ) from None
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


def _present(directory: Path, paths: Sequence[str], *, but: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if path not in but and os.path.lexists(directory / path))


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
        raise InvalidArtifact(f"{name!r} is not a UTF-8 name, so it cannot be in a statement") from None
    return name


def _inside(directory: Path, path: Path) -> tuple[str, ...]:
    relative = Path(os.path.relpath(path.resolve(), directory.resolve()))
    return () if ".." in relative.parts else (relative.as_posix(),)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
