"""Tiles have the paths and sizes of C2SP tlog-tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.audit_log.tiles import TILE_WIDTH, Tile, entry_bundle, parse_tile_path, tile_path


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("0/000", Tile(0, 0)),
        ("0/x001/x234/067", Tile(0, 1_234_067)),
        ("2/005.p/7", Tile(2, 5, 7)),
        ("63/000.p/1", Tile(63, 0, 1)),
        ("entries/x012/345.p/255", Tile(None, 12_345, 255)),
    ],
)
def test_known_paths(path: str, tile: Tile) -> None:
    assert parse_tile_path(path) == tile
    assert tile_path(tile) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "0/", "0/0", "0/0000", "0/x000/000", "0/x000/001", "0/000/001", "00/000", "64/000", "-1/000",
        "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/", "entries/000/", "0/x001", "0/000\n",
        "0/\u0660\u0660\u0660", "0/" + "x001/" * 6 + "001",
    ],
)  # fmt: skip
def test_other_paths_name_no_tile(path: str) -> None:
    assert parse_tile_path(path) is None


@given(st.none() | st.integers(0, 63), st.integers(0, 10**18 - 1), st.integers(1, TILE_WIDTH))
def test_every_tile_has_one_path(level: int | None, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_tile_path(tile_path(tile)) == tile


def test_a_tree_of_70_000_has_the_tiles_that_the_layout_names() -> None:
    size = 70_000
    held = [
        Tile(0, 272), Tile(0, 273, 112), Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1), Tile(None, 273, 112),
    ]  # fmt: skip
    beyond = [
        Tile(0, 273, 113),
        Tile(0, 273),
        Tile(1, 1, 18),
        Tile(2, 0, 2),
        Tile(3, 0, 1),
        Tile(None, 274, 1),
    ]
    assert all(tile.is_within(size) for tile in held)
    assert not any(tile.is_within(size) for tile in beyond)


def test_a_bundle_has_each_entry_behind_its_length() -> None:
    assert entry_bundle([b"", b"ab", b"c" * 300]) == b"\0\0" + b"\0\2ab" + b"\1\x2c" + b"c" * 300
