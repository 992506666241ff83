"""What a trustless gateway decides, and the one in `testing` that is built on it."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from multiformats import CID, multihash

from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink
from tradepost.content.transfer.car import import_car
from tradepost.content.transfer.export import EntityBytes
from tradepost.content.transfer.gateway import (
    CAR_CONTENT_TYPE,
    GatewayRequest,
    is_unchanged,
    read_range,
    read_request,
    wanted_range,
)
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.files import CHUNK_BYTES
from tradepost.content.unixfs.hamt import add_sharded
from tradepost.errors import (
    InvalidCid,
    InvalidRequest,
    NotAcceptable,
    RangeNotSatisfiable,
    UnknownCid,
    UnknownPath,
)
from tradepost.testing.gateway import Gateway

ROOT = cid_of_block(b"root", "raw")
#: CIDs, but not of the kind that is used here: version 0, another alphabet, another hash, bytes in the CID.
FOREIGN = [
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR",
    str(CID.decode(ROOT).set(base="base58btc")),
    str(CID("base32", 1, "raw", multihash.digest(b"root", "sha2-512"))),
    str(CID("base32", 1, "raw", multihash.digest(b"root", "identity"))),
]


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ({"format": "raw"}, "", GatewayRequest(ROOT, (), "raw")),
        ({"format": "car"}, "text/html", GatewayRequest(ROOT, (), "car")),
        ({}, "application/vnd.ipld.raw", GatewayRequest(ROOT, (), "raw")),
        ({}, CAR_CONTENT_TYPE, GatewayRequest(ROOT, (), "car")),
        ({}, "text/html, application/vnd.ipld.car;q=0.9", GatewayRequest(ROOT, (), "car")),
        ({}, "application/vnd.ipld.car;q=0.9, application/vnd.ipld.raw", GatewayRequest(ROOT, (), "raw")),
        ({}, "application/vnd.ipld.raw;q=0, application/vnd.ipld.car", GatewayRequest(ROOT, (), "car")),
        ({}, "application/vnd.ipld.car;order=new, application/vnd.ipld.raw", GatewayRequest(ROOT, (), "raw")),
        ({"format": "raw"}, "application/vnd.ipld.car", GatewayRequest(ROOT, (), "raw")),
        ({"format": "car", "car-order": "dfs", "car-dups": "n"}, "", GatewayRequest(ROOT, (), "car")),
        ({"car-dups": "n"}, "application/vnd.ipld.car;dups=y", GatewayRequest(ROOT, (), "car")),
        ({"format": "car", "dag-scope": "block"}, "", GatewayRequest(ROOT, (), "car", "block")),
        (
            {"format": "car", "entity-bytes": "-5:*"},
            "",
            GatewayRequest(ROOT, (), "car", "entity", EntityBytes(-5, None)),
        ),
    ],
)
def test_requests_are_read(query: dict[str, str], accept: str, expected: GatewayRequest) -> None:
    assert read_request(ROOT, query, accept) == expected


@pytest.mark.parametrize(
    ("path", "query", "accept", "error"),
    [
        (ROOT, {}, "", InvalidRequest),
        (ROOT, {}, "application/vnd.ipld.raw;q=0", NotAcceptable),
        (ROOT, {}, "application/vnd.ipld.raw;q=nan", NotAcceptable),
        (ROOT, {"format": "car", "car-version": "2"}, "", NotAcceptable),
        (ROOT, {"format": "car", "car-dups": "y"}, "application/vnd.ipld.car;dups=n", NotAcceptable),
        (ROOT, {}, "*/*", NotAcceptable),
        (ROOT, {"format": "tar"}, "application/vnd.ipld.raw", NotAcceptable),
        (ROOT, {}, "application/vnd.ipld.car; version=2", NotAcceptable),
        (ROOT, {}, "application/vnd.ipld.car; dups=y", NotAcceptable),
        (ROOT, {"format": "car", "dag-scope": "some"}, "", InvalidRequest),
        (ROOT, {"format": "car", "entity-bytes": "1-2"}, "", InvalidRequest),
        (ROOT, {"format": "car", "entity-bytes": "1:٣"}, "", InvalidRequest),
        (ROOT, {"format": "car", "entity-bytes": "9" * 99 + ":*"}, "", InvalidRequest),
        ("nonsense", {"format": "raw"}, "", InvalidCid),
        ("b", {"format": "raw"}, "", InvalidCid),
        ("z" * 201, {"format": "raw"}, "", InvalidCid),
        *((cid, {"format": "raw"}, "", UnknownCid) for cid in FOREIGN),
        (f"{ROOT}/../etc", {"format": "raw"}, "", UnknownPath),
    ],
)
def test_other_requests_are_refused(
    path: str, query: dict[str, str], accept: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        read_request(path, query, accept)


def test_each_answer_has_its_own_tag_and_may_be_kept() -> None:
    end = cid_of_block(b"end", "raw")
    asked = [
        GatewayRequest(ROOT, ("a",), "raw"),
        GatewayRequest(ROOT, ("a",), "car"),
        GatewayRequest(ROOT, ("a",), "car", "block"),
        GatewayRequest(ROOT, ("b",), "car"),
        GatewayRequest(ROOT, ("a",), "car", "entity", EntityBytes(0, 5)),
    ]
    assert len({one.etag(end) for one in asked}) == len(asked)
    headers = asked[0].headers(end)
    assert headers["ETag"] == f'"{end}.raw"'
    assert "immutable" in headers["Cache-Control"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert asked[1].headers(end)["Content-Type"] == CAR_CONTENT_TYPE


@pytest.mark.parametrize(
    ("if_none_match", "unchanged"),
    [
        (None, False),
        ('"x.raw"', True),
        ('W/"x.raw"', True),
        ('"y", "x.raw"', True),
        ("*", True),
        ('"y"', False),
    ],
)
def test_what_is_known_is_not_sent_again(if_none_match: str | None, unchanged: bool) -> None:
    assert is_unchanged(if_none_match, '"x.raw"') is unchanged


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", range(1)),
        ("bytes=2-", range(2, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("bytes=5-99", range(5, 10)),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("lines=1-2", None),
    ],
)
def test_ranges_are_read(header: str | None, expected: range | None) -> None:
    assert read_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=5-4", "bytes=-0"])
def test_ranges_beyond_the_block_are_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        read_range(header, 10)


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {"Range": "bytes=1-2"}, range(1, 3)),
        ("HEAD", {"Range": "bytes=1-2"}, None),
        ("GET", {"Range": "bytes=1-2", "If-Range": '"x.raw"'}, range(1, 3)),
        ("GET", {"Range": "bytes=1-2", "If-Range": '"y.raw"'}, None),
        ("GET", {}, None),
    ],
)
def test_ranges_are_for_get_and_for_what_is_meant(
    method: str, headers: dict[str, str], expected: range | None
) -> None:
    assert wanted_range(method, headers, '"x.raw"', 10) == expected


def test_a_name_cannot_break_out_of_its_header() -> None:
    asked = GatewayRequest(ROOT, ("a\r\nSet-Cookie: x", "ü/b"), "raw")
    assert asked.headers(ROOT)["X-Ipfs-Path"] == f"/ipfs/{ROOT}/a%0D%0ASet-Cookie%3A%20x/%C3%BC%2Fb"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (EntityBytes(0, None), range(10)),
        (EntityBytes(2, 4), range(2, 5)),
        (EntityBytes(-3, None), range(7, 10)),
        (EntityBytes(0, -2), range(9)),
        (EntityBytes(-30, 0), range(1)),
    ],
)
def test_bytes_of_an_entity_count_from_either_end(asked: EntityBytes, expected: range) -> None:
    assert asked.within(10) == expected


class Memory(dict[Cid, bytes]):
    """Blocks to serve."""

    def get(self, cid: Cid) -> bytes:  # type: ignore[override]
        if cid not in self:
            raise UnknownCid(f"{cid} is not in memory")
        return self[cid]

    def has(self, cid: Cid) -> bool:
        return cid in self


@dataclass(frozen=True)
class Served:
    """A gateway with a tree in it: its URL, a session, and the tree's parts."""

    url: str
    session: aiohttp.ClientSession
    blocks: Memory
    root: Cid
    file: Cid
    leaves: list[Cid]
    many: Cid

    async def get(self, path: str, **query: str) -> tuple[int, bytes]:
        async with self.session.get(f"{self.url}/ipfs/{path}", params=query) as response:
            return response.status, await response.read()

    async def car(self, path: str, **query: str) -> set[Cid]:
        status, body = await self.get(path, format="car", **query)
        assert status == 200
        blocks: dict[Cid, bytes] = {}
        import_car(io.BytesIO(body), put=blocks.__setitem__, bytes_max=len(body))
        return set(blocks)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    blocks = Memory()
    (tmp_path / "tree").mkdir()
    content = random.Random(2).randbytes(4 * CHUNK_BYTES)
    (tmp_path / "tree" / "file").write_bytes(content)
    root = add_path(tmp_path / "tree", put=blocks.__setitem__)
    leaves: list[Cid] = []
    file = add_bytes(content, put=lambda cid, _: leaves.append(cid))
    many = add_sharded(
        [PbLink(leaves[0], f"n{number}", 1) for number in range(600)], put=blocks.__setitem__
    ).cid
    async with Gateway(blocks).serve() as url, aiohttp.ClientSession() as session:
        yield Served(url, session, blocks, root, file, leaves[:-1], many)


