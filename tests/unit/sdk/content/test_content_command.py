"""`tradepost content`: what it prints, writes and refuses."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from scripted_server import Peer, scripted
from tradepost.commands.content import app
from tradepost.content import Cid, FolderStore, add_bytes, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink
from tradepost.content.transfer.car import encode_header, encode_section
from tradepost.content.transfer.kubo import Kubo
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.nodes import encode_directory
from tradepost.errors import (
    ContentMismatch,
    ContentStoreFull,
    ContentStoreUnusable,
    ContentTooLarge,
    InsecureTransport,
    InvalidCar,
    InvalidCid,
    InvalidSettings,
    KuboFailed,
    TradepostError,
    UnknownCid,
    UnknownPath,
    UnreadableContent,
    UnsafeName,
)

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command on a store of its own; an error that it ends with is raised here."""

    def run_(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(
            app, [str(one) for one in arguments], env={"TRADEPOST_CONTENT": str(tmp_path / "store")}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run_


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "ü.txt").write_text("umlaut", encoding="utf-8")
    (root / "large").write_bytes(os.urandom(400_000))
    (root / ".hidden").write_text("h")
    return root


def test_cid_prints_the_cid_alone_and_stores_nothing(run: Run, tree: Path, tmp_path: Path) -> None:
    assert run("cid", tree).stdout == f"{add_path(tree, put=None)}\n"
    hidden = add_path(tree, put=None, hidden=True)
    assert json.loads(run("cid", "-H", tree, "--json").stdout) == {"cid": hidden}
    assert not (tmp_path / "store").exists()
    with pytest.raises(UnreadableContent):
        run("cid", tmp_path / "absent")


def test_what_is_added_comes_back(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", "--hidden", tree).stdout.strip()
    assert json.loads(run("ls", "--json").stdout)["pins"] == [root]
    run("get", root, "-o", tmp_path / "again")
    assert add_path(tmp_path / "again", put=None, hidden=True) == root
    run("get", f"{root}/docs/ü.txt", "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "umlaut"
    assert run("get", f"{root}/large", "-o", "-").stdout_bytes == (tree / "large").read_bytes()
    entries = json.loads(run("ls", root, "--json").stdout)["entries"]
    assert [entry["name"] for entry in entries] == [".hidden", "docs", "large"]
    assert "ü.txt" in run("ls", f"/ipfs/{root}/docs").stdout


def test_a_car_goes_out_and_in(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", tree).stdout.strip()
    run("get", root, "--car", "-o", tmp_path / "tree.car")
    run("unpin", root)
    run("gc")
    with pytest.raises(UnknownCid):
        run("get", root, "-o", tmp_path / "again")
    assert json.loads(run("add", "--car", tmp_path / "tree.car", "--json").stdout) == {"roots": [root]}
    run("get", root, "-o", tmp_path / "again")
    car = (tmp_path / "tree.car").read_bytes()
    (tmp_path / "cut.car").write_bytes(car[: len(car) // 2])
    with pytest.raises(InvalidCar):
        run("add", "--car", tmp_path / "cut.car")


def test_a_car_comes_through_a_pipe(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", tree).stdout.strip()
    run("get", root, "--car", "-o", tmp_path / "tree.car")
    os.mkfifo(tmp_path / "pipe")
    car = (tmp_path / "tree.car").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(car,))
    writer.start()
    added = run("add", "--car", tmp_path / "pipe", "--store", tmp_path / "other")
    writer.join()
    assert added.stdout.strip() == root


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a disk does that is full for some files and not for others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["--car", "--no-car"])
def test_what_cannot_be_written_whole_is_not_there(run: Run, tree: Path, tmp_path: Path, form: str) -> None:
    root = run("add", tree).stdout.strip()
    before = sorted(os.listdir(tmp_path))
    arguments = ["--car"] if form == "--car" else []
    with files_of_at_most(300_000), pytest.raises(UnreadableContent):
        run("get", root, *arguments, "-o", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_store_that_cannot_be_written_is_told_as_that(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", "--no-pin", tree).stdout.strip()
    (tmp_path / "store" / "pins").touch()  # where a folder should be
    for arguments in (("pin", root), ("unpin", root), ("ls",), ("verify",), ("gc",)):
        with pytest.raises(ContentStoreUnusable, match="the block store: "):
            run(*arguments)


def test_what_stands_in_the_way_is_told_before_anything_is_fetched(
    run: Run, tree: Path, tmp_path: Path
) -> None:
    root = add_path(tree, put=None)  # which the store has not: fetching it would fail
    (tmp_path / "taken").touch()
    for arguments in (["-o", tmp_path / "taken"], ["--car", "-o", tmp_path / "taken"]):
        with pytest.raises(UnreadableContent, match="already exists"):
            run("get", root, *arguments)
    with pytest.raises(UnreadableContent, match="not a directory"):
        run("get", root, "-o", tmp_path / "absent" / "out")


def test_a_cid_may_have_blanks_around_it(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", "--no-pin", tree).stdout.strip()
    for command, facts in (("pin", {"pinned": root}), ("unpin", {"unpinned": root})):
        assert json.loads(run(command, f" {root}\n", "--json").stdout) == facts
    (tree / "ends with a blank ").write_text("named")
    root = run("add", "--no-pin", tree).stdout.strip()
    assert run("ls", f" {root} \n").stdout == run("ls", root).stdout
    for number, address in enumerate((f" {root}/large\n", f"ipfs://{root}/ends with a blank \r\n")):
        run("get", address, "-o", tmp_path / f"out{number}")
    assert (tmp_path / "out0").read_bytes() == (tree / "large").read_bytes()
    assert (tmp_path / "out1").read_text() == "named"


def test_pins_are_kept_and_the_rest_forgotten(run: Run, tree: Path) -> None:
    root = run("add", "--no-pin", tree).stdout.strip()
    run("pin", root)
    assert json.loads(run("gc", "--json").stdout) == {"blocks": 0, "bytes": 0}
    assert run("unpin", root).stdout == f"{root}\n"
    assert json.loads(run("gc", "--json").stdout)["blocks"] == 6
    for command in ("pin", "unpin"):
        with pytest.raises(UnknownCid):
            run(command, root)
        with pytest.raises(InvalidCid):
            run(command, "nonsense")


def test_verify_is_strict(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", tree).stdout.strip()
    assert "match their CIDs" in run("verify").stdout
    assert json.loads(run("verify", "--json").stdout)["bad"] == []
    leaf = add_path(tree / "docs" / "ü.txt", put=None)
    next((tmp_path / "store").rglob(leaf)).write_bytes(b"rot")
    with pytest.raises(ContentMismatch):
        run("verify")
    with pytest.raises(UnknownCid, match="pinned blocks are missing"):
        run("verify")
    run("add", tree)
    assert run("verify").exit_code == 0
    assert run("ls").stdout.startswith(root)


def test_what_does_not_fit_is_not_half_kept(run: Run, tree: Path) -> None:
    with pytest.raises(ContentStoreFull, match="budget"):
        run("add", tree, "--budget", "300000")
    root = run("add", tree).stdout.strip()
    with pytest.raises(ContentTooLarge):
        run("get", root, "--bytes-max", "1000", "-o", "nowhere")


def test_gc_between_putting_and_pinning_loses_nothing(
    run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = FolderStore.pin

    def pin_late(store: FolderStore, root: Cid) -> None:
        assert json.loads(run("gc", "--json").stdout) == {"blocks": 0, "bytes": 0}
        pin(store, root)

    monkeypatch.setattr(FolderStore, "pin", pin_late)
    root = run("add", tree).stdout.strip()
    assert run("ls").stdout.startswith(root)


def test_a_car_of_a_part_is_not_pinned(run: Run, tmp_path: Path) -> None:
    root_block = encode_directory([PbLink(cid_of_block(b"elsewhere", "raw"), "leaf", 9)])
    root = cid_of_block(root_block, "dag-pb")
    car = tmp_path / "part.car"
    car.write_bytes(encode_header((root,)) + encode_section(root, root_block))
    with pytest.raises(UnknownCid, match="below") as caught:
        run("add", "--car", car)
    assert "--no-pin" in caught.value.hint
    assert run("add", "--car", car, "--no-pin").stdout.strip() == root


def test_what_is_refused(run: Run, tree: Path, tmp_path: Path) -> None:
    root = run("add", tree).stdout.strip()
    refusals: list[tuple[type[TradepostError], tuple[str | Path, ...]]] = [
        (UnknownPath, ("get", f"{root}/absent")),
        (UnknownPath, ("ls", f"{root}/large")),
        (UnreadableContent, ("get", root, "-o", tree)),
        (UnreadableContent, ("get", root, "--car", "-o", tree / "large")),
        (InvalidSettings, ("get", root, "--gateway", "nonsense", "-o", tmp_path / "x")),
        (InsecureTransport, ("get", root, "--gateway", "http://example.org", "-o", tmp_path / "x")),
        (InsecureTransport, ("add", tree, "--kubo", "/ip4/192.0.2.1/tcp/5001")),
        (InvalidSettings, ("add", tree, "--kubo", "nonsense")),
        (KuboFailed, ("add", tree, "--kubo", "/ip4/127.0.0.1/tcp/1")),
        (ContentStoreUnusable, ("ls", "--store", tree / "large")),
    ]
    for error, arguments in refusals:
        with pytest.raises(error):
            run(*arguments)
    assert not (tmp_path / "x").exists()


async def test_a_gateway_leaves_no_cookies(run: Run, tmp_path: Path) -> None:
    blocks: dict[str, bytes] = {}
    content = bytes(range(256)) * 4000
    root = add_bytes(content, put=lambda cid, block: blocks.update({cid: block}))

    async def bake(peer: Peer) -> None:
        block = blocks[peer.asked[0].removeprefix("/ipfs/").partition("?")[0]]
        await peer.head(f"Content-Length: {len(block)}", f"Set-Cookie: c{len(block)}={'x' * 3000}; Path=/")
        await peer.send(block)

    async with scripted(bake) as (url, peers):
        gateway = url.replace("127.0.0.1", "localhost")  # for addresses, no cookies are kept anyway
        await asyncio.to_thread(run, "get", root, "--gateway", gateway, "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert len(peers) == len(blocks) > 1
    assert not any("cookie" in peer.asked[1].lower() for peer in peers)


def test_a_cid_with_a_character_too_many_is_shown_whole(run: Run) -> None:
    with pytest.raises(InvalidCid, match=f"'{cid_of_block(b'x', 'raw')}x' is not"):
        run("pin", cid_of_block(b"x", "raw") + "x")
    with pytest.raises(InvalidCid) as refused:
        run("pin", "b" * 1000)
    assert len(refused.value.detail) < 200


def test_strange_names_are_shown_escaped_and_not_written(run: Run, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", bytes_max=1 << 20)
    leaf = cid_of_block(b"x", "raw")
    store.put(leaf, b"x")
    block = encode_directory([PbLink(leaf, name, 1) for name in ("\x1b[2J", "\udcff", "../up")])
    root = cid_of_block(block, "dag-pb")
    store.put(root, block)
    shown = run("ls", root).stdout
    assert "\x1b" not in shown
    assert r"\x1b[2J" in shown
    assert json.loads(run("ls", root, "--json").stdout)
    with pytest.raises(UnsafeName):
        run("get", root, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    "address", ["/dns/kubo.example/tcp/443/https", "/ip6/::1/tcp/5001", "/ip4/127.0.0.1/tcp/5001/http"]
)
def test_addresses_of_kubo(address: str) -> None:
    assert Kubo(address).name == f"kubo {address}"


@pytest.mark.parametrize(
    "address",
    ["", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/x", "/ip4/127.0.0.1/tcp/1/ws", "http://127.0.0.1"],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidSettings):
        Kubo(address)
