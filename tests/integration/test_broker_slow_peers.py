"""Readers and senders who take their time, at a real broker: each is cut off, and its place is for others."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tradepost import AsyncClient
from tradepost.broker_url import raise_for_problem
from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.content.transfer.car import encode_header, encode_section
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.errors import BrokerUnavailable, InvalidRequest, QuotaExceeded
from tradepost.protocol import Grant
from tradepost_broker.testing import LocalBroker, SamplePipeline, echo, local_broker, sample_input

BLOCK = b"block"
CID = cid_of_block(BLOCK, "raw")
CAR = encode_header((CID,)) + encode_section(CID, BLOCK)
#: More than the buffers of both ends of a connection hold.
KERNEL_BYTES = 24 << 20


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that takes in little by itself."""
    address = URL(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    return await asyncio.open_connection(sock=sock, limit=4096)


async def upload(broker: LocalBroker, key: str, pieces: AsyncIterator[bytes]) -> None:
    async with broker.session.post(
        f"{broker.url}/v1/blocks",
        data=pieces,
        headers={"Authorization": f"Bearer {key}", "Content-Type": CAR_TYPE},
    ) as response:
        await raise_for_problem(response)


async def test_a_car_that_nobody_reads_is_cut_off(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = SamplePipeline(kernel_bytes=KERNEL_BYTES)
    await broker.publish(await broker.account(), pipeline)
    monkeypatch.setattr("tradepost_broker.web.slow_peers.WAIT_S_MAX", 0.2)
    reader, writer = await connect(broker.url)
    path = f"/ipfs/{pipeline.cid}"
    writer.write(f"GET {path}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    # Nothing is read until the broker has given up.
    async with asyncio.timeout(180):
        while not any(one.__dict__.get("action") == "answer_cut" for one in caplog.records):
            await broker.tick()
    read = 0
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            read += len(piece)
    assert read < KERNEL_BYTES
    writer.close()


async def test_an_upload_that_stalls_ends(broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await broker.account()
    monkeypatch.setattr("tradepost_broker.web.slow_peers.WAIT_S_MAX", 0.2)

    async def stalling() -> AsyncIterator[bytes]:
        yield CAR[:50]
        await asyncio.Event().wait()

    with pytest.raises(InvalidRequest, match="stalled"):
        async with asyncio.timeout(180):
            await upload(broker, key, stalling())


async def test_one_account_sends_four_cars_at_once(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    resumed = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield CAR[:50]
        await resumed.wait()
        yield CAR[50:]

    async def whole() -> AsyncIterator[bytes]:
        yield CAR

    uploads = {asyncio.create_task(upload(broker, alice, waiting())) for _ in range(5)}
    (refused,), taken = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(refused.exception(), QuotaExceeded)
    await upload(broker, bob, whole())  # one account does not keep out another
    resumed.set()
    await asyncio.gather(*taken)
    await upload(broker, alice, whole())


async def test_one_account_sends_so_many_blocks_at_once(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    resumed = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield BLOCK[:2]
        await resumed.wait()
        yield BLOCK[2:]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def put() -> int:
            headers = {"Authorization": f"Bearer {alice}"}
            async with session.put(
                f"{broker.url}/v1/blocks/{CID}", data=waiting(), headers=headers
            ) as answer:
                return answer.status

        puts = {asyncio.create_task(put()) for _ in range(65)}
        (refused,), taken = await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result() == 429
        await broker.call("PUT", f"/v1/blocks/{CID}", key=bob, body=BLOCK)
        resumed.set()
        assert set(await asyncio.gather(*taken)) == {201}


async def test_a_car_that_says_that_it_is_too_large_is_not_waited_for(tmp_path: Path) -> None:
    async with local_broker(tmp_path, upload_bytes_max=1000) as broker:
        key = await broker.account()
        reader, writer = await connect(broker.url)
        writer.write(
            f"POST /v1/blocks HTTP/1.1\r\nHost: x\r\nContent-Type: {CAR_TYPE}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: 1001\r\n\r\n".encode()
        )
        assert (await reader.readline()).split()[1] == b"413"
        writer.close()


async def test_an_output_that_cannot_be_finished_is_cut_off(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    document = sample_input(size=1_000_000)
    async with AsyncClient(broker.url, api_key=key) as client:
        handle = await client.submit(pipeline, document, max_price="0.1", confidence=0.5)
        grant = await worker.expect(Grant)
        await worker.upload_output(grant, echo(document))
        await worker.send(worker.delivery(grant, document))
        await handle.result(timeout=60)
        assert await client.fetch_output(handle.id) == echo(document)
        leaves: list[Cid] = []
        add_bytes(echo(document), put=lambda cid, _: leaves.append(cid))
        next((tmp_path / "blocks").glob(f"??/{leaves[-2]}")).unlink()
        with pytest.raises(BrokerUnavailable):
            await client.fetch_output(handle.id)
    await worker.disconnect()


@pytest.mark.parametrize("during", ["a download", "an upload"])
async def test_hanging_up_is_no_defect(tmp_path: Path, caplog: pytest.LogCaptureFixture, during: str) -> None:
    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        reader, writer = await connect(broker.url)
        if during == "a download":
            pipeline = SamplePipeline(kernel_bytes=KERNEL_BYTES)
            await broker.publish(key, pipeline)
            writer.write(f"GET /ipfs/{pipeline.cid}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await reader.readexactly(1000)
        else:
            block = random.Random(1).randbytes(100_000)
            cid = add_bytes(block, put=None)
            writer.write(
                f"POST /v1/blocks HTTP/1.1\r\nHost: x\r\nContent-Type: {CAR_TYPE}\r\n"
                f"Authorization: Bearer {key}\r\nContent-Length: 100000000\r\n\r\n".encode()
                + encode_header((cid,))
                + encode_section(cid, block) * 16  # as many as are written at once
            )
            async with asyncio.timeout(180):
                while broker.running.parts.uploads.used_bytes("account:alice") == 0:
                    await broker.tick()
        writer.transport.abort()
        # The broker goes on for others, and stops without waiting for who is gone.
        assert await broker.call("GET", "/healthz")
    warnings = [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
    # On a busy machine, the event loop may stand still for other reasons.
    assert [one for one in warnings if not one.name.endswith(".loop_stalls")] == []


async def test_blocks_on_their_way_to_one_address_are_bounded(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = SamplePipeline(kernel_bytes=600_000)
    await broker.publish(await broker.account(), pipeline)
    sending, all_sending, resumed = 0, asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request, response: web.Response) -> None:
        nonlocal sending
        sending += 1
        if sending == 256:  # of 256 KiB each
            all_sending.set()
        await resumed.wait()

    monkeypatch.setattr("tradepost_broker.web.gateway.send", slowly)
    url = f"{broker.url}/ipfs/{pipeline.blocks()[0][0]}?format=raw"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def status() -> int:
            async with session.get(url) as response:
                return response.status

        waiting = [asyncio.create_task(status()) for _ in range(256)]
        await all_sending.wait()
        assert await status() == 429
        resumed.set()
        assert set(await asyncio.gather(*waiting)) == {200}
        assert await status() == 200
