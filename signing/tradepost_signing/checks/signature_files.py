"""The files of signatures: one file for each, as other tools expect.

The first signature over `FILE` is `FILE.sigstore.json`, and over `DIRECTORY` it is `model.sig` in it. A
further one has the first letters of its signer's id in its name, and is kept beside the directory, not in
it: what the first one covers must not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tradepost.atomic_files import READABLE_BY_ALL, replace_file
from tradepost.errors import InvalidArtifact, InvalidBundle, UnsignedArtifact
from tradepost.file_writing import check_folder, writing
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX, BUNDLE_SUFFIX, bundle_path, join_bundles
from tradepost_signing.checks.signature_directory import DIRECTORY_BUNDLE_BYTES_MAX, SIGNATURE_NAME

_ID_CHARS: Final = 8


def first_path(path: Path) -> Path:
    """Where the first signature over the file or directory at `path` is kept."""
    return path / SIGNATURE_NAME if path.is_dir() else bundle_path(path)


def further_path(path: Path, signer_id: str) -> Path:
    """Where a further signature over `path` is kept, by the signer with this id."""
    path = _named(path)
    return path.with_name(f"{path.name}.{signer_id[:_ID_CHARS]}{_further_suffix(path)}")


def signature_paths(path: Path) -> list[Path]:
    """The files with signatures over `path` that are there, the first one first."""
    first = first_path(path)
    return [*([first] if first.exists() else []), *sorted(_further(_named(path)))]


def read_signatures(paths: Iterable[Path], *, bytes_max: int) -> str:
    """The bundles in the files at `paths`, as one text.

    Raises `UnsignedArtifact` if there are no files, and `InvalidBundle`.
    """
    texts = [_read(path, bytes_max) for path in paths]
    if not texts:
        raise UnsignedArtifact(
            "there is no signature file beside it", hint="Create one with `tradepost sign`."
        )
    return join_bundles(texts)


def write_signature(path: Path, bundles: str) -> None:
    """Write a signature to the file at `path`, which holds the one before it until the new one is whole.

    Raises `FileNotWritten`, and `InvalidArtifact` for a link: one in a stranger's folder may lead to a file
    of the signer's.
    """
    if path.is_symlink():
        raise InvalidArtifact(f"{path} is a link; signatures are not written through links")
    with writing(path):
        check_folder(path)
        replace_file(path, bundles.encode(), mode=READABLE_BY_ALL)


def bundle_bytes_max(path: Path) -> int:
    """How large the signatures over `path` may be together."""
    return DIRECTORY_BUNDLE_BYTES_MAX if path.is_dir() else BUNDLE_BYTES_MAX


def _further(path: Path) -> Iterator[Path]:
    name = re.compile(rf"{re.escape(path.name)}\.[a-z2-7]{{{_ID_CHARS}}}{re.escape(_further_suffix(path))}")
    for other in path.parent.iterdir():
        if name.fullmatch(other.name):
            yield other


def _named(path: Path) -> Path:
    return path if path.name not in ("", "..") else path.resolve()


def _further_suffix(path: Path) -> str:
    return ".sig" if path.is_dir() else BUNDLE_SUFFIX


def _read(path: Path, bytes_max: int) -> str:
    if not path.exists():
        raise UnsignedArtifact(f"there is no {path}", hint="Create one with `tradepost sign`.")
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise InvalidBundle(f"{path}: more than {bytes_max:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidBundle(f"{path}: {error}") from None
