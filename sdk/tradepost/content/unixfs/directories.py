"""Directory trees in IPFS's format: `add_path` gives the CID of `ipfs add -r --cid-version=1`.

The import profile is Kubo's default: hidden entries of a directory are left out unless asked for (`-H`),
empty directories are kept, symbolic links are stored as links and never followed, modes and times are not
stored. A directory is one block until names and CIDs together exceed `SHARDING_BYTES`; then it is sharded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tradepost.content.ipld.cids import Cid, cid_of_block, cid_to_bytes, codec_of
from tradepost.content.ipld.dag_pb import PbLink, name_bytes
from tradepost.content.unixfs.files import Get, OnBytes, Put, link_stream
from tradepost.content.unixfs.hamt import add_sharded, find_in_shards, list_shards
from tradepost.content.unixfs.nodes import (
    DirectoryNode,
    ShardNode,
    decode_unixfs,
    encode_directory,
    encode_symlink,
)
from tradepost.errors import InvalidDag, UnknownPath, UnreadableContent

#: A directory whose entries' names and binary CIDs together have more bytes than this is sharded.
SHARDING_BYTES: Final = 256 << 10
#: Entries of one directory that are listed; a directory of more is refused.
ENTRIES_MAX: Final = 1 << 20
#: Bytes of the names of one directory that are listed: a reader that lists it may have to remember them.
NAMES_BYTES_MAX: Final = 64 << 20


def add_path(path: Path, *, put: Put | None, hidden: bool = False, on_bytes: OnBytes | None = None) -> Cid:
    """The CID of the file, directory or symbolic link at `path`; each block goes to `put`, children first.

    `hidden` includes the entries whose names begin with a dot. Raises `UnreadableContent` for what cannot be
    read and for anything that is no file, directory or link.
    """
    try:
        return _add_path(str(path), put, hidden, on_bytes).cid
    except OSError as error:
        raise UnreadableContent(str(error)) from None


@dataclass(slots=True)
class _Open:
    """A directory being added: its remaining entries, and the entries that are done."""

    name: str
    path: str
    names: list[str]
    entries: list[PbLink] = field(default_factory=list)


def _add_path(path: str, put: Put | None, hidden: bool, on_bytes: OnBytes | None) -> PbLink:
    # A stack instead of recursion: how deep a tree may be is the file system's to say.
    top = _Open("", path, [])
    is_open = [top]
    name, here = "", path
    while True:
        mode = os.lstat(here).st_mode
        if stat.S_ISDIR(mode):
            names = [entry for entry in os.listdir(here) if hidden or not entry.startswith(".")]
            is_open.append(_Open(name, here, names))
        else:
            is_open[-1].entries.append(_add_leaf(name, here, mode, put, on_bytes))
        while not is_open[-1].names:
            done = is_open.pop()
            if done is top:
                return done.entries[0]
            is_open[-1].entries.append(_add_directory(done, put))
        name = is_open[-1].names.pop()
        here = os.path.join(is_open[-1].path, name)


def _add_leaf(name: str, path: str, mode: int, put: Put | None, on_bytes: OnBytes | None) -> PbLink:
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            link = link_stream(file, put=put, on_bytes=on_bytes)
        return PbLink(link.cid, name, link.tree_bytes)
    if stat.S_ISLNK(mode):
        return _keep(name, encode_symlink(os.readlink(path)), 0, put)
    raise UnreadableContent(
        f"{path} is neither a file nor a directory nor a symbolic link", hint="Remove it from the directory."
    )


def _add_directory(directory: _Open, put: Put | None) -> PbLink:
    estimate = sum(len(name_bytes(link.name)) + len(cid_to_bytes(link.cid)) for link in directory.entries)
    if estimate > SHARDING_BYTES:
        root = add_sharded(directory.entries, put=put)
        return PbLink(root.cid, directory.name, root.tree_bytes)
    below = sum(link.tree_bytes for link in directory.entries)
    return _keep(directory.name, encode_directory(directory.entries), below, put)


def _keep(name: str, block: bytes, bytes_below: int, put: Put | None) -> PbLink:
    cid = cid_of_block(block, "dag-pb")
    if put is not None:
        put(cid, block)
    return PbLink(cid, name, len(block) + bytes_below)


async def list_directory(cid: Cid, get: Get) -> AsyncGenerator[PbLink, None]:
    """The entries of the directory at `cid`, sharded or not, of which `get` returns verified blocks.

    Raises `UnknownPath` where there is no directory, `InvalidDag` for a directory that contradicts itself or
    has more than `ENTRIES_MAX` entries or `NAMES_BYTES_MAX` of names.
    """
    node = decode_unixfs(await get(cid)) if codec_of(cid) == "dag-pb" else None
    if isinstance(node, DirectoryNode):
        for entry in node.entries:
            yield entry
    elif isinstance(node, ShardNode):
        entries_left, bytes_left = ENTRIES_MAX, NAMES_BYTES_MAX
        async for entry in list_shards(node, get):
            entries_left -= 1
            bytes_left -= len(name_bytes(entry.name))
            if entries_left < 0 or bytes_left < 0:
                raise InvalidDag(
                    f"a directory of more than {ENTRIES_MAX:,} entries or {NAMES_BYTES_MAX:,} bytes of names"
                )
            yield entry
    else:
        raise UnknownPath(f"{cid} is not a directory")


async def find_entry(node: DirectoryNode | ShardNode, name: str, get: Get) -> Cid | None:
    """The CID of a directory's entry, or `None`."""
    if isinstance(node, ShardNode):
        return await find_in_shards(node, name, get)
    return next((entry.cid for entry in node.entries if entry.name == name), None)
