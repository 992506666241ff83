"""`tradepost content`: compute CIDs of files and directories, store them, fetch and verify them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import aiohttp
import typer
from platformdirs import user_data_path

from tradepost.commands.number_options import integer_option
from tradepost.commands.options import Json
from tradepost.commands.output_file import check_writable
from tradepost.commands.progress import progress_bar
from tradepost.commands.terminal import show
from tradepost.content import Cid, FolderStore
from tradepost.content.ipld.cids import parse_cid_argument
from tradepost.content.storage.store import DISK_IS_FULL
from tradepost.content.transfer.car import import_car
from tradepost.content.transfer.export import export_car
from tradepost.content.transfer.fetch import Fetcher, FetchProgress
from tradepost.content.transfer.kubo import Kubo
from tradepost.content.transfer.sources import GatewaySource, KuboSource, Source
from tradepost.content.unixfs.directories import add_path, list_directory
from tradepost.content.unixfs.extract import extract
from tradepost.content.unixfs.paths import resolve, split_path_argument
from tradepost.errors import (
    ContentMismatch,
    ContentStoreFull,
    ContentStoreUnusable,
    UnknownCid,
    UnreadableContent,
)
from tradepost.plurals import counted, noun
from tradepost.untrusted_text import plain

BYTES_MAX: Final = 10 << 30
STDOUT: Final = "-"

app = typer.Typer(
    help="Add, fetch and verify content in IPFS's format.", no_args_is_help=True, add_completion=False
)

LocalPath = Annotated[Path, typer.Argument(metavar="PATH", help="A file, a directory or a symbolic link.")]
Hidden = Annotated[bool, typer.Option("--hidden", "-H", help="Include entries whose names begin with a dot.")]
Root = Annotated[
    str, typer.Argument(metavar="CID", help="The root CID of a file, a directory or a manifest.")
]
Address = Annotated[str, typer.Argument(metavar="CID[/PATH]", help="A CID, optionally with a path below it.")]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="TRADEPOST_CONTENT", help="The folder of the block store.", show_default=False
    ),
]
Budget = Annotated[
    int,
    integer_option("--budget", envvar="TRADEPOST_CONTENT_BYTES", about="The byte budget of the store."),
]
Gateways = Annotated[
    list[str] | None,
    typer.Option("--gateway", help="A trustless gateway to fetch from, such as a broker's URL; repeatable."),
]
KuboAddress = Annotated[
    str | None, typer.Option("--kubo", help="A Kubo daemon's RPC API, such as /ip4/127.0.0.1/tcp/5001.")
]


@app.command()
def cid(path: LocalPath, hidden: Hidden = False, as_json: Json = False) -> None:
    """Print the CID of a file or directory, the same as `ipfs add -r --cid-version=1`. Stores nothing."""
    with progress_bar("Hashing", _file_bytes(path)) as on_bytes:
        root = add_path(path, put=None, hidden=hidden, on_bytes=on_bytes)
    show({"cid": root}, root, as_json=as_json)


@app.command()
def add(
    path: LocalPath,
    hidden: Hidden = False,
    car: Annotated[bool, typer.Option("--car", help="PATH is a CAR: add the blocks in it.")] = False,
    pin: Annotated[bool, typer.Option(help="Pin it: keep it until it is unpinned.")] = True,
    kubo: KuboAddress = None,
    store: Store = None,
    budget: Budget = BYTES_MAX,
    as_json: Json = False,
) -> None:
    """Add a file, a directory or a CAR to the store, or to a Kubo daemon, and print its CID or its roots."""
    with nullcontext(Kubo(kubo)) if kubo else _adding(store, budget) as target:
        with progress_bar("Adding", _file_bytes(path)) as on_bytes:
            roots = _add_car(path, target) if car else (_add_tree(path, target, hidden, on_bytes),)
        if pin:
            for root in roots:
                _pin_added(target, root)
    show({"roots": roots} if car else {"cid": roots[0]}, "\n".join(roots), as_json=as_json)


@app.command()
def get(
    address: Address,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="The path to write to, - for stdout. Default: the content's name."
        ),
    ] = None,
    car: Annotated[
        bool, typer.Option("--car", help="Write a CAR with the blocks that prove the path.")
    ] = False,
    bytes_max: Annotated[int, integer_option(about="Reject content larger than this.")] = BYTES_MAX,
    gateway: Gateways = None,
    kubo: KuboAddress = None,
    store: Store = None,
    budget: Budget = BYTES_MAX,
    as_json: Json = False,
) -> None:
    """Write a file or a tree, from the store and then from the sources given, each block verified.

    After a break, run it again: only what is missing is fetched.
    """
    root, segments = split_path_argument(address)
    target = output or (segments[-1] if segments else root)
    if target != STDOUT:
        _check_free(Path(target))

    async def run(opened: FolderStore) -> tuple[Cid, FetchProgress]:
        async with _fetcher(opened, gateway, kubo) as fetcher:
            end = await resolve(root, segments, fetcher.get)
            fetched = await _fetch(fetcher, end, bytes_max)
            if car:
                await _write(target, export_car(root, segments, fetcher.get))
            elif target == STDOUT:
                await _write(target, fetcher.stream_file(end, bytes_max=bytes_max))
            else:
                await extract(end, fetcher.get, Path(target), bytes_max=bytes_max)
            return end, fetched

    with _opened(store, budget) as opened:
        end, fetched = asyncio.run(run(opened))
    if target != STDOUT:
        view = {"cid": end, "output": target, "blocks": fetched.blocks, "bytes": fetched.bytes}
        show(view, plain(target), as_json=as_json)


@app.command(name="ls")
def list_(
    address: Annotated[str | None, typer.Argument(metavar="[CID[/PATH]]", help="A directory.")] = None,
    gateway: Gateways = None,
    kubo: KuboAddress = None,
    store: Store = None,
    budget: Budget = BYTES_MAX,
    as_json: Json = False,
) -> None:
    """List a directory; without a CID, list the pins of the store."""
    if address is None:
        with _opened(store, budget) as opened:
            pins, bytes_used = opened.pins(), opened.bytes_used
        used = f"{bytes_used:,} of {budget:,} bytes are used"
        view = {"pins": pins, "bytes_used": bytes_used, "bytes_max": budget}
        show(view, "\n".join([*pins, used]), as_json=as_json)
        return
    root, segments = split_path_argument(address)

    async def run(opened: FolderStore) -> list[dict[str, Any]]:
        async with _fetcher(opened, gateway, kubo) as fetcher:
            end = await resolve(root, segments, fetcher.get)
            async with aclosing(list_directory(end, fetcher.get)) as entries:
                return [
                    {"cid": entry.cid, "tree_bytes": entry.tree_bytes, "name": plain(entry.name)}
                    async for entry in entries
                ]

    with _opened(store, budget) as opened:
        entries = sorted(asyncio.run(run(opened)), key=lambda entry: str(entry["name"]))
    lines = (f"{entry['cid']} {entry['tree_bytes']:>15,} {entry['name']}" for entry in entries)
    show({"entries": entries}, "\n".join(lines), as_json=as_json)


@app.command()
def pin(root: Root, store: Store = None, budget: Budget = BYTES_MAX, as_json: Json = False) -> None:
    """Pin a CID and everything below it; all of its blocks must be in the store."""
    cid = parse_cid_argument(root)
    with _opened(store, budget) as opened:
        opened.pin(cid)
    show({"pinned": cid}, cid, as_json=as_json)


@app.command()
def unpin(root: Root, store: Store = None, budget: Budget = BYTES_MAX, as_json: Json = False) -> None:
    """Remove the pin of a CID; its blocks are evicted when space is needed."""
    cid = parse_cid_argument(root)
    with _opened(store, budget) as opened:
        opened.unpin(cid)
    show({"unpinned": cid}, cid, as_json=as_json)


@app.command()
def verify(store: Store = None, budget: Budget = BYTES_MAX, as_json: Json = False) -> None:
    """Hash every block in the store and follow every pin. Blocks that changed on disk are removed.

    Exit 0 only if no block was bad and none is missing.
    """
    with _opened(store, budget) as opened, progress_bar("Verifying", opened.bytes_used) as on_bytes:
        audit = opened.verify(on_bytes=on_bytes)
    lines = [f"bad, removed: {one}" for one in audit.bad] + [f"missing: {one}" for one in audit.missing]
    match = noun(audit.blocks, "matches its CID", "match their CIDs")
    lines.append(f"{counted(audit.blocks, 'block')} of {audit.bytes:,} bytes {match}")
    show(audit, "\n".join(lines), as_json=as_json)
    if audit.bad:
        raise ContentMismatch(f"{counted(len(audit.bad), 'block')} changed on disk", hint="Fetch them again.")
    if audit.missing:
        raise UnknownCid(f"{len(audit.missing):,} pinned blocks are missing", hint="Fetch them again.")


@app.command()
def gc(store: Store = None, budget: Budget = BYTES_MAX, as_json: Json = False) -> None:
    """Remove every block that is not pinned."""
    with _opened(store, budget) as opened:
        blocks, freed = opened.gc()
    show(
        {"blocks": blocks, "bytes": freed},
        f"{counted(blocks, 'block')} of {freed:,} bytes {noun(blocks, 'was', 'were')} removed",
        as_json=as_json,
    )


@contextmanager
def _opened(folder: Path | None, budget: int) -> Iterator[FolderStore]:
    """The store. What the disk refuses within this, and nobody took for something else, is its business."""
    try:
        yield FolderStore(folder or user_data_path("tradepost") / "content", bytes_max=budget)
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise ContentStoreFull(f"the disk is full: {error}") from None
        raise ContentStoreUnusable(f"the block store: {error}") from None


@contextmanager
def _adding(folder: Path | None, budget: int) -> Iterator[FolderStore | Kubo]:
    """The store while something is added that no other process, which makes room or runs gc, may forget.

    (When a daemon does that, is its owner's business.)
    """
    with _opened(folder, budget) as opened, opened.adding():
        yield opened


@asynccontextmanager
async def _fetcher(
    store: FolderStore, gateways: list[str] | None, kubo: str | None
) -> AsyncIterator[Fetcher]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        sources: list[Source] = [GatewaySource(url, session=session) for url in gateways or ()]
        if kubo is not None:
            sources.append(KuboSource(kubo, session=session))
        yield Fetcher(sources, store=store)


async def _fetch(fetcher: Fetcher, end: Cid, bytes_max: int) -> FetchProgress:
    with progress_bar("Fetching", None) as on_bytes:
        done = 0

        def on_progress(progress: FetchProgress) -> None:
            nonlocal done
            on_bytes(progress.bytes - done)
            done = progress.bytes

        return await fetcher.fetch(end, bytes_max=bytes_max, on_progress=on_progress)


def _add_tree(path: Path, target: FolderStore | Kubo, hidden: bool, on_bytes: Callable[[int], None]) -> Cid:
    if isinstance(target, Kubo):
        return target.add(path, hidden=hidden)
    return add_path(path, put=target.put, hidden=hidden, on_bytes=on_bytes)


def _add_car(path: Path, target: FolderStore | Kubo) -> tuple[Cid, ...]:
    try:
        with path.open("rb") as file:
            bytes_max = _file_bytes(path) or BYTES_MAX  # a pipe does not say
            if isinstance(target, Kubo):
                return target.import_car(file, bytes_max=bytes_max)
            return import_car(file, put=target.put, bytes_max=bytes_max).roots
    except OSError as error:
        raise UnreadableContent(str(error)) from None


def _pin_added(target: FolderStore | Kubo, root: Cid) -> None:
    try:
        target.pin(root)
    except UnknownCid as error:
        error.hint = "Add the missing blocks first, or use --no-pin to add only a part of the DAG."
        raise


async def _write(target: str, pieces: AsyncGenerator[bytes, None]) -> None:
    try:
        with _sink(target) as sink:
            async with aclosing(pieces):
                async for piece in pieces:
                    sink.write(piece)
            sink.flush()
    except OSError as error:
        raise UnreadableContent(str(error)) from None


@contextmanager
def _sink(target: str) -> Iterator[BinaryIO]:
    if target == STDOUT:
        yield sys.stdout.buffer
        return
    with open(target, "xb") as file:
        try:
            yield file
        except BaseException:
            os.unlink(target)  # half of it, which looks like all of it
            raise


def _check_free(target: Path) -> None:
    """Tell before anything is fetched that nothing can be written there."""
    if os.path.lexists(target):
        raise UnreadableContent(f"{target} already exists", hint="Name a path that does not exist.")
    if not target.parent.is_dir():
        raise UnreadableContent(f"{target.parent} is not a directory", hint="Create it first.")
    check_writable(target)


def _file_bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
