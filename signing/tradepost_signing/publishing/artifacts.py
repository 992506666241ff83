"""Kernels and models as they will be published: their CID, and their blocks without holding them in memory.

The leaves of a file are its chunks in order, so a block of a model of many GiB is a place in the file; only
the few inner nodes are kept.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tradepost.content import Cid, add_stream, codec_of, verify_block
from tradepost.errors import UnreadableContent


@dataclass(frozen=True, slots=True)
class Block:
    """A block of an artifact: a chunk of the file (`node` is `None`) or an inner node of its tree."""

    cid: Cid
    size: int
    offset: int = 0
    node: bytes | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A kernel or a model. `source` is what the author wrote; `blocks` come children first."""

    source: str
    content: bytes | Path
    cid: Cid
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, source: str, content: bytes | Path) -> Artifact:
        """The artifact with this content, which is read as a stream."""
        blocks: list[Block] = []
        offset = 0

        def keep(cid: Cid, data: bytes) -> None:
            nonlocal offset
            if codec_of(cid) == "raw":
                blocks.append(Block(cid, len(data), offset))
                offset += len(data)
            else:
                blocks.append(Block(cid, len(data), node=data))

        with _open(content) as stream:
            cid = add_stream(stream, put=keep)
        return cls(source, content, cid, tuple(blocks))

    def read(self, block: Block) -> bytes:
        """The bytes of one of the blocks.

        Raises `ContentMismatch` if the file has changed since it was addressed, `UnreadableContent` if it is
        gone.
        """
        if block.node is not None:
            return block.node
        try:
            with _open(self.content) as stream:
                stream.seek(block.offset)
                data = stream.read(block.size)
        except OSError as error:
            raise UnreadableContent(f"{self.source}: {error}") from None
        verify_block(block.cid, data, source=self.source)
        return data

    def read_all(self) -> bytes:
        """The whole content."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def _open(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