async def test_blocks_are_served_by_path_whole_and_in_part(served: Served) -> None:
    block = served.blocks[served.file]
    assert await served.get(f"{served.root}/file", format="raw") == (200, block)
    async with served.session.get(
        f"{served.url}/ipfs/{served.file}?format=raw", headers={"Range": "bytes=1-3"}
    ) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes 1-3/{len(block)}"
        assert await response.read() == block[1:4]
    async with served.session.head(f"{served.url}/ipfs/{served.file}?format=raw") as response:
        assert (response.status, response.content_length) == (200, len(block))
        known = {"If-None-Match": response.headers["ETag"]}
    async with served.session.get(f"{served.url}/ipfs/{served.file}?format=raw", headers=known) as response:
        assert (response.status, await response.read()) == (304, b"")


async def test_cars_have_what_their_scope_asks(served: Served) -> None:
    way = {served.root}
    file = {served.file, *served.leaves}
    path = f"{served.root}/file"
    assert await served.car(path, **{"dag-scope": "block"}) == way | {served.file}
    assert await served.car(path, **{"dag-scope": "entity"}) == way | file
    assert await served.car(path) == way | file
    assert await served.car(served.root, **{"dag-scope": "entity"}) == way
    assert await served.car(served.root) == way | file
    listing = await served.car(served.many, **{"dag-scope": "entity"})
    assert len(listing) > 100
    assert served.leaves[0] not in listing
    assert await served.car(served.many) == listing | {served.leaves[0]}
    # One entry of a sharded directory is proved by the shards on its way, not by all of them.
    assert len(await served.car(f"{served.many}/n7", **{"dag-scope": "block"})) <= 4


