"""Tiles of the audit log's tree, as C2SP tlog-tiles names them: 256 hashes of one level side by side.

A path is `<level>/<index>` or `entries/<index>`, the index in groups of three digits, all but the last with
an `x` before them, and `.p/<width>` after it where the tile is partial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tradepost.audit_log.merkle import TILE_HEIGHT

#: Hashes or entries in a full tile.
TILE_WIDTH: Final = 1 << TILE_HEIGHT
_LEVEL_MAX: Final = 63
_ENTRIES: Final = "entries"
#: With six groups an index stays below 10^18, which SQLite's integers hold.
_PATH: Final = re.compile(
    r"(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile: `width` hashes of a level, or entries where `level` is `None`, from number `index * 256` on."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def start(self) -> int:
        """The number of its first hash or entry, among those of its level."""
        return self.index * TILE_WIDTH

    def is_within(self, size: int) -> bool:
        """Whether a tree of `size` leaves has every hash of this tile."""
        return self.start + self.width <= size >> (TILE_HEIGHT * (self.level or 0))


def parse_tile_path(path: str) -> Tile | None:
    """The tile with this path; `None` if it is not the path of a tile."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level, groups, width = match.groups()
    digits = groups.replace("/", "").split("x")
    index = int("".join(digits))
    tile = Tile(None if level == _ENTRIES else int(level), index, TILE_WIDTH if width is None else int(width))
    is_canonical = tile_path(tile) == path and (tile.level or 0) <= _LEVEL_MAX
    return tile if is_canonical and (width is None or tile.width < TILE_WIDTH) else None


def tile_path(tile: Tile) -> str:
    """The path of a tile."""
    groups = [f"{tile.index % 1000:03}"]
    rest = tile.index // 1000
    while rest:
        groups.append(f"x{rest % 1000:03}")
        rest //= 1000
    level = _ENTRIES if tile.level is None else str(tile.level)
    partial = "" if tile.width == TILE_WIDTH else f".p/{tile.width}"
    return f"{level}/{'/'.join(reversed(groups))}{partial}"


def entry_bundle(entries: list[bytes]) -> bytes:
    """Entries as a bundle: each with its length before it, in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
