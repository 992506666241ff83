"""The two protobuf messages of IPFS files: the dag-pb node and the UnixFS data inside it.

Only what files need, written and read in the canonical form (links before data, no unknown fields), so
that a node has one encoding. Specs: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tradepost.content.cids import Cid, cid_from_bytes, cid_to_bytes
from tradepost.errors import ContentMismatch

_FILE = 2


@dataclass(frozen=True, slots=True)
class Link:
    """A child of a file node: its CID, the bytes of its whole subtree as stored, and the file bytes in it."""

    cid: Cid
    tree_bytes: int
    file_bytes: int


def encode_file_node(links: list[Link]) -> bytes:
    """The dag-pb block of a file's inner node with these children, in order."""
    out = bytearray()
    for link in links:
        # Name is written although empty, as Kubo does.
        body = (
            _bytes_field(1, cid_to_bytes(link.cid)) + _bytes_field(2, b"") + _varint_field(3, link.tree_bytes)
        )
        out += _bytes_field(2, body)
    data = _varint_field(1, _FILE) + _varint_field(3, sum(link.file_bytes for link in links))
    for link in links:
        data += _varint_field(4, link.file_bytes)
    return bytes(out + _bytes_field(1, data))


def decode_file_node(block: bytes) -> list[Link]:
    """The children of a file's inner node. Raises `ContentMismatch` for any other node or encoding."""
    try:
        links: list[tuple[Cid, int]] = []
        sizes: list[int] = []
        total = kind = -1
        for number, value in _fields(block):
            if number == 2 and isinstance(value, bytes):
                link = dict(_fields(value))
                cid, tree_bytes = link[1], link[3]
                if not isinstance(cid, bytes) or not isinstance(tree_bytes, int) or link.get(2, b"") != b"":
                    raise ValueError("a link of another kind")
                links.append((cid_from_bytes(cid), tree_bytes))
            elif number == 1 and isinstance(value, bytes):
                for inner, item in _fields(value):
                    if not isinstance(item, int):
                        raise ValueError("inline data beside links")
                    if inner == 1:
                        kind = item
                    elif inner == 3:
                        total = item
                    elif inner == 4:
                        sizes.append(item)
        if kind != _FILE or len(sizes) != len(links) or not links or sum(sizes) != total:
            raise ValueError("not a file node whose sizes add up")
    except (ValueError, KeyError, IndexError) as error:
        raise ContentMismatch(f"a dag-pb block that is no UnixFS file: {error}") from None
    return [Link(cid, tree, size) for (cid, tree), size in zip(links, sizes, strict=True)]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(number: int, value: int) -> bytes:
    return bytes((number << 3,)) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if key & 7 == 2:
            if value > len(data) - position:
                raise ValueError("a length beyond the end")
            yield key >> 3, data[position : position + value]
            position += value
        elif key & 7 == 0:
            yield key >> 3, value
        else:
            raise ValueError(f"wire type {key & 7}")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint over 64 bits")
