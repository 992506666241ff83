"""Addresses and CARs are those of Kubo: compared with the real program, where there is one."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from tradepost.commands.content import app
from tradepost.content import Cid, FolderStore, add_bytes
from tradepost.content.transfer.car import import_car
from tradepost.content.transfer.export import Scope, export_car
from tradepost.content.transfer.fetch import Fetcher
from tradepost.content.transfer.gateway import CAR_CONTENT_TYPE
from tradepost.content.transfer.sources import GatewaySource
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.extract import extract
from tradepost.testing.kubo_daemon import KuboDaemon

CHUNK = 262_144
NODE = 174 * CHUNK


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, NODE - 1, NODE, NODE + 1, NODE + CHUNK + 1]
)
def test_files_at_every_boundary(kubo_daemon: KuboDaemon, size: int) -> None:
    data = random.Random(size).randbytes(size)
    theirs = kubo_daemon.run("add", "-Qn", "--cid-version=1", stdin=data)
    assert add_bytes(data, put=None) == theirs.decode().strip()


def cid_by(daemon: KuboDaemon, path: Path, *options: str) -> str:
    return daemon.run("add", "-rQn", "--cid-version=1", *options, str(path)).decode().strip()


# At 41 bytes an entry, 6,393 entries are the most that one block takes: 256 KiB of names and CIDs.
@pytest.mark.parametrize("count", [0, 1, 6393, 6394, 10_000])
def test_directories_around_the_sharding_threshold(
    kubo_daemon: KuboDaemon, tmp_path: Path, count: int
) -> None:
    for number in range(count):
        (tmp_path / f"{number:05}").touch()
    assert add_path(tmp_path, put=None) == cid_by(kubo_daemon, tmp_path)


def test_trees_with_everything_in_them(kubo_daemon: KuboDaemon, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "leaf").write_bytes(b"leaf")
    for name in ("ünï", "雪", "a b", "\u202eevil", "-n", "trailing ", "x" * 255, "Z", "z"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / b"\xff\xfe".decode("utf-8", "surrogateescape")).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "to nowhere").symlink_to("/no/where")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "seen").touch()
    assert add_path(tmp_path, put=None) == cid_by(kubo_daemon, tmp_path)
    assert add_path(tmp_path, put=None, hidden=True) == cid_by(kubo_daemon, tmp_path, "-H")
    link = tmp_path / "to nowhere"
    assert add_path(link, put=None) == cid_by(kubo_daemon, link)
    assert add_path(tmp_path / ".hidden", put=None) == cid_by(kubo_daemon, tmp_path / ".hidden")


@dataclass(frozen=True)
class LargeTree:
    """A tree with a sharded directory: where it lies, and its CID, under which the daemon has it."""

    path: Path
    root: Cid
    blocks: dict[Cid, bytes]

    async def get(self, cid: Cid) -> bytes:
        return self.blocks[cid]


@pytest.fixture(scope="module")
def tree(kubo_daemon: KuboDaemon, tmp_path_factory: pytest.TempPathFactory) -> LargeTree:
    path = tmp_path_factory.mktemp("large") / "tree"
    (path / "many").mkdir(parents=True)
    for number in range(7000):
        (path / "many" / f"{number:05}").write_text(str(number % 50))
    (path / "file").write_bytes(random.Random(1).randbytes(3 * CHUNK))
    blocks: dict[Cid, bytes] = {}
    root = add_path(path, put=blocks.__setitem__)
    assert kubo_daemon.run("add", "-rQ", "--cid-version=1", str(path)).decode().strip() == root
    return LargeTree(path, root, blocks)


async def test_cars_made_here_are_imported_there(
    kubo_daemon: KuboDaemon, tmp_path: Path, tree: LargeTree
) -> None:
    car = tmp_path / "made-here.car"
    car.write_bytes(b"".join([piece async for piece in export_car(tree.root, (), tree.get)]))
    assert b"success" in kubo_daemon.run("dag", "import", str(car))
    assert_same(
        tree, kubo_daemon.run("cat", f"{tree.root}/file"), kubo_daemon.run("cat", f"{tree.root}/many/06999")
    )


def test_cars_made_there_are_imported_here(kubo_daemon: KuboDaemon, tree: LargeTree) -> None:
    car = kubo_daemon.run("dag", "export", tree.root)
    blocks: dict[Cid, bytes] = {}
    imported = import_car(io.BytesIO(car), put=blocks.__setitem__, bytes_max=len(car))
    assert imported.roots == (tree.root,)
    assert blocks == tree.blocks


@pytest.mark.parametrize("scope", ["block", "entity", "all"])
@pytest.mark.parametrize("path", ["", "many", "many/00007", "file"])
async def test_cars_are_what_their_gateway_sends(
    kubo_daemon: KuboDaemon, tree: LargeTree, path: str, scope: Scope
) -> None:
    segments = tuple(name for name in path.split("/") if name)
    pieces = [piece async for piece in export_car(tree.root, segments, tree.get, scope=scope)]
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            "/".join((kubo_daemon.gateway, "ipfs", tree.root, *segments)),
            params={"dag-scope": scope},
            headers={"Accept": CAR_CONTENT_TYPE},
        ) as response,
    ):
        assert response.status == 200
        assert contents(b"".join(pieces)) == contents(await response.read())


async def test_trees_are_fetched_from_their_gateway(
    kubo_daemon: KuboDaemon, tree: LargeTree, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store", bytes_max=1 << 30)
    async with aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(kubo_daemon.gateway, session=session)], store=store)
        await fetcher.fetch(tree.root, bytes_max=1 << 30)
        await extract(tree.root, fetcher.get, tmp_path / "ours", bytes_max=1 << 30)
    ours = tmp_path / "ours"
    assert_same(tree, (ours / "file").read_bytes(), (ours / "many/06999").read_bytes())
    assert len(list((ours / "many").iterdir())) == 7000


def assert_same(tree: LargeTree, file: bytes, last_of_many: bytes) -> None:
    assert file == (tree.path / "file").read_bytes()
    assert last_of_many == (tree.path / "many/06999").read_bytes()


def contents(car: bytes) -> tuple[tuple[Cid, ...], dict[Cid, bytes]]:
    blocks: dict[Cid, bytes] = {}
    return import_car(io.BytesIO(car), put=blocks.__setitem__, bytes_max=len(car)).roots, blocks


def test_the_command_adds_to_a_daemon_and_gets_from_it(
    kubo_daemon: KuboDaemon, tree: LargeTree, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            app, [*arguments, "--kubo", kubo_daemon.api], env={"TRADEPOST_CONTENT": str(tmp_path / "store")}
        )
        if result.exception is not None:
            raise result.exception
        return result.stdout

    file = tree.path / "file"
    cid = run("add", str(file)).strip()
    assert cid.encode() in kubo_daemon.run("pin", "ls", "--type=recursive")
    run("get", f"{tree.root}/file", "-o", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == file.read_bytes()
    assert add_path(tmp_path / "file", put=None) == cid
