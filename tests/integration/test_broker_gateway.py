"""The broker as an IPFS trustless gateway, and as a taker of CARs."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tradepost.broker_url import raise_for_problem
from tradepost.content import Cid, add_bytes, cid_of_block, read_file
from tradepost.content.transfer.car import encode_header, encode_section, import_car
from tradepost.content.transfer.gateway import CAR_CONTENT_TYPE, CAR_TYPE, RAW_TYPE
from tradepost.errors import (
    ContentTooLarge,
    InvalidCar,
    InvalidRequest,
    QuotaExceeded,
    Unauthorized,
    UnknownCid,
    UploadMismatch,
)
from tradepost.pipeline.manifest import encode_manifest
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN
from tradepost_broker.reporting.views import ImportedCar
from tradepost_broker.testing import LocalBroker, SamplePipeline, local_broker

QUOTA = 1_000_000


@dataclass(frozen=True)
class Published:
    """A broker with one published pipeline, whose kernel has three leaves and a node above them."""

    broker: LocalBroker
    key: str
    pipeline: SamplePipeline

    @property
    def url(self) -> str:
        return f"{self.broker.url}/ipfs/{self.pipeline.cid}"

    @property
    def kernel(self) -> Cid:
        return Cid(self.pipeline.manifest.stages[0].artifact)

    @property
    def blocks(self) -> dict[Cid, bytes]:
        manifest = encode_manifest(self.pipeline.manifest)
        return {self.pipeline.cid: manifest, **dict(self.pipeline.blocks())}

    async def car(self, path: str, **query: str) -> tuple[tuple[Cid, ...], dict[Cid, bytes]]:
        body = await self.broker.call("GET", f"/ipfs/{path}", params={"format": "car", **query})
        blocks: dict[Cid, bytes] = {}
        imported = import_car(io.BytesIO(body), put=blocks.__setitem__, bytes_max=1 << 30)
        return imported.roots, blocks


@pytest.fixture
async def published(tmp_path: Path) -> AsyncIterator[Published]:
    async with local_broker(tmp_path, upload_bytes_max=QUOTA) as broker:
        key = await broker.account()
        pipeline = SamplePipeline(kernel_bytes=600_000)
        await broker.publish(key, pipeline)
        yield Published(broker, key, pipeline)


async def test_a_block_comes_raw(published: Published) -> None:
    url, cid, session = f"{published.url}?format=raw", published.pipeline.cid, published.broker.session
    async with session.get(url) as response:
        assert await response.read() == published.blocks[cid]
        assert response.content_type == RAW_TYPE
        assert response.headers["ETag"] == f'"{cid}.raw"'
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    async with session.head(url) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.content_length == len(published.blocks[cid])
    async with session.get(published.url, headers={"Accept": RAW_TYPE}) as response:
        assert response.status == 200
    async with session.get(url, headers={"Range": "bytes=2-5"}) as response:
        assert (response.status, await response.read()) == (206, published.blocks[cid][2:6])


@pytest.mark.parametrize("form", ["raw", "car"])
async def test_what_is_known_is_not_sent_again(published: Published, form: str) -> None:
    url, session = f"{published.url}?format={form}", published.broker.session
    async with session.get(url) as response:
        etag = response.headers["ETag"]
    async with session.get(url, headers={"If-None-Match": etag}) as response:
        assert (response.status, response.headers["ETag"], await response.read()) == (304, etag, b"")


async def test_the_car_of_a_pipeline_is_the_whole_pipeline(published: Published) -> None:
    roots, blocks = await published.car(published.pipeline.cid)
    assert roots == (published.pipeline.cid,)
    assert blocks == published.blocks
    async with published.broker.session.get(published.url, headers={"Accept": CAR_TYPE}) as response:
        assert response.headers["Content-Type"] == CAR_CONTENT_TYPE
    async with published.broker.session.head(f"{published.url}?format=car") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_car_has_what_its_scope_says(published: Published) -> None:
    cid, kernel = published.pipeline.cid, published.kernel
    assert (await published.car(cid, **{"dag-scope": "block"}))[1].keys() == {cid}
    assert (await published.car(cid, **{"dag-scope": "entity"}))[1].keys() == {cid}
    whole = (await published.car(kernel, **{"dag-scope": "entity"}))[1]
    assert whole.keys() == (await published.car(kernel))[1].keys()

    async def get(block: Cid) -> bytes:
        return whole[block]

    assert add_bytes(await read_file(kernel, get, bytes_max=1 << 20), put=None) == kernel
    part = (await published.car(kernel, **{"entity-bytes": "0:9"}))[1]
    assert kernel in part
    assert len(part) == 2 < len(whole)


async def test_a_path_is_proved_from_its_root(published: Published) -> None:
    cid, kernel = published.pipeline.cid, published.kernel
    roots, blocks = await published.car(f"{cid}/stages/0/artifact", **{"dag-scope": "block"})
    assert (roots, blocks.keys()) == ((kernel,), {cid, kernel})
    raw = await published.broker.call("GET", f"/ipfs/{cid}/stages/0/artifact?format=raw")
    assert raw == published.blocks[kernel]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("", "*/*", 406),
        ("?format=car&car-dups=y", "", 406),
        ("?format=tar", RAW_TYPE, 406),
        ("/nothing/here?format=raw", "", 404),
        ("/nothing?format=car", "", 404),
        ("?format=car&dag-scope=some", "", 400),
    ],
)
async def test_other_requests_are_refused(published: Published, path: str, accept: str, status: int) -> None:
    async with published.broker.session.get(published.url + path, headers={"Accept": accept}) as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"


async def test_a_block_that_was_only_uploaded_is_not_public(published: Published) -> None:
    secret = b"mine"
    cid = cid_of_block(secret, "raw")
    await published.broker.call("PUT", f"/v1/blocks/{cid}", key=published.key, body=secret)
    async with published.broker.session.get(
        f"{published.broker.url}/ipfs/{cid}?format=raw", headers={"If-None-Match": "*"}
    ) as response:
        assert response.status == 404


async def test_a_car_that_cannot_be_finished_is_cut_off(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = published.pipeline.blocks()[2][0]
    next((tmp_path / "blocks").glob(f"??/{leaf}")).unlink()
    async with published.broker.session.get(f"{published.url}?format=car") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    cut = [one.__dict__["path"] for one in caplog.records if one.__dict__.get("action") == "answer_cut"]
    assert cut == [f"/ipfs/{published.pipeline.cid}"]


async def test_only_so_many_cars_are_sent_at_once(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, resumed = published.broker.running.parts.uploads, asyncio.Event()
    read_public = uploads.read_public

    async def slowly(cid: Cid) -> bytes:
        if cid != published.pipeline.cid:
            await resumed.wait()
        return await read_public(cid)

    monkeypatch.setattr(uploads, "read_public", slowly)
    url, session = f"{published.url}?format=car", published.broker.session
    async with AsyncExitStack() as stack:
        sent = [await stack.enter_async_context(session.get(url)) for _ in range(16)]
        async with session.get(url) as one_more:
            assert one_more.status == 429
        resumed.set()
        assert all([await car.read() for car in sent])
    async with session.get(url) as later:
        assert later.status == 200


def car_of(*sections: tuple[Cid, bytes]) -> bytes:
    return encode_header((sections[0][0],)) + b"".join(encode_section(*one) for one in sections)


async def upload(
    published: Published, car: bytes, *, key: str = "", media: str = CAR_TYPE, encoding: str = "identity"
) -> ImportedCar:
    async with published.broker.session.post(
        f"{published.broker.url}/v1/blocks",
        data=io.BytesIO(car),
        headers={
            "Authorization": f"Bearer {key or published.key}",
            "Content-Type": media,
            "Content-Encoding": encoding,
        },
    ) as response:
        await raise_for_problem(response)
        return msgspec.json.decode(await response.read(), type=ImportedCar)


def used_bytes(published: Published) -> int:
    return published.broker.running.parts.uploads.used_bytes("account:alice")


async def test_a_car_is_kept_as_if_each_block_had_been_put(published: Published) -> None:
    blocks: dict[Cid, bytes] = {}
    root = add_bytes(b"".join(b"%08d" % n for n in range(40_000)), put=blocks.__setitem__)
    before = used_bytes(published)
    made = await upload(published, car_of(*reversed(blocks.items())))
    assert made == ImportedCar(roots=(root,), blocks=3, bytes=sum(map(len, blocks.values())))
    for cid, block in blocks.items():
        assert await published.broker.call("GET", f"/v1/blocks/{cid}", key=published.key) == block
    counted = sum(max(len(block), BLOCK_BYTES_MIN) for block in blocks.values())
    assert used_bytes(published) == before + counted
    await upload(published, car_of(*blocks.items()))  # what is here already costs nothing
    assert used_bytes(published) == before + counted


async def test_a_downloaded_pipeline_is_a_car_that_another_account_can_send(published: Published) -> None:
    car = await published.broker.call("GET", f"/ipfs/{published.pipeline.cid}?format=car")
    bob = await published.broker.account("bob")
    made = await upload(published, car, key=bob)
    assert made.roots == (published.pipeline.cid,)
    kernel = await published.broker.call("GET", f"/v1/blocks/{published.kernel}", key=bob)
    assert kernel == published.blocks[published.kernel]


async def test_a_car_counts_against_the_quota(published: Published) -> None:
    left = QUOTA - used_bytes(published)
    blocks = [bytes([n]) * 100_000 for n in range(left // 100_000 + 1)]
    with pytest.raises(QuotaExceeded):
        await upload(published, car_of(*((cid_of_block(one, "raw"), one) for one in blocks)))
    assert used_bytes(published) <= QUOTA
    assert used_bytes(published) == QUOTA - left + 100_000 * (len(blocks) - 1)


async def test_a_car_larger_than_the_quota_is_not_read_to_its_end(published: Published) -> None:
    same = (cid_of_block(b"x" * 100_000, "raw"), b"x" * 100_000)
    with pytest.raises(ContentTooLarge):
        await upload(published, car_of(*[same] * 11))
    assert await upload(published, car_of(*[same] * 9)) == ImportedCar(
        roots=(same[0],), blocks=9, bytes=900_000
    )


async def test_a_compressed_car_counts_by_what_it_becomes(published: Published) -> None:
    same = (cid_of_block(bytes(100_000), "raw"), bytes(100_000))
    bomb = gzip.compress(car_of(*[same] * 500))
    assert len(bomb) < 100_000
    before = used_bytes(published)
    with pytest.raises(ContentTooLarge):
        await upload(published, bomb, encoding="gzip")
    assert used_bytes(published) <= before + 100_000


GOOD = (cid_of_block(b"good", "raw"), b"good")


@pytest.mark.parametrize(
    ("car", "error"),
    [
        (b"", InvalidCar),
        (b"not a car", InvalidCar),
        (car_of(GOOD)[:-1], InvalidCar),
        (car_of(GOOD, (GOOD[0], b"evil")), UploadMismatch),
        (car_of(GOOD) + b"\xff" * 12, InvalidCar),
    ],
)
async def test_what_is_no_car_is_refused(published: Published, car: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await upload(published, car)


async def test_only_accounts_send_cars_and_only_cars(published: Published) -> None:
    with pytest.raises(Unauthorized):
        await upload(published, car_of(GOOD), key="nobody")
    with pytest.raises(InvalidRequest):
        await upload(published, car_of(GOOD), media="application/json")
    with pytest.raises(UnknownCid):
        await published.broker.call("GET", f"/v1/blocks/{GOOD[0]}", key=published.key)
