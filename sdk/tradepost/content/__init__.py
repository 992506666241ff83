"""Content: bytes addressed by CID, as IPFS addresses them.

`cids`, `files` and `directories` compute addresses, `store` keeps blocks, `fetch` gets them from sources that
are not believed, `car` and `gateway` speak with the rest of IPFS, `kubo` with its daemon.
"""

from tradepost.content.ipld.cids import BLOCK_BYTES_MAX, Cid, cid_of_block, codec_of, parse_cid, verify_block
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
    "verify_block",
]
