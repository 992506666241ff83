"""Content: bytes addressed by CID. `cids` computes addresses, `store` keeps blocks, `fetch` verifies them."""

from tradepost.content.cids import (
    BLOCK_BYTES_MAX,
    Cid,
    cid_of_block,
    codec_of,
    parse_cid,
    verify_block,
)
from tradepost.content.files import add_bytes, add_file, add_stream, read_file
from tradepost.content.store import BlockReader, BlockStore, FolderStore

__all__ = [
    "BLOCK_BYTES_MAX",
    "BlockReader",
    "BlockStore",
    "Cid",
    "FolderStore",
    "add_bytes",
    "add_file",
    "add_stream",
    "cid_of_block",
    "codec_of",
    "parse_cid",
    "read_file",
    "verify_block",
]
