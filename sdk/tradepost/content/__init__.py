"""Content: bytes addressed by CID, in IPFS's formats.

The rooms, lowest first: `ipld` (blocks and their links), `storage` (the block store), `unixfs` (files and
directories), `transfer` (sources, fetching, CARs, the gateway, Kubo).
"""

from tradepost.content.ipld.cids import (
    BLOCK_BYTES_MAX,
    Cid,
    cid_of_block,
    codec_of,
    parse_cid,
    upload_mismatches,
    verify_block,
    verify_upload,
)
from tradepost.content.storage.store import BlockReader, BlockStore, FolderStore, PinningStore
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.files import add_bytes, add_file, add_stream, read_file

__all__ = [
    "BLOCK_BYTES_MAX",
    "BlockReader",
    "BlockStore",
    "Cid",
    "FolderStore",
    "PinningStore",
    "add_bytes",
    "add_file",
    "add_path",
    "add_stream",
    "cid_of_block",
    "codec_of",
    "parse_cid",
    "read_file",
    "upload_mismatches",
    "verify_block",
    "verify_upload",
]
