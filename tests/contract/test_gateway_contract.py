"""What trustless gateways answer: the broker, the one for tests, and Kubo's, with which they are compared.

(Spec: specs.ipfs.tech/http-gateways/trustless-gateway.) Each answer that `docs/http-api.md` tells of is here.
Where Kubo 0.41 does other than the specification, ours alone are held to it.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tradepost.content import Cid, FolderStore, cid_of_block
from tradepost.content.transfer.car import encode_header, encode_section, import_car
from tradepost.content.transfer.gateway import CAR_TYPE, RAW_TYPE
from tradepost.content.transfer.kubo import Kubo
from tradepost.content.unixfs.files import CHUNK_BYTES
from tradepost.pipeline.manifest import encode_manifest
from tradepost.testing.gateway import Gateway
from tradepost_broker.testing import SamplePipeline, local_broker

PIPELINE = SamplePipeline(kernel_bytes=2 * CHUNK_BYTES + 100)
ROOT = PIPELINE.cid
KERNEL = Cid(PIPELINE.manifest.stages[0].artifact)
BLOCKS = {ROOT: encode_manifest(PIPELINE.manifest), **dict(PIPELINE.blocks())}
LEAVES = [cid for cid in BLOCKS if len(BLOCKS[cid]) in (CHUNK_BYTES, 100)]
WAY = f"{ROOT}/stages/0/artifact"
SIZE = len(BLOCKS[ROOT])
UNKNOWN = cid_of_block(b"in no pipeline", "raw")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def car(self) -> dict[Cid, bytes]:
        """The blocks of a CAR, in their order."""
        blocks: dict[Cid, bytes] = {}
        import_car(io.BytesIO(self.body), put=blocks.__setitem__, bytes_max=len(self.body))
        return blocks


@dataclass(frozen=True)
class Asked:
    """A gateway that has the pipeline."""

    url: str
    session: aiohttp.ClientSession
    ours: bool

    async def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, f"{self.url}/ipfs/{path}", headers=named, skip_auto_headers=["Accept"]
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@pytest.fixture(params=["broker", "testing", "kubo"])
async def ask(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Asked]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        if request.param == "broker":
            broker = await stack.enter_async_context(local_broker(tmp_path))
            await broker.publish(await broker.account(), PIPELINE)
            url = broker.url
        elif request.param == "testing":
            store = FolderStore(tmp_path, bytes_max=1 << 30)
            for cid, block in BLOCKS.items():
                store.put(cid, block)
            url = await stack.enter_async_context(Gateway(store).serve())
        else:
            daemon = request.getfixturevalue("kubo_daemon")
            car = encode_header((ROOT,)) + b"".join(encode_section(*one) for one in BLOCKS.items())
            Kubo(daemon.api).import_car(io.BytesIO(car), bytes_max=len(car))
            url = daemon.gateway
        yield Asked(url, session, request.param != "kubo")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("by", ["query", "accept"])
async def test_a_block(ask: Asked, method: str, by: str) -> None:
    if by == "query":
        answer = await ask(f"{ROOT}?format=raw", method)
    else:
        answer = await ask(ROOT, method, Accept=RAW_TYPE)
    assert answer.status == 200
    assert answer.body == (BLOCKS[ROOT] if method == "GET" else b"")
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == RAW_TYPE
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{ROOT}.bin"')
    assert answer.headers["ETag"] == f'"{ROOT}.raw"'
    assert answer.headers["Cache-Control"] == "public, max-age=29030400, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Ipfs-Path"] == f"/ipfs/{ROOT}"
    if ask.ours:
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("by", ["query", "accept"])
async def test_a_car(ask: Asked, method: str, by: str) -> None:
    if by == "query":
        answer = await ask(f"{ROOT}?format=car", method)
    else:
        answer = await ask(ROOT, method, Accept=f"{CAR_TYPE}; version=1; order=dfs; dups=n")
    assert answer.status == 200
    kind, *options = (part.strip() for part in answer.headers["Content-Type"].split(";"))
    assert (kind, sorted(options)) == (CAR_TYPE, ["dups=n", "order=dfs", "version=1"])
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{ROOT}.car"')
    assert answer.headers["ETag"].startswith(f'W/"{ROOT}.car.')
    assert answer.headers["Cache-Control"] == "public, max-age=29030400, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "none"
    if method == "GET":
        assert list(answer.car)[:2] == [ROOT, KERNEL]  # parents first
        assert answer.car == BLOCKS
    else:
        assert answer.body == b""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{ROOT}?dag-scope=block", {ROOT}),
        (f"{ROOT}?dag-scope=entity", {ROOT}),
        (f"{ROOT}?dag-scope=all", set(BLOCKS)),
        (f"{KERNEL}?dag-scope=block", {KERNEL}),
        (f"{KERNEL}?dag-scope=entity", {KERNEL, *LEAVES}),
        (f"{WAY}?dag-scope=block", {ROOT, KERNEL}),
        (f"{WAY}?dag-scope=all", {ROOT, KERNEL, *LEAVES}),
        (f"{KERNEL}?entity-bytes=0:9", {KERNEL, LEAVES[0]}),
        (f"{KERNEL}?entity-bytes={CHUNK_BYTES - 1}:{CHUNK_BYTES}", {KERNEL, *LEAVES[:2]}),
        (f"{KERNEL}?entity-bytes=-1:*", {KERNEL, LEAVES[2]}),
        (f"{WAY}?entity-bytes=0:-{CHUNK_BYTES + 101}", {ROOT, KERNEL, LEAVES[0]}),
        (f"{ROOT}?entity-bytes=0:9", {ROOT}),
    ],
)
async def test_a_car_has_the_blocks_that_were_asked_for(ask: Asked, path: str, expected: set[Cid]) -> None:
    if not ask.ours and "entity-bytes" in path:
        path += "&dag-scope=entity"  # which entity-bytes should imply
    answer = await ask(f"{path}&format=car")
    assert answer.status == 200
    assert set(answer.car) == expected


async def test_answers_that_differ_have_tags_that_differ(ask: Asked) -> None:
    queries = ["format=raw", "format=car", "format=car&dag-scope=block", "format=car&entity-bytes=0:9"]
    tags = {(await ask(f"{KERNEL}?{query}", "HEAD")).headers["ETag"] for query in queries}
    assert len(tags) == len(queries)


@pytest.mark.parametrize("query", ["format=raw", "format=car", "format=car&dag-scope=block"])
async def test_what_is_known_is_not_sent_again(ask: Asked, query: str) -> None:
    etag = (await ask(f"{ROOT}?{query}")).headers["ETag"]
    for known in (etag, f'"other", {etag}', "*"):
        again = await ask(f"{ROOT}?{query}", If_None_Match=known)
        assert (again.status, again.body) == (304, b"")
        if ask.ours:
            assert again.headers["ETag"] == etag
    assert (await ask(f"{ROOT}?{query}", If_None_Match='"other"')).status == 200


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=2-5", range(2, 6)),
        ("bytes=5-", range(5, SIZE)),
        ("bytes=-4", range(SIZE - 4, SIZE)),
        (f"bytes=1-{10 * SIZE}", range(1, SIZE)),
    ],
)
async def test_a_range(ask: Asked, asked: str, part: range) -> None:
    answer = await ask(f"{ROOT}?format=raw", Range=asked)
    assert (answer.status, answer.body) == (206, BLOCKS[ROOT][part.start : part.stop])
    assert answer.headers["Content-Range"] == f"bytes {part.start}-{part.stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(len(part))
    if ask.ours:
        whole = await ask(f"{ROOT}?format=raw", Range=asked, If_Range='"other"')
        assert (whole.status, whole.body) == (200, BLOCKS[ROOT])
        assert (await ask(f"{ROOT}?format=raw", "HEAD", Range=asked)).status == 200


async def test_a_range_beyond_the_block_tells_the_size(ask: Asked) -> None:
    answer = await ask(f"{ROOT}?format=raw", Range=f"bytes={SIZE}-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


async def test_the_query_wins_over_accept(ask: Asked) -> None:
    answer = await ask(f"{ROOT}?format=raw", Accept=CAR_TYPE)
    assert answer.headers["Content-Type"] == RAW_TYPE


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ["raw", "car"])
async def test_the_probe(ask: Asked, method: str, form: str) -> None:
    answer = await ask(f"bafkqaaa?format={form}", method)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(f"application/vnd.ipld.{form}")
    if method == "GET" and form == "car":
        roots = bytes.fromhex("a265726f6f747381d82a45000155000067" + b"version".hex() + "01")
        assert answer.body[1:].startswith(roots)
    else:
        assert answer.body == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{UNKNOWN}?format=raw", 404),
        (f"{UNKNOWN}?format=car", 404),
        ("nonsense?format=raw", 400),
        # The same block by other names: as CIDv0, in base58, and one that has another hash.
        ("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR?format=raw", 404),
        ("zb2rhe5P4gXftAwvA4eXQ5HJwsER2owDyS9sKaQRRVQPn93bA?format=raw", 404),
        (f"{ROOT}?format=car&entity-bytes=x", 400),
        (f"{ROOT}?format=car&dag-scope=some", 400),
        (f"{ROOT}/nothing?format=car", 404),
    ],
)
async def test_what_cannot_be_answered(ask: Asked, method: str, path: str, status: int) -> None:
    if not ask.ours and status == 404 and "car" in path:
        pytest.skip("Kubo sends a CAR that ends early instead")
    assert (await ask(path, method)).status == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ["raw", "car"])
async def test_only_what_is_held_already_if_that_is_asked(ask: Asked, method: str, form: str) -> None:
    answer = await ask(f"{UNKNOWN}?format={form}", method, Cache_Control="only-if-cached")
    assert answer.status == 412
    assert (await ask(f"{ROOT}?format={form}", method, Cache_Control="only-if-cached")).status == 200
    if ask.ours:
        assert answer.body == b""
        listed = await ask(f"{UNKNOWN}?format={form}", method, Cache_Control="no-store, Only-If-Cached")
        assert listed.status == 412
        assert (await ask(f"{ROOT}/nothing?format={form}", Cache_Control="only-if-cached")).status == 404


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ("", "", 400),
        ("", "*/*", 406),
        ("", "text/html", 406),
        ("?format=tar", RAW_TYPE, 406),
        ("?format=car&car-dups=y", "", 406),
        ("", f"{CAR_TYPE}; version=2", 406),
        ("", f"{CAR_TYPE}; order=other", 406),
    ],
)
async def test_formats_that_would_have_to_be_believed(
    ask: Asked, query: str, accept: str, status: int
) -> None:
    if not ask.ours:
        pytest.skip("Kubo's gateway serves deserialized answers and CARs with duplicates as well")
    headers = {"Accept": accept} if accept else {}
    assert (await ask(f"{ROOT}{query}", **headers)).status == status
