"""What every store of blocks does, be it a folder here or a real Kubo daemon."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import dag_cbor
import pytest
from multiformats import CID

from tradepost.content import Cid, FolderStore, add_bytes, cid_of_block, read_file
from tradepost.content.storage.store import PinningStore
from tradepost.content.transfer.car import encode_header, encode_section, import_car
from tradepost.content.transfer.export import export_car
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.kubo import Kubo
from tradepost.content.transfer.sources import KuboSource
from tradepost.content.unixfs.directories import add_path, list_directory
from tradepost.content.unixfs.files import Get, stream_file
from tradepost.errors import ContentMismatch, InvalidCid, TradepostError, UnknownCid
from tradepost.testing.kubo_daemon import KuboDaemon


@dataclass(frozen=True)
class Subject:
    """A store, and what goes beyond its protocol: adding paths, and CARs in and out."""

    store: PinningStore
    add: Callable[[Path], Cid]
    import_car: Callable[[bytes], tuple[Cid, ...]]
    export_car: Callable[[Cid], AsyncIterator[bytes]]
    cat: Callable[[Cid], AsyncIterator[bytes]]


@pytest.fixture(params=["folder", "kubo"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "folder":
        return of_folder(FolderStore(tmp_path / "store", bytes_max=1 << 30))
    return of_kubo(request.getfixturevalue("kubo_daemon"))


def of_folder(store: FolderStore) -> Subject:
    async def get(cid: Cid) -> bytes:
        return store.get(cid)

    return Subject(
        store=store,
        add=lambda path: add_path(path, put=store.put),
        import_car=lambda car: import_car(io.BytesIO(car), put=store.put, bytes_max=1 << 30).roots,
        export_car=lambda root: export_car(root, (), get),
        cat=lambda cid: stream_file(cid, get, bytes_max=1 << 30),
    )


def of_kubo(daemon: KuboDaemon) -> Subject:
    kubo = Kubo(daemon.api)

    async def each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return Subject(
        store=kubo,
        add=kubo.add,
        import_car=lambda car: kubo.import_car(io.BytesIO(car), bytes_max=1 << 30),
        export_car=lambda root: each(kubo.export_car(root)),
        cat=lambda cid: each(kubo.cat(cid)),
    )


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A tree with something of each kind; other bytes in every test, since Kubo is shared by all."""
    salt = request.node.nodeid.encode()
    root = tmp_path / "tree"
    (root / "deep" / "empty").mkdir(parents=True)
    (root / "large").write_bytes((salt * 30_000)[:700_000])
    (root / "deep" / "größe ☃").write_bytes(salt)
    (root / "link").symlink_to("deep/größe ☃")
    return root


def blocks_of(path: Path) -> dict[Cid, bytes]:
    blocks: dict[Cid, bytes] = {}
    add_path(path, put=blocks.__setitem__)
    return blocks


@pytest.mark.parametrize("codec", ["raw", "dag-pb", "dag-cbor"])
def test_a_block_comes_back_as_it_was(subject: Subject, codec: str) -> None:
    block = {"raw": b"block", "dag-pb": b"\x0a\x02\x08\x01", "dag-cbor": b"\xa1\x61a\x01"}[codec]
    cid = cid_of_block(block, codec)  # type: ignore[arg-type]
    subject.store.put(cid, block)
    subject.store.put(cid, block)
    assert subject.store.has(cid)
    assert subject.store.get(cid) == block


def test_the_empty_block_is_a_block(subject: Subject) -> None:
    cid = cid_of_block(b"", "raw")
    subject.store.put(cid, b"")
    assert subject.store.get(cid) == b""


def test_what_is_not_there_is_unknown(subject: Subject) -> None:
    cid = cid_of_block(b"nobody has this", "raw")
    assert not subject.store.has(cid)
    with pytest.raises(UnknownCid):
        subject.store.get(cid)


def test_other_bytes_are_refused(subject: Subject) -> None:
    cid = cid_of_block(b"these bytes", "raw")
    with pytest.raises(ContentMismatch):
        subject.store.put(cid, b"other bytes")
    assert not subject.store.has(cid)


def test_other_kinds_of_cid_are_refused(subject: Subject) -> None:
    with pytest.raises(InvalidCid):
        subject.store.put(Cid("bafkqaaa"), b"")
    with pytest.raises(InvalidCid):
        subject.store.get(Cid("../../etc/passwd"))


