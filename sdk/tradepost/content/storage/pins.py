"""Pins: roots whose DAGs a store must not evict. A pin is an empty file named after its root.

What a pin protects follows from the blocks, so it is found by walking them, and remembered until the set of
pins changes; another process may change it, so the folder is listed each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tradepost.atomic_files import sync_folder
from tradepost.content.ipld.cids import Cid, codec_of, verify_block
from tradepost.content.ipld.dag import links_of
from tradepost.content.storage.block_files import BlockFiles
from tradepost.errors import ContentMismatch, UnknownCid


class PinFolder:
    """The pins of one store. Code that adds, removes or relies on `blocks` must hold the store's lock."""

    def __init__(self, folder: Path, files: BlockFiles) -> None:
        self._folder = folder
        self._files = files
        self._known: tuple[list[Cid], frozenset[Cid]] = ([], frozenset())

    def roots(self) -> list[Cid]:
        """The pinned roots, sorted."""
        try:
            return sorted(Cid(name) for name in os.listdir(self._folder) if name.startswith("b"))
        except FileNotFoundError:
            return []

    def check(self, root: Cid) -> None:
        """Raise `UnknownCid` unless every block below a root is here, and as it was put. Needs no lock."""
        self._require(root, self._walk([root], read_leaves=True))

    def add(self, root: Cid) -> None:
        """Pin a root. Raises `UnknownCid` while a block below it is missing."""
        self._require(root, self._walk([root]))
        self._folder.mkdir(exist_ok=True)
        (self._folder / root).touch()
        sync_folder(self._folder)

    def remove(self, root: Cid) -> None:
        """Remove a pin. Raises `UnknownCid` if there is none."""
        try:
            (self._folder / root).unlink()
        except FileNotFoundError:
            raise UnknownCid(f"{root} is not pinned", cid=root) from None
        sync_folder(self._folder)

    def blocks(self) -> frozenset[Cid]:
        """Every block that a pin protects."""
        roots = self.roots()
        if roots == self._known[0]:
            return self._known[1]
        found = dict(self._walk(roots))
        blocks = frozenset(found)
        if all(found.values()):  # what lies below a block that is missing cannot be known yet
            self._known = (roots, blocks)
        return blocks

    def missing(self) -> list[Cid]:
        """The blocks that pins need and that are not here, or not as they were."""
        return [cid for cid, present in self._walk(self.roots()) if not present]

    def _require(self, root: Cid, walk: Iterator[tuple[Cid, bool]]) -> None:
        for cid, present in walk:
            if not present:
                raise UnknownCid(f"{cid}, below {root}, is missing or damaged in this store", cid=cid)

    def _walk(self, roots: list[Cid], *, read_leaves: bool = False) -> Iterator[tuple[Cid, bool]]:
        """Each block below `roots`, once, and whether it is here as it was put.

        Leaves link to nothing, and are believed without `read_leaves`.
        """
        to_visit = list(roots)
        seen = set(roots)
        while to_visit:
            cid = to_visit.pop()
            path = self._files.path(cid)
            if codec_of(cid) == "raw" and not read_leaves:
                yield cid, path.exists()
                continue
            try:
                block = path.read_bytes()
                verify_block(cid, block, source=str(path))
            except (FileNotFoundError, ContentMismatch):
                yield cid, False
                continue
            yield cid, True
            # Queued once each, however many nodes share them: what waits is bounded by what is in the store.
            links = set(links_of(cid, block)) - seen
            seen |= links
            to_visit += links