async def test_cars_of_a_range_have_the_leaves_that_it_touches(served: Served) -> None:
    first, second, third, fourth = served.leaves
    for text, leaves in {
        "0:*": {first, second, third, fourth},
        f"{CHUNK_BYTES}:{2 * CHUNK_BYTES - 1}": {second},
        f"{CHUNK_BYTES - 1}:{CHUNK_BYTES}": {first, second},
        "-1:*": {fourth},
        f"{3 * CHUNK_BYTES + 1}:{99 * CHUNK_BYTES}": {fourth},
        # Nothing, beyond the end or between its ends: the root says why.
        f"{4 * CHUNK_BYTES}:*": set(),
        "9:5": set(),
    }.items():
        assert await served.car(served.file, **{"entity-bytes": text}) == {served.file, *leaves}


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("{absent}", {"format": "raw"}, 404),
        ("{absent}", {"format": "car"}, 404),
        ("{root}/nothing", {"format": "car"}, 404),
        ("{root}", {}, 406),
        ("bafkqaaa", {"format": "raw"}, 200),
        ("bafkqaaa", {"format": "car"}, 200),
        (FOREIGN[0], {"format": "raw"}, 404),
        ("nonsense", {"format": "raw"}, 400),
        ("{root}", {"format": "car", "dag-scope": "x"}, 400),
    ],
)
async def test_errors_have_their_status(
    served: Served, path: str, query: dict[str, str], status: int
) -> None:
    absent = cid_of_block(b"absent", "raw")
    assert (await served.get(path.format(absent=absent, root=served.root), **query))[0] == status


async def test_a_car_that_cannot_be_finished_is_cut_off(served: Served) -> None:
    del served.blocks[served.leaves[2]]
    with pytest.raises(aiohttp.ClientPayloadError):
        await served.get(served.file, format="car")
