"""UnixFS: the meaning of the data in a dag-pb node. (Spec: specs.ipfs.tech/unixfs.)

    message Data { required DataType Type = 1; optional bytes Data = 2; optional uint64 filesize = 3;
                   repeated uint64 blocksizes = 4; optional uint64 hashType = 5; optional uint64 fanout = 6;
                   optional uint32 mode = 7; optional UnixTime mtime = 8; }

Four kinds of node are in use: files, directories, shards of large directories, and symbolic links. What a
node says must agree with its links, so that nothing behind it has to be believed. Modes and times, which an
import by the default profile never has, are skipped when read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tradepost.content.ipld.cids import Cid
from tradepost.content.ipld.dag_pb import (
    PbLink,
    PbNode,
    bytes_field,
    decode_node,
    encode_node,
    fields,
    name_bytes,
    varint_field,
)
from tradepost.errors import InvalidDag

_RAW, _DIRECTORY, _FILE, _SYMLINK, _SHARD = 0, 1, 2, 4, 5
_TYPE, _DATA, _FILE_BYTES, _BLOCK_BYTES, _HASH_TYPE, _FANOUT, _MODE, _MTIME = range(1, 9)
_MURMUR3_X64_64: Final = 0x22
_TARGET_BYTES_MAX: Final = 4096

#: Children of a shard: one for each value of a byte of the hash, as Kubo has it.
FANOUT: Final = 256


@dataclass(frozen=True, slots=True)
class Link:
    """A child of a file node: its CID, the bytes of its whole subtree as stored, and the file bytes in it."""

    cid: Cid
    tree_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file or a part of one: its own bytes, then those of its children in order."""

    data: bytes
    links: tuple[Link, ...]

    @property
    def file_bytes(self) -> int:
        """The size of the content that this node declares."""
        return len(self.data) + sum(link.file_bytes for link in self.links)


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A directory in one block: its entries, all names different."""

    entries: tuple[PbLink, ...]


@dataclass(frozen=True, slots=True)
class ShardNode:
    """A part of a large directory: by slot, an entry (with its name) or a further shard (without one)."""

    children: dict[int, PbLink]


@dataclass(frozen=True, slots=True)
class SymlinkNode:
    """A symbolic link to a path."""

    target: str


UnixFsNode = FileNode | DirectoryNode | ShardNode | SymlinkNode


def encode_file_node(links: list[Link]) -> bytes:
    """The block of a file's inner node with these children, in order."""
    data = varint_field(_TYPE, _FILE) + varint_field(_FILE_BYTES, sum(link.file_bytes for link in links))
    for link in links:
        data += varint_field(_BLOCK_BYTES, link.file_bytes)
    return encode_node((PbLink(link.cid, "", link.tree_bytes) for link in links), data)


def encode_directory(entries: Iterable[PbLink]) -> bytes:
    """The block of a directory with these entries, in the order of their names' bytes."""
    return encode_node(sorted(entries, key=lambda link: name_bytes(link.name)), _EMPTY_DIRECTORY)


def encode_symlink(target: str) -> bytes:
    """The block of a symbolic link."""
    return encode_node((), varint_field(_TYPE, _SYMLINK) + bytes_field(_DATA, name_bytes(target)))


