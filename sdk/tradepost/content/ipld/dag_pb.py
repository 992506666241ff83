"""The dag-pb node: named links beside opaque data, in protobuf. (Spec: ipld.io/specs/codecs/dag-pb.)

    message PBLink { optional bytes Hash = 1; optional string Name = 2; optional uint64 Tsize = 3; }
    message PBNode { repeated PBLink Links = 2; optional bytes Data = 1; }

Written as Kubo writes it: links before data, every field of a link present. Read strictly: fields of a link
in order and at most once, no unknown field, shortest varints. Names are UTF-8; other bytes, which Kubo lets
through, survive as surrogate escapes, as they do in `os.fsdecode`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tradepost.content.ipld.cids import Cid, cid_from_bytes, cid_to_bytes
from tradepost.errors import InvalidCid, InvalidDag

_VARINT, _BYTES = 0, 2
_HASH, _NAME, _TSIZE = 1, 2, 3
_DATA, _LINKS = 1, 2


@dataclass(frozen=True, slots=True)
class PbLink:
    """A child: its CID, the name it has here, and the bytes of its whole subtree as stored (`Tsize`)."""

    cid: Cid
    name: str
    tree_bytes: int


@dataclass(frozen=True, slots=True)
class PbNode:
    """A node: its links in order and its data."""

    links: tuple[PbLink, ...]
    data: bytes

    def tree_bytes(self, block_bytes: int) -> int:
        """The bytes of this node's whole subtree, its own block of `block_bytes` included."""
        return block_bytes + sum(link.tree_bytes for link in self.links)


def name_bytes(name: str) -> bytes:
    """A link's name as it is encoded, hashed and ordered."""
    return name.encode("utf-8", "surrogateescape")


def encode_node(links: Iterable[PbLink], data: bytes) -> bytes:
    """The block of a node. The caller orders the links."""
    out = bytearray()
    for link in links:
        out += bytes_field(
            _LINKS,
            bytes_field(_HASH, cid_to_bytes(link.cid))
            + bytes_field(_NAME, name_bytes(link.name))
            + varint_field(_TSIZE, link.tree_bytes),
        )
    return bytes(out + bytes_field(_DATA, data))


def decode_node(block: bytes) -> PbNode:
    """The node in a block. Raises `InvalidDag` for any other bytes."""
    try:
        return _decode_node(block)
    except InvalidCid as error:
        raise InvalidDag(f"a link that is not accepted: {error.detail}", hint=error.hint) from None
    except (ValueError, IndexError) as error:
        raise InvalidDag(f"a block that is not a dag-pb node: {error}") from None


def _decode_node(block: bytes) -> PbNode:
    links: list[PbLink] = []
    data: bytes | None = None
    links_end = False
    for number, value in fields(block):
        if not isinstance(value, bytes):
            raise ValueError("a number in a node")
        if number == _LINKS and not links_end:
            links.append(_decode_link(value))
        elif number == _DATA and data is None:
            data = value
            links_end = bool(links)  # the two may come in either order, but not interleaved
        else:
            raise ValueError(f"field {number} twice, or unknown")
    return PbNode(tuple(links), data or b"")


def _decode_link(body: bytes) -> PbLink:
    cid: Cid | None = None
    name, tree_bytes, last = "", 0, 0
    for number, value in fields(body):
        if number <= last:
            raise ValueError("fields of a link out of order")
        last = number
        if number == _HASH and isinstance(value, bytes):
            cid = cid_from_bytes(value)
        elif number == _NAME and isinstance(value, bytes):
            name = value.decode("utf-8", "surrogateescape")
        elif number == _TSIZE and isinstance(value, int):
            tree_bytes = value
        else:
            raise ValueError(f"field {number} in a link")
    if cid is None:
        raise ValueError("a link to nothing")
    return PbLink(cid, name, tree_bytes)


def bytes_field(number: int, value: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return bytes((number << 3 | _BYTES,)) + encode_varint(len(value)) + value


def varint_field(number: int, value: int) -> bytes:
    """A protobuf field that holds an unsigned integer."""
    return bytes((number << 3 | _VARINT,)) + encode_varint(value)


def encode_varint(value: int) -> bytes:
    """An unsigned integer, 7 bits a byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number and value. Raises `ValueError` or `IndexError`."""
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        value, position = read_varint(data, position)
        if key & 7 == _BYTES:
            if value > len(data) - position:
                raise ValueError("a length beyond the end")
            yield key >> 3, data[position : position + value]
            position += value
        elif key & 7 == _VARINT:
            yield key >> 3, value
        else:
            raise ValueError(f"wire type {key & 7}")


def read_varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    """The integer at `position`, and where it ends.

    Raises `ValueError` if it has over 63 bits or a shorter form, `IndexError` if the data end within it.
    """
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            if byte == 0 and shift:
                raise ValueError("a varint that is not the shortest")
            return value, position
        shift += 7
        if shift > 56:
            raise ValueError("a varint over 63 bits")
