"""Writes a file or a directory tree to disk, from untrusted blocks.

A tree is a list of names, and each name is an attempt to write somewhere. So the tree is built beside its
destination and moved there when it is whole; a name is one plain path component; and a symbolic link leads
down from a directory of the tree: `..` may only begin its target, and never climbs above the root. Each
directory on the way is then a real one, made here, so that no chain of links leaves the tree either.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tradepost.content.ipld.cids import Cid, codec_of
from tradepost.content.unixfs.directories import list_directory
from tradepost.content.unixfs.files import Get, OnBytes, stream_file
from tradepost.content.unixfs.nodes import FileNode, SymlinkNode, decode_unixfs
from tradepost.errors import ContentTooLarge, InvalidDag, UnreadableContent, UnsafeName

ENTRIES_MAX: Final = 1 << 17
_NAME_BYTES_MAX: Final = 255
_DEPTH_MAX: Final = 256


@dataclass(slots=True)
class Extracted:
    """The files that were written."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0


def check_name(name: str) -> None:
    """Raise `UnsafeName` unless a directory entry's name is one plain path component."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UnsafeName(f"the name {name[:80]!r}")
    if len(os.fsencode(name)) > _NAME_BYTES_MAX:
        raise UnsafeName(f"a name of {len(os.fsencode(name)):,} bytes, {name[:80]!r}…")


def check_symlink(target: str, depth: int) -> None:
    """Raise `UnsafeName` unless a link `depth` directories below the root stays in the tree."""
    parts = target.split("/")
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if not target or target.startswith("/") or "\0" in target or up > depth or ".." in parts[up:]:
        raise UnsafeName(f"a symbolic link to {target[:80]!r}, which may lead out of the tree")


async def extract(
    cid: Cid,
    get: Get,
    destination: Path,
    *,
    bytes_max: int,
    entries_max: int = ENTRIES_MAX,
    on_bytes: OnBytes | None = None,
) -> Extracted:
    """Write the file, directory or block at `cid` to `destination`, which must not exist yet.

    Raises `UnsafeName`, `ContentTooLarge` beyond `bytes_max` or `entries_max`, `InvalidDag`, and
    `UnreadableContent` where the disk refuses; then nothing is left behind.
    """
    writer = _Writer(get, bytes_max=bytes_max, entries_max=entries_max, on_bytes=on_bytes)
    try:
        _refuse_existing(destination)
        aside = Path(tempfile.mkdtemp(prefix=f".{destination.name[:100]}-", dir=destination.parent))
        try:
            await writer.write(cid, aside / "content")
            _move(aside / "content", destination)
        finally:
            shutil.rmtree(aside)
    except FileExistsError:
        raise UnreadableContent(
            f"{destination} already exists", hint="Name a path that does not exist."
        ) from None
    except OSError as error:
        raise UnreadableContent(str(error)) from None
    return writer.done


def _refuse_existing(destination: Path) -> None:
    """Tell before anything is fetched. What holds is `_move`."""
    if os.path.lexists(destination):
        raise FileExistsError(destination)


def _move(content: Path, destination: Path) -> None:
    """Give a file or a directory its name. Raises `FileExistsError` if the name is taken by then.

    `rename` replaces a file, or an empty directory. So the name is taken first, by what may be replaced.
    """
    if content.is_dir():
        destination.mkdir()
    else:
        destination.touch(exist_ok=False)
    content.rename(destination)


class _Writer:
    def __init__(self, get: Get, *, bytes_max: int, entries_max: int, on_bytes: OnBytes | None) -> None:
        self.done = Extracted()
        self._get = get
        self._bytes_max = bytes_max
        self._entries_left = entries_max
        self._on_bytes = on_bytes

    async def write(self, root: Cid, top: Path) -> None:
        to_write: list[tuple[Cid, Path, int]] = [(root, top, 0)]
        while to_write:
            cid, path, depth = to_write.pop()
            if depth > _DEPTH_MAX:
                raise InvalidDag(f"a tree of more than {_DEPTH_MAX:,} levels")
            node = decode_unixfs(await self._get(cid)) if codec_of(cid) == "dag-pb" else None
            if node is None or isinstance(node, FileNode):
                await self._file(cid, path)
            elif isinstance(node, SymlinkNode):
                # A link lies in the directory above it; one that is the root itself lies in none.
                check_symlink(node.target, depth - 1)
                os.symlink(node.target, path)
                self.done.symlinks += 1
            else:
                to_write += [(child, path / name, depth + 1) for name, child in await self._directory(cid)]
                path.mkdir()
                self.done.directories += 1

    async def _directory(self, cid: Cid) -> list[tuple[str, Cid]]:
        entries: list[tuple[str, Cid]] = []
        async with aclosing(list_directory(cid, self._get)) as listing:
            async for entry in listing:
                check_name(entry.name)
                self._entries_left -= 1
                if self._entries_left < 0:
                    raise ContentTooLarge("a tree with more entries than the limit")
                entries.append((entry.name, entry.cid))
        return entries

    async def _file(self, cid: Cid, path: Path) -> None:
        left = self._bytes_max - self.done.bytes
        with path.open("xb") as file:
            async with aclosing(stream_file(cid, self._get, bytes_max=left)) as parts:
                async for part in parts:
                    file.write(part)
                    self.done.bytes += len(part)
                    if self._on_bytes is not None:
                        self._on_bytes(len(part))
        self.done.files += 1
