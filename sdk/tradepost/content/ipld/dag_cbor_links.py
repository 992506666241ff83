"""The links in a DAG-CBOR block, and where in it they are. (Spec: ipld.io/specs/codecs/dag-cbor.)

A walk over a stranger's blocks needs their links and nothing else, at a cost that the size of the block
bounds: the `dag-cbor` library spends a quarter of a millisecond on each link, so a block of 2 MiB would hold
a broker up for twelve seconds. Read strictly: shortest heads, sorted keys, tag 42 alone, finite numbers.
"""

from __future__ import annotations

import math
import struct
from typing import Final

from tradepost.content.ipld.cids import Cid, cid_from_bytes
from tradepost.errors import InvalidCid, InvalidDag

#: The way to a link from the top of its block: keys of maps and indexes of lists.
LinkPath = tuple[str, ...]

_DEPTH_MAX: Final = 64
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_LINK_TAG: Final = 42
_FALSE_TRUE_NULL: Final = (20, 21, 22)
#: Below its length marker, an argument would have had a shorter head.
_LEAST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


def scan_links(block: bytes) -> list[tuple[LinkPath, Cid]]:
    """Each link in a block with its path, in order. Raises `InvalidDag` for what is no DAG-CBOR block."""
    scanner = _Scanner(block)
    try:
        scanner.item(())
        if scanner.position != len(block):
            raise ValueError("bytes after the end")
    except InvalidCid as error:
        raise InvalidDag(f"a link that is not accepted: {error.detail}", hint=error.hint) from None
    except (ValueError, IndexError) as error:
        raise InvalidDag(f"a block that is not DAG-CBOR: {error}") from None
    return scanner.links


class _Scanner:
    def __init__(self, block: bytes) -> None:
        self.position = 0
        self.links: list[tuple[LinkPath, Cid]] = []
        self._block = block

    def item(self, path: LinkPath) -> None:
        if len(path) > _DEPTH_MAX:
            raise ValueError(f"nested more than {_DEPTH_MAX} levels deep")
        major, argument = self._head()
        if major == _BYTES:
            self._take(argument)
        elif major == _TEXT:
            self._take(argument).decode()
        elif major == _LIST:
            self._expect_items(argument)
            for index in range(argument):
                self.item((*path, str(index)))
        elif major == _MAP:
            self._expect_items(2 * argument)
            self._map(argument, path)
        elif major == _TAG:
            self._link(argument, path)

    def _map(self, size: int, path: LinkPath) -> None:
        last: tuple[int, bytes] = (-1, b"")
        for _ in range(size):
            major, length = self._head()
            if major != _TEXT:
                raise ValueError("a key that is not text")
            key = self._take(length)
            if (length, key) <= last:
                raise ValueError("keys out of order")
            last = (length, key)
            self.item((*path, key.decode()))

    def _link(self, tag: int, path: LinkPath) -> None:
        major, length = self._head()
        if tag != _LINK_TAG or major != _BYTES:
            raise ValueError(f"tag {tag}")
        body = self._take(length)
        if body[0] != 0:
            raise ValueError("a link without its prefix")
        self.links.append((path, cid_from_bytes(body[1:])))

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, low = first >> 5, first & 31
        if low < 24:
            argument = low
        elif low in _LEAST:
            argument = int.from_bytes(self._take(1 << (low - 24)), "big")
        else:
            raise ValueError(f"head {first:#04x}")
        if major == _SIMPLE:
            self._check_simple(low, argument)
        elif low >= 24 and argument < _LEAST[low]:
            raise ValueError("a head that is not the shortest")
        return major, argument

    @staticmethod
    def _check_simple(low: int, argument: int) -> None:
        if low == 27:
            if not math.isfinite(struct.unpack(">d", argument.to_bytes(8, "big"))[0]):
                raise ValueError("a number that is not finite")
        elif low not in _FALSE_TRUE_NULL:
            raise ValueError(f"simple value {argument}")

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self._block):
            raise ValueError("a length beyond the end")
        return self._block[start : self.position]

    def _expect_items(self, count: int) -> None:
        if count > len(self._block) - self.position:
            raise ValueError("more items than bytes")