def test_a_pin_needs_the_whole_dag_and_can_be_taken_back(subject: Subject, tree: Path) -> None:
    blocks = blocks_of(tree)
    root = list(blocks)[-1]
    missing = next(cid for cid in blocks if cid != root)
    for cid, block in blocks.items():
        if cid != missing:
            subject.store.put(cid, block)
    with pytest.raises(UnknownCid):
        subject.store.pin(root)
    subject.store.put(missing, blocks[missing])
    subject.store.pin(root)
    subject.store.pin(root)
    assert root in subject.store.pins()
    subject.store.unpin(root)
    assert root not in subject.store.pins()
    with pytest.raises(UnknownCid):
        subject.store.unpin(root)


def test_a_pin_reaches_through_the_links_of_a_manifest(subject: Subject, tree: Path) -> None:
    leaf = add_bytes(b"kernel " + str(tree).encode(), put=None)
    manifest = dag_cbor.encode({"stages": [{"artifact": CID.decode(leaf)}]})
    root = cid_of_block(manifest, "dag-cbor")
    subject.store.put(root, manifest)
    with pytest.raises(UnknownCid):
        subject.store.pin(root)
    subject.store.put(leaf, b"kernel " + str(tree).encode())
    subject.store.pin(root)
    subject.store.unpin(root)


async def test_a_tree_is_added_under_the_cid_that_is_computed_here(subject: Subject, tree: Path) -> None:
    root = subject.add(tree)
    assert root == add_path(tree, put=None)
    names = {entry.name: entry.cid async for entry in list_directory(root, reader(subject.store))}
    assert set(names) == {"deep", "large", "link"}
    content = await read_file(names["large"], reader(subject.store), bytes_max=1 << 20)
    assert content == (tree / "large").read_bytes()


async def test_a_file_is_added_under_the_cid_that_is_computed_here(subject: Subject, tree: Path) -> None:
    cid = subject.add(tree / "large")
    assert cid == add_path(tree / "large", put=None)
    assert b"".join([piece async for piece in subject.cat(cid)]) == (tree / "large").read_bytes()


async def test_what_is_not_there_is_neither_read_nor_exported(subject: Subject) -> None:
    absent = cid_of_block(b"nobody has this", "raw")
    for read in (subject.cat, subject.export_car):
        with pytest.raises(UnknownCid):
            [piece async for piece in read(absent)]


async def test_a_car_brings_a_tree_in_and_out(subject: Subject, tree: Path) -> None:
    blocks = blocks_of(tree)
    root = list(blocks)[-1]
    car = encode_header((root,)) + b"".join(encode_section(*one) for one in blocks.items())
    assert subject.import_car(car) == (root,)
    assert all(subject.store.has(cid) for cid in blocks)
    again = b"".join([piece async for piece in subject.export_car(root)])
    found: dict[Cid, bytes] = {}
    imported = import_car(io.BytesIO(again), put=found.__setitem__, bytes_max=1 << 30)
    assert imported.roots == (root,)
    assert found == blocks


@pytest.mark.parametrize("change", ["cut off", "a byte changed", "no CAR"])
def test_a_bad_car_is_refused(subject: Subject, tree: Path, change: str) -> None:
    blocks = blocks_of(tree)
    car = encode_header((next(iter(blocks)),)) + b"".join(encode_section(*one) for one in blocks.items())
    bad = {"cut off": car[:-1], "a byte changed": car[:-1] + bytes((car[-1] ^ 1,)), "no CAR": b"car" * 100}
    with pytest.raises(TradepostError):
        subject.import_car(bad[change])


async def test_a_daemon_is_a_source_of_what_it_has(kubo_daemon: KuboDaemon) -> None:
    cid = cid_of_block(b"a block to be fetched", "raw")
    Kubo(kubo_daemon.api).put(cid, b"a block to be fetched")
    async with aiohttp.ClientSession() as session:
        fetcher = Fetcher([KuboSource(kubo_daemon.api, session=session)])
        assert await fetcher.get(cid) == b"a block to be fetched"
        with pytest.raises(UnknownCid):
            await fetcher.get(cid_of_block(b"nobody has this", "raw"))


def test_a_daemon_that_is_away_is_a_typed_error() -> None:
    kubo = Kubo("/ip4/127.0.0.1/tcp/1")  # port 1 is nobody's
    for call in (kubo.pins, lambda: kubo.has(cid_of_block(b"", "raw"))):
        with pytest.raises(TradepostError, match="refused"):
            call()


def reader(store: PinningStore) -> Get:
    async def get(cid: Cid) -> bytes:
        return store.get(cid)

    return get
