"""The tree is that of RFC 6962: known roots and paths, and what holds for all sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.audit_log.merkle import (
    EMPTY_ROOT,
    TILE_HEIGHT,
    Edge,
    NodeHash,
    consistency_path,
    edge_of,
    inclusion_path,
    is_consistent,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    root_of,
)

#: The leaves, roots and paths with which Certificate Transparency's implementations are tested.
LEAVES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}

LARGE = [leaf_hash(index.to_bytes(4, "big")) for index in range(700)]
sizes = st.integers(0, len(LARGE))


def nodes_of(leaves: Sequence[bytes]) -> NodeHash:
    """The nodes of a tree, computed as the definition of RFC 6962 has it."""

    def node(height: int, index: int) -> bytes:
        start, end = index << height, (index + 1) << height
        assert end <= len(leaves), "this subtree is not complete"
        return definition(leaves[start:end])

    return node


def definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of section 2.1, of leaves' hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(definition(leaves[:half]), definition(leaves[half:]))


@pytest.mark.parametrize("size", range(9))
def test_the_known_roots(size: int) -> None:
    assert root_of([leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size]


def test_the_known_paths() -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    for (index, size), path in INCLUSION.items():
        assert [one.hex() for one in inclusion_path(index, size, nodes_of(hashes))] == path
    for (old, size), path in CONSISTENCY.items():
        assert [one.hex() for one in consistency_path(old, size, nodes_of(hashes))] == path


@given(sizes, sizes)
def test_an_edge_extended_in_parts_is_the_edge_of_the_whole(one: int, other: int) -> None:
    first, last = sorted((one, other))
    part, completed = Edge().extended(LARGE[:first])
    whole, more = part.extended(LARGE[first:last])
    assert whole == edge_of(last, nodes_of(LARGE))
    assert whole.root() == definition(LARGE[:last])
    kept = {(node.height, node.index): node.hash for node in [*completed, *more]}
    assert kept == {
        (TILE_HEIGHT, index): definition(LARGE[index << TILE_HEIGHT : (index + 1) << TILE_HEIGHT])
        for index in range(last >> TILE_HEIGHT)
    }


@given(st.integers(1, len(LARGE)), st.data())
def test_an_inclusion_path_leads_to_the_root_from_its_leaf_only(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, nodes_of(LARGE))
    root = definition(LARGE[:size])
    assert root_from_inclusion(LARGE[index], index, size, path) == root
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index)) if size > 1 else None
    if other is not None:
        assert root_from_inclusion(LARGE[other], index, size, path) != root
        assert root_from_inclusion(LARGE[index], other, size, path) != root
    assert root_from_inclusion(LARGE[index], index, size, [*path, EMPTY_ROOT]) is None
    if path:
        assert root_from_inclusion(LARGE[index], index, size, path[:-1]) is None
        changed = data.draw(st.integers(0, len(path) - 1))
        forged = [*path[:changed], EMPTY_ROOT, *path[changed + 1 :]]
        assert root_from_inclusion(LARGE[index], index, size, forged) != root


@given(sizes, sizes, st.data())
def test_a_consistency_path_proves_its_two_sizes_only(one: int, other: int, data: st.DataObject) -> None:
    old, size = sorted((one, other))
    path = consistency_path(old, size, nodes_of(LARGE))
    old_root, root = definition(LARGE[:old]), definition(LARGE[:size])
    assert is_consistent(old, old_root, size, root, path)
    assert not is_consistent(old, leaf_hash(b"another"), size, root, path)
    assert not is_consistent(old, old_root, size, root, [*path, EMPTY_ROOT])
    if old:
        # Of an empty tree every other one is an extension.
        assert not is_consistent(old, old_root, size, leaf_hash(b"another"), path)
    if path:
        assert not is_consistent(old, old_root, size, root, path[:-1])
        changed = data.draw(st.integers(0, len(path) - 1))
        forged = [*path[:changed], EMPTY_ROOT, *path[changed + 1 :]]
        assert not is_consistent(old, old_root, size, root, forged)


def test_a_tree_that_rewrote_a_leaf_is_inconsistent() -> None:
    rewritten = [*LARGE[:3], leaf_hash(b"rewritten"), *LARGE[4:]]
    for old in range(4, 40):
        path = consistency_path(old, 64, nodes_of(rewritten))
        assert not is_consistent(old, definition(LARGE[:old]), 64, definition(rewritten[:64]), path)


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_a_leaf_outside_the_tree_has_no_path(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_path(index, size, nodes_of(LARGE))
    assert root_from_inclusion(LARGE[0], index, size, ()) is None


@pytest.mark.parametrize(("old", "size"), [(-1, 4), (5, 4)])
def test_a_larger_tree_begins_no_smaller_one(old: int, size: int) -> None:
    with pytest.raises(ValueError, match="cannot begin"):
        consistency_path(old, size, nodes_of(LARGE))
    assert not is_consistent(old, EMPTY_ROOT, size, EMPTY_ROOT, ())
