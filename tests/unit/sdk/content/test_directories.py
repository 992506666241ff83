"""Directory trees: Kubo's addresses, paths through them, and nothing written where it should not be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink
from tradepost.content.unixfs.directories import add_path, list_directory
from tradepost.content.unixfs.extract import Extracted, check_name, check_symlink, extract
from tradepost.content.unixfs.hamt import add_sharded
from tradepost.content.unixfs.nodes import encode_directory, encode_shard, encode_symlink
from tradepost.content.unixfs.paths import resolve, split_path, split_path_argument
from tradepost.errors import (
    ContentTooLarge,
    InvalidCid,
    InvalidDag,
    TradepostError,
    UnknownPath,
    UnreadableContent,
    UnsafeName,
)

# Made with Kubo 0.41.0: `ipfs add -rQn --cid-version=1` of the trees below.
EMPTY = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
TREE = "bafybeibcdchue2uyw6szvoboclxnntdvch47zbcbsn74gzjef63nnny4au"
TREE_WITH_HIDDEN = "bafybeiegfmficq37imcfp6m7o5gjcipuaehbrfizfe7votesg2avqjazva"
LINK = "bafybeifilh5wotyp35mhfgpgjfjyvg4uurzy2obxg22t754snnwbss726q"
TEN_THOUSAND = "bafybeigxqfsfvfl6b76kcetmgxwctuikooxyw7qt27g3pdifalpbehidwa"

LEAF = cid_of_block(b"leaf", "raw")
NOTHING = cid_of_block(b"", "raw")


class Blocks(dict[Cid, bytes]):
    """Blocks in memory, and an awaitable way to get them."""

    async def get_block(self, cid: Cid) -> bytes:
        return self[cid]

    def keep(self, block: bytes, codec: str = "dag-pb") -> Cid:
        cid = cid_of_block(block, codec)  # type: ignore[arg-type]
        self[cid] = block
        return cid

    def directory(self, **entries: Cid) -> Cid:
        return self.keep(encode_directory(PbLink(cid, name, 1) for name, cid in entries.items()))


@pytest.fixture
def blocks() -> Blocks:
    return Blocks({LEAF: b"leaf", NOTHING: b""})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "docs" / "empty").mkdir(parents=True)
    (root / "docs" / "größe ☃.txt").write_text("snow", encoding="utf-8")
    (root / ".hidden").write_text("h")
    (root / "file").write_bytes((b"tradepost " * 100_000)[:600_000])
    (root / "link").symlink_to("docs/größe ☃.txt")
    return root


def test_trees_have_the_cid_that_kubo_gives(tree: Path) -> None:
    assert add_path(tree, put=None) == TREE
    assert add_path(tree, put=None, hidden=True) == TREE_WITH_HIDDEN
    assert add_path(tree / "link", put=None) == LINK
    assert add_path(tree / "docs" / "empty", put=None) == EMPTY
    assert add_path(tree / "file", put=None) == add_bytes((tree / "file").read_bytes(), put=None)


def test_large_directories_have_the_cid_that_kubo_gives() -> None:
    entries = [PbLink(NOTHING, f"{number:05}", 0) for number in range(10_000)]
    assert add_sharded(entries, put=None).cid == TEN_THOUSAND
    assert add_sharded(reversed(entries), put=None).cid == TEN_THOUSAND


def test_progress_counts_every_byte_of_content(tree: Path) -> None:
    seen: list[int] = []
    add_path(tree, put=None, on_bytes=seen.append)
    assert sum(seen) == 600_000 + len("snow")


def test_what_is_no_file_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableContent, match="neither a file"):
        add_path(tmp_path, put=None)
    with pytest.raises(UnreadableContent, match="No such file"):
        add_path(tmp_path / "absent", put=None)


async def names_in(cid: Cid, blocks: Blocks) -> dict[str, Cid]:
    return {entry.name: entry.cid async for entry in list_directory(cid, blocks.get_block)}


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.slow
async def test_entries_are_listed_and_found_in_both_forms(count: int, blocks: Blocks) -> None:
    entries = {f"name {number}": blocks.keep(b"%d" % number, "raw") for number in range(count)}
    links = [PbLink(cid, name, 1) for name, cid in entries.items()]
    roots = [blocks.keep(encode_directory(links))]
    if links:
        roots.append(add_sharded(links, put=blocks.__setitem__).cid)
    for root in roots:
        assert await names_in(root, blocks) == entries
        for name, cid in entries.items():
            assert await resolve(root, (name,), blocks.get_block) == cid
        with pytest.raises(UnknownPath):
            await resolve(root, ("another",), blocks.get_block)


async def test_paths_lead_through_manifests_and_trees(blocks: Blocks) -> None:
    import dag_cbor
    from multiformats import CID

    folder = blocks.directory(leaf=LEAF)
    manifest = blocks.keep(dag_cbor.encode({"stages": [{"artifact": CID.decode(folder)}]}), "dag-cbor")
    get = blocks.get_block
    assert await resolve(manifest, (), get) == manifest
    assert await resolve(manifest, ("stages", "0", "artifact"), get) == folder
    assert await resolve(manifest, ("stages", "0", "artifact", "leaf"), get) == LEAF
    for path in (("stages",), ("stages", "1", "artifact"), ("stages", "0", "artifact", "leaf", "more")):
        with pytest.raises(UnknownPath):
            await resolve(manifest, path, get)


def test_addresses_are_read_as_people_write_them() -> None:
    for text in (f"{LEAF}/a/b", f"/ipfs/{LEAF}//a/b/", f"ipfs://{LEAF}/a/b"):
        assert split_path(text) == (LEAF, ("a", "b"))
    assert split_path(LEAF) == (LEAF, ())
    with pytest.raises(InvalidCid):
        split_path("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnjuNQ/a")
    for text in (f"{LEAF}/../a", f"{LEAF}/a/.", f"{LEAF}" + "/a" * 257):
        with pytest.raises(UnknownPath):
            split_path(text)


def test_blanks_around_an_address_are_dropped_but_not_those_of_its_names() -> None:
    for text in (f" {LEAF} \n", f"\t/ipfs/{LEAF}\r\n", f"ipfs://{LEAF}"):
        assert split_path_argument(text) == (LEAF, ())
    assert split_path_argument(f" {LEAF}/ a/b c \r\n") == (LEAF, (" a", "b c "))
    for text in (f"{LEAF} /a", f"{LEAF} a", " ", f"ipfs:// {LEAF}"):
        with pytest.raises(InvalidCid):
            split_path_argument(text)
    with pytest.raises(InvalidCid):
        split_path(f"{LEAF}\n")  # what is no person's argument is exact


def run_extract(
    cid: Cid, blocks: Blocks, to: Path, *, bytes_max: int = 1 << 20, entries_max: int = 10_000
) -> Extracted:
    return asyncio.run(extract(cid, blocks.get_block, to, bytes_max=bytes_max, entries_max=entries_max))


def nothing_beside(to: Path) -> bool:
    return list(to.parent.iterdir()) == []


def test_a_tree_comes_back_as_it_was(tree: Path, tmp_path: Path, blocks: Blocks) -> None:
    root = add_path(tree, put=blocks.__setitem__, hidden=True)
    done = run_extract(root, blocks, tmp_path / "again")
    assert done == Extracted(files=3, directories=3, symlinks=1, bytes=600_005)
    assert add_path(tmp_path / "again", put=None, hidden=True) == TREE_WITH_HIDDEN
    assert (tmp_path / "again" / "link").read_text(encoding="utf-8") == "snow"


def test_a_file_and_a_sharded_directory_are_written(tmp_path: Path, blocks: Blocks) -> None:
    run_extract(LEAF, blocks, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"leaf"
    root = add_sharded([PbLink(LEAF, f"n{number}", 4) for number in range(500)], put=blocks.__setitem__)
    done = run_extract(root.cid, blocks, tmp_path / "folder")
    assert (done.files, done.bytes) == (500, 2000)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "x" * 256, "é" * 128])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, sharded: bool, tmp_path: Path, blocks: Blocks
) -> None:
    link = PbLink(LEAF, name, 4)
    if sharded and name:  # a shard cannot hold an entry without a name: it would be a further shard
        root = add_sharded([link], put=blocks.__setitem__).cid
    else:
        root = blocks.keep(encode_directory([link]))
    top = blocks.directory(inside=root)
    to = tmp_path / "out" / "here"
    to.parent.mkdir()
    with pytest.raises(UnsafeName):
        run_extract(top, blocks, to)
    assert nothing_beside(to)


@given(st.text(max_size=20))
def test_an_accepted_name_is_one_component(name: str) -> None:
    try:
        check_name(name)
    except UnsafeName:
        return
    assert os.path.normpath(name) == name
    assert os.path.basename(name) == name
    assert name not in (os.curdir, os.pardir)


@pytest.mark.parametrize(
    ("target", "depth", "safe"),
    [
        ("sibling", 0, True),
        ("down/below", 0, True),
        ("./down", 0, True),
        ("../up", 1, True),
        ("../../up", 2, True),
        ("../up", 0, False),
        ("../../up", 1, False),
        ("/etc/passwd", 9, False),
        ("down/..", 0, False),
        ("down/../../..", 9, False),  # `down` may itself be a link to the top
        ("./../..", 0, False),
        ("..", 0, False),
        ("", 0, False),
        ("a\0b", 0, False),
    ],
)
def test_symbolic_links_stay_in_the_tree(target: str, depth: int, safe: bool) -> None:
    if safe:
        check_symlink(target, depth)
    else:
        with pytest.raises(UnsafeName):
            check_symlink(target, depth)


def test_a_link_out_of_the_tree_is_not_written(tmp_path: Path, blocks: Blocks) -> None:
    root = blocks.directory(a=blocks.directory(b=blocks.keep(encode_symlink("../../.."))))
    to = tmp_path / "out" / "here"
    to.parent.mkdir()
    with pytest.raises(UnsafeName):
        run_extract(root, blocks, to)
    assert nothing_beside(to)


def test_nothing_is_written_over(tmp_path: Path, blocks: Blocks) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("dangling", "."):
        with pytest.raises(UnreadableContent, match="already exists"):
            run_extract(LEAF, blocks, tmp_path / name)


@pytest.mark.parametrize("content", ["file", "directory"])
@pytest.mark.parametrize("theirs", ["file", "directory", "link"])
def test_what_is_made_there_meanwhile_is_not_written_over(
    tmp_path: Path, blocks: Blocks, content: str, theirs: str
) -> None:
    roots = {"file": LEAF, "directory": blocks.directory()}
    make: dict[str, Callable[[Path], object]] = {
        "file": lambda path: path.write_bytes(b"theirs"),
        "directory": Path.mkdir,
        "link": lambda path: path.symlink_to("theirs"),
    }
    destination = tmp_path / "out"

    async def get(cid: Cid) -> bytes:
        if theirs in make:
            make.pop(theirs)(destination)
        return blocks[cid]

    with pytest.raises(UnreadableContent, match="already exists"):
        asyncio.run(extract(roots[content], get, destination, bytes_max=100))
    assert os.listdir(tmp_path) == ["out"]
    assert destination.is_symlink() == (theirs == "link")
    if theirs == "file":
        assert destination.read_bytes() == b"theirs"


def test_extraction_is_bounded(tmp_path: Path, blocks: Blocks) -> None:
    root = blocks.directory(a=LEAF, b=LEAF, c=LEAF)
    with pytest.raises(ContentTooLarge):
        run_extract(root, blocks, tmp_path / "out", bytes_max=11)
    with pytest.raises(ContentTooLarge, match="entries"):
        run_extract(root, blocks, tmp_path / "out", entries_max=2)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_stands_for_endless_ones_is_refused(tmp_path: Path, blocks: Blocks) -> None:
    # Twelve blocks, ten entries each, all the same: a trillion files.
    cid = LEAF
    for _ in range(12):
        cid = blocks.directory(**{f"n{number}": cid for number in range(10)})
    with pytest.raises(ContentTooLarge, match="entries"):
        run_extract(cid, blocks, tmp_path / "out", entries_max=1000)


def test_a_very_deep_tree_is_refused(tmp_path: Path, blocks: Blocks) -> None:
    cid = LEAF
    for _ in range(300):
        cid = blocks.directory(d=cid)
    with pytest.raises(InvalidDag, match="levels"):
        run_extract(cid, blocks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_shard_whose_entry_is_misplaced_is_refused(blocks: Blocks) -> None:
    root = blocks.keep(encode_shard({0: PbLink(LEAF, "name", 4)}))
    with pytest.raises(InvalidDag, match="in the wrong shard for its hash"):
        await names_in(root, blocks)


def shard_below(blocks: Blocks, child: Cid) -> Cid:
    return blocks.keep(encode_shard({7: PbLink(child, "", 1)}))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda blocks: LEAF, id="a leaf"),
        pytest.param(lambda blocks: blocks.directory(a=LEAF), id="a directory"),
        pytest.param(lambda blocks: blocks.keep(encode_shard({})), id="an empty shard"),
    ],
)
async def test_a_shard_of_something_else_is_refused(make: Callable[[Blocks], Cid], blocks: Blocks) -> None:
    with pytest.raises(TradepostError):
        await names_in(shard_below(blocks, make(blocks)), blocks)


async def test_a_chain_of_shards_ends_with_the_hash(blocks: Blocks) -> None:
    cid = blocks.keep(encode_shard({7: PbLink(LEAF, "name", 4)}))
    for _ in range(9):
        cid = shard_below(blocks, cid)
    with pytest.raises(InvalidDag):
        await names_in(cid, blocks)


@pytest.mark.parametrize(
    ("limit", "just_enough"),
    [
        ("directories.ENTRIES_MAX", 300),
        ("directories.NAMES_BYTES_MAX", sum(len(f"ü{number}".encode()) for number in range(300))),
        ("hamt.SHARDS_MAX", None),
    ],
)
async def test_listing_is_bounded(
    limit: str, just_enough: int | None, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = len(blocks)
    entries = (PbLink(NOTHING, f"ü{number}", 0) for number in range(300))
    root = add_sharded(entries, put=blocks.__setitem__).cid
    enough = just_enough or len(blocks) - held
    monkeypatch.setattr(f"tradepost.content.unixfs.{limit}", enough)
    assert len(await names_in(root, blocks)) == 300
    monkeypatch.setattr(f"tradepost.content.unixfs.{limit}", enough - 1)
    with pytest.raises(InvalidDag, match="a directory of"):
        await names_in(root, blocks)


async def test_what_is_no_directory_is_not_listed(blocks: Blocks) -> None:
    for cid in (LEAF, blocks.keep(encode_symlink("x")), add_bytes(bytes(300_000), put=blocks.__setitem__)):
        with pytest.raises(UnknownPath):
            await names_in(cid, blocks)


def test_names_with_equal_hashes_cannot_be_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradepost.content.unixfs.hamt._hash", lambda name: bytes(8))
    with pytest.raises(UnreadableContent, match="equal hashes"):
        add_sharded([PbLink(LEAF, "a", 1), PbLink(LEAF, "b", 1)], put=None)
