"""The Merkle tree of RFC 6962, section 2.1: SHA-256, with leaves and nodes hashed in separate domains.

Only subtrees that are complete have a hash that never changes. Such a node has a height (0 is a leaf) and an
index among the nodes of that height. A tree of any size is a row of complete subtrees of decreasing size, its
right edge, from which it can be extended and its root computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 32
#: Every eighth height is kept: one tile of 256 hashes leads from one of them to the next.
TILE_HEIGHT: Final = 8
#: The root of a tree without leaves.
EMPTY_ROOT: Final = hashlib.sha256().digest()

#: Gives the hash of a complete subtree by height and index.
NodeHash = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree of `2**height` leaves; its first leaf is number `index * 2**height`."""

    height: int
    index: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf with this data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree of `size` leaves: the hashes of its complete subtrees, the largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def root(self) -> bytes:
        """The tree's root."""
        if not self.hashes:
            return EMPTY_ROOT
        *rest, root = self.hashes
        for left in reversed(rest):
            root = node_hash(left, root)
        return root

    def extended(self, leaves: Iterable[bytes]) -> tuple[Edge, list[Node]]:
        """The edge after more leaves (their hashes), and the nodes completed at the heights that are kept."""
        size, hashes, completed = self.size, list(self.hashes), list[Node]()
        sha256 = hashlib.sha256  # `node_hash` in place: this runs for every event of the market
        for leaf in leaves:
            node, height, index = leaf, 0, size
            while index & 1:  # it completes the subtree to its left
                node = sha256(b"\x01" + hashes.pop() + node).digest()
                height, index = height + 1, index >> 1
                if height % TILE_HEIGHT == 0:
                    completed.append(Node(height, index, node))
            hashes.append(node)
            size += 1
        return Edge(size, tuple(hashes)), completed


def edge_of(size: int, node: NodeHash) -> Edge:
    """The right edge of the first `size` leaves of a tree whose nodes `node` gives."""
    hashes, start = list[bytes](), 0
    for height in reversed(range(size.bit_length())):
        if size >> height & 1:
            hashes.append(node(height, start >> height))
            start += 1 << height
    return Edge(size, tuple(hashes))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree with these leaves (their hashes)."""
    return Edge().extended(leaves)[0].root()


def inclusion_path(index: int, size: int, node: NodeHash) -> tuple[bytes, ...]:
    """The audit path of leaf `index` in the first `size` leaves: section 2.1.1, the lowest hash first.

    Raises `ValueError` unless the tree has that leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path, start, end = list[bytes](), 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start = middle
    return tuple(reversed(path))


def consistency_path(old_size: int, size: int, node: NodeHash) -> tuple[bytes, ...]:
    """The proof that the first `old_size` leaves begin the first `size` ones: section 2.1.2.

    Raises `ValueError` unless `0 <= old_size <= size`. Empty where the proof needs no hash.
    """
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {old_size} leaves cannot begin one of {size}")
    if old_size in (0, size):
        return ()
    path, start, end, is_whole = list[bytes](), 0, size, True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start, is_whole = middle, False
    if not is_whole:  # else the old root is known to who verifies
        path.append(_range_hash(start, end, node))
    return tuple(reversed(path))


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an audit path leads to from a leaf's hash; `None` if the path has the wrong length.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    first, last, root = index, size - 1, leaf
    for other in path:
        if last == 0:
            return None
        if first & 1 or first == last:
            root = node_hash(other, root)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            root = node_hash(root, other)
        first, last = first >> 1, last >> 1
    return root if last == 0 else None


def is_consistent(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a proof shows that the tree with `old_root` begins the one with `root`.

    RFC 9162, section 2.1.4.2. Every tree begins with the empty one.
    """
    if not 0 <= old_size <= size:
        return False
    if old_size == size:
        return not path and old_root == root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not hashes:
        return False
    first, last = old_size - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old = new = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old, new = node_hash(other, old), node_hash(other, new)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            new = node_hash(new, other)
        first, last = first >> 1, last >> 1
    return last == 0 and old == old_root and new == root


def _split(size: int) -> int:
    """The largest power of two below `size`, which is two or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_hash(start: int, end: int, node: NodeHash) -> bytes:
    """The hash of a range that splitting a tree led to: only the last one of them may be incomplete."""
    size = end - start
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return node(height, start >> height)
    middle = start + _split(size)
    return node_hash(_range_hash(start, middle, node), _range_hash(middle, end, node))