def encode_shard(children: dict[int, PbLink]) -> bytes:
    """The block of a shard with these children by slot. Their names lack the slot, which is added here."""
    bits = sum(1 << slot for slot in children)
    data = (
        varint_field(_TYPE, _SHARD)
        + bytes_field(_DATA, bits.to_bytes((bits.bit_length() + 7) // 8, "big"))
        + varint_field(_HASH_TYPE, _MURMUR3_X64_64)
        + varint_field(_FANOUT, FANOUT)
    )
    named = (
        PbLink(link.cid, f"{slot:02X}{link.name}", link.tree_bytes) for slot, link in sorted(children.items())
    )
    return encode_node(named, data)


def decode_unixfs(block: bytes) -> UnixFsNode:
    """The node in a dag-pb block. Raises `InvalidDag` for what is no UnixFS node or contradicts itself."""
    node = decode_node(block)
    try:
        message = _decode_data(node.data)
        if message.kind in (_FILE, _RAW):
            return _file(node, message)
        if message.kind == _DIRECTORY:
            return _directory(node, message)
        if message.kind == _SHARD:
            return _shard(node, message)
        if message.kind == _SYMLINK:
            return _symlink(node, message)
        raise ValueError(f"type {message.kind}")
    except (ValueError, IndexError) as error:
        raise InvalidDag(f"a dag-pb block that is not a UnixFS node: {error}") from None


def decode_file_node(block: bytes) -> list[Link]:
    """The children of a file's inner node. Raises `InvalidDag` for any other node."""
    node = decode_unixfs(block)
    if not isinstance(node, FileNode) or node.data or not node.links:
        raise InvalidDag("a dag-pb block that is not an inner node of a UnixFS file")
    return list(node.links)


@dataclass(slots=True)
class _Message:
    kind: int
    data: bytes
    file_bytes: int | None
    block_bytes: list[int]
    hash_type: int | None
    fanout: int | None


def _decode_data(data: bytes) -> _Message:
    message = _Message(-1, b"", None, [], None, None)
    seen: set[int] = set()
    for number, value in fields(data):
        if number in seen and number != _BLOCK_BYTES:
            raise ValueError(f"field {number} twice")
        seen.add(number)
        if number in (_DATA, _MTIME) and isinstance(value, bytes):
            message.data = value if number == _DATA else message.data
        elif not isinstance(value, int):
            raise ValueError(f"bytes in field {number}")
        elif number == _TYPE:
            message.kind = value
        elif number == _FILE_BYTES:
            message.file_bytes = value
        elif number == _BLOCK_BYTES:
            message.block_bytes.append(value)
        elif number == _HASH_TYPE:
            message.hash_type = value
        elif number == _FANOUT:
            message.fanout = value
        elif number != _MODE:
            raise ValueError(f"field {number}")
    return message


def _file(node: PbNode, message: _Message) -> FileNode:
    sizes: Sequence[int] = message.block_bytes
    if len(sizes) != len(node.links):
        raise ValueError("a file whose sizes do not match its links")
    # A child without content would let a few blocks stand for endless work.
    if 0 in sizes:
        raise ValueError("a file with a child that is empty")
    if any(link.name for link in node.links):
        raise ValueError("a file with named links")
    links = zip(node.links, sizes, strict=True)
    file = FileNode(message.data, tuple(Link(link.cid, link.tree_bytes, size) for link, size in links))
    if file.file_bytes != (message.file_bytes or 0):
        raise ValueError("a file whose sizes do not add up")
    return file


def _directory(node: PbNode, message: _Message) -> DirectoryNode:
    if message.data or message.file_bytes or message.block_bytes:
        raise ValueError("a directory with content")
    if len({link.name for link in node.links}) != len(node.links):
        raise ValueError("a directory with a duplicate name")
    return DirectoryNode(node.links)


def _shard(node: PbNode, message: _Message) -> ShardNode:
    if (message.hash_type, message.fanout) != (_MURMUR3_X64_64, FANOUT):
        raise ValueError(f"a shard with hash {message.hash_type} and fanout {message.fanout}")
    children: dict[int, PbLink] = {}
    for link in node.links:
        slot = link.name[:2]
        if len(slot) != 2 or any(c not in "0123456789ABCDEF" for c in slot) or int(slot, 16) in children:
            raise ValueError(f"a shard with the link {link.name[:80]!r}")
        children[int(slot, 16)] = PbLink(link.cid, link.name[2:], link.tree_bytes)
    if int.from_bytes(message.data, "big") != sum(1 << slot for slot in children):
        raise ValueError("a shard whose bit field does not match its links")
    return ShardNode(children)


def _symlink(node: PbNode, message: _Message) -> SymlinkNode:
    if node.links or not message.data or len(message.data) > _TARGET_BYTES_MAX or 0 in message.data:
        raise ValueError("a symbolic link to nowhere")
    return SymlinkNode(message.data.decode("utf-8", "surrogateescape"))


_EMPTY_DIRECTORY: Final = varint_field(_TYPE, _DIRECTORY)
