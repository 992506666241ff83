"""CAR version 1: a list of roots, then blocks, each with its CID. (Spec: ipld.io/specs/transport/car/carv1.)

    CAR     = varint length, header, section…
    header  = DAG-CBOR {"roots": [CID…], "version": 1}
    section = varint length, CID, block

Reading is incremental: bytes are fed as they come, and blocks come out, each hashed. What is buffered is one
section at most, and a length is checked before it is waited for. Blocks may repeat, as the format allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from tradepost.content.ipld.cids import BLOCK_BYTES_MAX, Cid, cid_from_bytes, cid_to_bytes, verify_block
from tradepost.content.ipld.dag_cbor_links import scan_links
from tradepost.content.ipld.dag_pb import encode_varint, read_varint
from tradepost.errors import ContentTooLarge, InvalidCar, InvalidDag

HEADER_BYTES_MAX: Final = 64 << 10
_CID_BYTES: Final = 36
_VARINT_BYTES_MAX: Final = 9
_READ_BYTES: Final = 1 << 20


def encode_header(roots: Sequence[Cid]) -> bytes:
    """The beginning of a CAR with these roots."""
    count = len(roots)
    head = bytes((0x80 | count,)) if count < 24 else b"\x99" + count.to_bytes(2, "big")
    if 24 <= count < 256:
        head = bytes((0x98, count))
    links = b"".join(b"\xd8\x2a\x58\x25\x00" + cid_to_bytes(root) for root in roots)
    header = b"\xa2\x65roots" + head + links + b"\x67version\x01"
    return encode_varint(len(header)) + header


def encode_section(cid: Cid, block: bytes) -> bytes:
    """One block of a CAR."""
    return encode_varint(_CID_BYTES + len(block)) + cid_to_bytes(cid) + block


def car_bytes(roots: Sequence[Cid], block_bytes: Iterable[int]) -> int:
    """The size of a CAR with these roots, and blocks of these sizes."""
    lengths = (_CID_BYTES + size for size in block_bytes)
    return len(encode_header(roots)) + sum(len(encode_varint(length)) + length for length in lengths)


class CarDecoder:
    """Parses the bytes of a CAR in chunks of any size and returns its blocks.

    `source` is who is named when a block has another hash. Raises `InvalidCar`, `InvalidCid` for a CID that
    is not accepted here (an identity hash, another hash function), `ContentMismatch`, and `ContentTooLarge`
    beyond `bytes_max` bytes in all.
    """

    def __init__(self, *, bytes_max: int, source: str = "the CAR") -> None:
        self.roots: tuple[Cid, ...] | None = None
        self._bytes_left = bytes_max
        self._source = source
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Cid, bytes]]:
        """Take the next bytes; the blocks that they complete."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ContentTooLarge(f"{self._source} is larger than the allowed size")
        self._buffer += data
        blocks: list[tuple[Cid, bytes]] = []
        position = 0
        while (span := self._next(position)) is not None:
            position = span.stop
            if self.roots is None:
                self.roots = _decode_header(bytes(self._buffer[span.start : span.stop]))
            else:
                blocks.append(self._block(span))
        del self._buffer[:position]
        return blocks

    def finish(self) -> None:
        """Raise `InvalidCar` if the CAR ended too early."""
        if self.roots is None or self._buffer:
            raise InvalidCar(f"{self._source} is truncated")

    def _next(self, position: int) -> range | None:
        """Where the next header or section lies in the buffer; `None` until it is all here."""
        try:
            length, start = read_varint(self._buffer, position)
        except IndexError:
            if len(self._buffer) - position > _VARINT_BYTES_MAX:
                raise InvalidCar(f"{self._source} has a length field that is too long") from None
            return None
        except ValueError as error:
            raise InvalidCar(f"{self._source} has {error}") from None
        limit = HEADER_BYTES_MAX if self.roots is None else _CID_BYTES + BLOCK_BYTES_MAX
        if length == 0:
            raise InvalidCar(f"{self._source} has an empty section")
        if length > limit:
            raise InvalidCar(
                f"{self._source} announces a section of {length:,} bytes; the limit is {limit:,}"
            )
        return range(start, start + length) if start + length <= len(self._buffer) else None

    def _block(self, section: range) -> tuple[Cid, bytes]:
        with memoryview(self._buffer)[section.start : section.stop] as view:
            cid = cid_from_bytes(bytes(view[:_CID_BYTES]))
            block = bytes(view[_CID_BYTES:])
        verify_block(cid, block, source=self._source)
        return cid, block


class CarReader:
    """The blocks of a CAR in a stream, and its `roots`. Raises as `CarDecoder`."""

    def __init__(self, stream: BinaryIO, *, bytes_max: int, source: str = "the CAR") -> None:
        self._stream = stream
        self._decoder = CarDecoder(bytes_max=bytes_max, source=source)
        self._first: list[tuple[Cid, bytes]] = []
        while self._decoder.roots is None:
            data = stream.read(_READ_BYTES)
            if not data:
                raise InvalidCar(f"{source} is truncated in its header")
            self._first = self._decoder.feed(data)
        self.roots = self._decoder.roots

    def __iter__(self) -> Iterator[tuple[Cid, bytes]]:
        yield from self._first
        while data := self._stream.read(_READ_BYTES):
            yield from self._decoder.feed(data)
        self._decoder.finish()


@dataclass(frozen=True, slots=True)
class Imported:
    """The content of a CAR: its roots, and the number of blocks and bytes, repeated ones included."""

    roots: tuple[Cid, ...]
    blocks: int
    bytes: int


def import_car(stream: BinaryIO, *, put: Callable[[Cid, bytes], None], bytes_max: int) -> Imported:
    """Give each block of a CAR to `put`. Raises as `CarDecoder`, and what `put` raises.

    The blocks that came before the error stay: each of them is what its CID says.
    """
    reader = CarReader(stream, bytes_max=bytes_max)
    blocks = total = 0
    for cid, block in reader:
        put(cid, block)
        blocks += 1
        total += len(block)
    return Imported(reader.roots, blocks, total)


def _decode_header(header: bytes) -> tuple[Cid, ...]:
    try:
        roots = tuple(cid for _, cid in scan_links(header))
    except InvalidDag as error:
        hint = None if error.hint == InvalidDag.default_hint else error.hint
        raise InvalidCar(f"a header that cannot be read: {error.detail}", hint=hint) from None
    # There is one encoding of a header: whatever else it says, or in whatever other way, shows here.
    if encode_header(roots) != encode_varint(len(header)) + header:
        raise InvalidCar("a header that is not {roots, version: 1}")
    return roots
