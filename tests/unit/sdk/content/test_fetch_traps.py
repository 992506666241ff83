"""DAGs that are traps: every block has its hash, or the source claims that it has."""

from __future__ import annotations

import io
import random
from pathlib import Path

import aiohttp
import pytest

from scripted_server import Peer, Script, scripted
from tradepost.content import Cid, FolderStore, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink, bytes_field, varint_field
from tradepost.content.transfer.car import encode_header, encode_section, import_car
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.sources import GatewaySource
from tradepost.content.unixfs.extract import extract
from tradepost.content.unixfs.nodes import Link, encode_directory, encode_file_node
from tradepost.errors import ContentUnavailable, InvalidDag, UnsafeName

BLOCK = random.Random(5).randbytes(262_144)
CID = cid_of_block(BLOCK, "raw")


def serves(blocks: dict[Cid, bytes]) -> Script:
    async def script(peer: Peer) -> None:
        block = blocks[Cid(peer.asked[0].split("/")[2].split("?")[0])]
        await peer.head(f"Content-Length: {len(block)}", "Connection: close")
        await peer.send(block)

    return script


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return FolderStore(tmp_path_factory.mktemp("store"), bytes_max=64 << 20)


async def fetch_from(script: Script, root: Cid, store: FolderStore, bytes_max: int = 8 << 20) -> None:
    async with scripted(script) as (url, _), aiohttp.ClientSession() as session:
        await Fetcher([GatewaySource(url, session=session)], store=store).fetch(root, bytes_max=bytes_max)


async def test_a_cycle_needs_a_lie_and_the_lie_is_found(store: FolderStore) -> None:
    root = cid_of_block(b"whatever", "dag-pb")
    cycle = encode_file_node([Link(root, 4, 4)])
    with pytest.raises(ContentUnavailable, match="bytes that do not match"):
        await fetch_from(serves({root: cycle}), root, store)


async def test_a_depth_bomb_is_refused(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradepost.content.ipld.dag.DAG_DEPTH_MAX", 50)
    blocks: dict[Cid, bytes] = {}
    cid = cid_of_block(b"", "raw")
    for _ in range(60):
        node = encode_file_node([Link(cid, 4, 4)])
        cid = cid_of_block(node, "dag-pb")
        blocks[cid] = node
    with pytest.raises(InvalidDag, match="levels"):
        await fetch_from(serves(blocks), cid, store)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"\x01\x55\x00\x05hello", id="identity hash"),
        pytest.param(b"\x01\x55\x13\x40" + bytes(64), id="sha2-512"),
        pytest.param(b"\x12\x20" + bytes(32), id="CIDv0"),
        pytest.param(b"\x01\x55\x12\x20" + bytes(31), id="too short"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_links_by_other_hashes_are_refused(hostile: bytes, store: FolderStore) -> None:
    link = bytes_field(2, bytes_field(1, hostile) + bytes_field(2, b"") + varint_field(3, 5))
    node = link + bytes_field(1, b"\x08\x02\x18\x05\x20\x05")
    root = cid_of_block(node, "dag-pb")
    with pytest.raises(InvalidDag):
        await fetch_from(serves({root: node}), root, store)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", "a\0b"])
@pytest.mark.parametrize("through", ["gateway", "car"])
async def test_a_tree_cannot_be_written_elsewhere(
    name: str, through: str, store: FolderStore, tmp_path: Path
) -> None:
    block = encode_directory([PbLink(CID, name, len(BLOCK))])
    root = cid_of_block(block, "dag-pb")
    blocks = {root: block, CID: BLOCK}
    if through == "gateway":
        await fetch_from(serves(blocks), root, store)
    else:
        car = encode_header((root,)) + b"".join(encode_section(*one) for one in blocks.items())
        import_car(io.BytesIO(car), put=store.put, bytes_max=len(car))
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    with pytest.raises(UnsafeName):
        await extract(root, Fetcher([], store=store).get, inside / "out", bytes_max=1 << 20)
    assert files_below(tmp_path) == []


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


async def test_a_node_of_ten_thousand_links_to_one_block_asks_for_it_once(store: FolderStore) -> None:
    leaf = cid_of_block(b"x", "raw")
    node = encode_file_node([Link(leaf, 1, 1)] * 10_000)
    root = cid_of_block(node, "dag-pb")
    async with scripted(serves({root: node, leaf: b"x"})) as (url, peers), aiohttp.ClientSession() as session:
        fetched = await Fetcher([GatewaySource(url, session=session)], store=store).fetch(
            root, bytes_max=8 << 20
        )
    assert (fetched.blocks, len(peers)) == (2, 2)
