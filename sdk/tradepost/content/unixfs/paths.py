"""Paths below a CID, `CID/a/b`: through directories, sharded or not, and through links in DAG-CBOR blocks."""

from __future__ import annotations

from typing import Final

from tradepost.content.ipld.cids import Cid, codec_of, parse_cid
from tradepost.content.ipld.dag_cbor_links import scan_links
from tradepost.content.unixfs.directories import find_entry
from tradepost.content.unixfs.files import Get
from tradepost.content.unixfs.nodes import DirectoryNode, ShardNode, decode_unixfs
from tradepost.errors import UnknownPath

_SEGMENTS_MAX: Final = 256


def split_path(text: str) -> tuple[Cid, tuple[str, ...]]:
    """The CID and the names in `CID/a/b`, also with `/ipfs/` or `ipfs://` before it; empty names are dropped.

    Raises `InvalidCid`, or `UnknownPath` for `.` and `..`, which are the name of nothing.
    """
    for prefix in ("/ipfs/", "ipfs://"):
        text = text.removeprefix(prefix)
    root, *names = text.split("/")
    segments = tuple(name for name in names if name)
    if len(segments) > _SEGMENTS_MAX or "." in segments or ".." in segments:
        raise UnknownPath(
            f"{'/'.join(segments)[:200]!r} is not a valid path: it is too long, or contains . or .."
        )
    return parse_cid(root), segments


def split_path_argument(text: str) -> tuple[Cid, tuple[str, ...]]:
    """`split_path` for what a person passed: blanks around it are dropped, as around a key or a URL.

    At the end of a name only the end of a line is dropped, since names may end with blanks.
    """
    text = text.lstrip().rstrip("\r\n")
    has_names = "/" in text.removeprefix("/ipfs/").removeprefix("ipfs://")
    return split_path(text if has_names else text.rstrip())


async def resolve(root: Cid, segments: tuple[str, ...], get: Get) -> Cid:
    """The CID at the end of a path, of which `get` returns verified blocks. Raises `UnknownPath`.

    The blocks that `get` was asked for are those that prove the path; the last one is not among them.
    """
    cid, left = root, segments
    while left:
        found = await _step(cid, left, get)
        if found is None:
            raise UnknownPath(
                f"{root} has no {'/'.join(segments)[:200]!r}: the entry {left[0][:80]!r} does not exist"
            )
        cid, left = found
    return cid


async def _step(cid: Cid, left: tuple[str, ...], get: Get) -> tuple[Cid, tuple[str, ...]] | None:
    codec = codec_of(cid)
    if codec == "dag-cbor":
        links = scan_links(await get(cid))
        return next(((link, left[len(path) :]) for path, link in links if left[: len(path)] == path), None)
    node = decode_unixfs(await get(cid)) if codec == "dag-pb" else None
    if not isinstance(node, DirectoryNode | ShardNode):
        return None
    entry = await find_entry(node, left[0], get)
    return None if entry is None else (entry, left[1:])
