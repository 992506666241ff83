"""Sources that misbehave: each fault ends in a fail-over or a typed error, in bounded time and memory."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
from collections.abc import Callable

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripted_server import Clock, Peer, Script, answer_head, scripted
from tradepost.content import BLOCK_BYTES_MAX, cid_of_block
from tradepost.content.transfer.fetch import Fetcher, FetchLimits
from tradepost.content.transfer.source_health import SourceHealth
from tradepost.content.transfer.sources import GatewaySource, KuboSource, Source, StoreSource
from tradepost.errors import ContentUnavailable, TradepostError, UnknownCid

BLOCK = random.Random(5).randbytes(262_144)
CID = cid_of_block(BLOCK, "raw")
BOMB = gzip.compress(bytes(64 << 20), compresslevel=1)
SENT_BYTES_MAX = 32 << 20  # by a server that never ends, until it notices that nobody listens

PEAK_BYTES_MAX = 8 << 20  # what both ends allocate: a block at its largest, and buffers


async def honest(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}", "Connection: close")
    await peer.send(BLOCK)


# The faults


async def truncation(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}")
    await peer.send(BLOCK[:-1])


async def truncation_without_a_length(peer: Peer) -> None:
    await peer.head("Connection: close")
    await peer.send(BLOCK[:1000])


async def truncated_chunks(peer: Peer) -> None:
    await peer.head("Transfer-Encoding: chunked")
    await peer.send(b"%x\r\n" % len(BLOCK) + BLOCK[:5000])


async def wrong_block(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}")
    await peer.send(bytes(len(BLOCK)))


async def one_bit_wrong(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}")
    await peer.send(BLOCK[:-1] + bytes((BLOCK[-1] ^ 1,)))


async def one_byte_more(peer: Peer) -> None:
    await peer.head("Connection: close")
    await peer.send(BLOCK + b"x")


async def endless_body(peer: Peer) -> None:
    await peer.head("Transfer-Encoding: chunked")
    while peer.sent_bytes < SENT_BYTES_MAX:
        await peer.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")


async def endless_headers(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    while peer.sent_bytes < SENT_BYTES_MAX:
        await peer.send(b"X-More: " + b"x" * 8000 + b"\r\n")


async def endless_interim_answers(peer: Peer) -> None:
    while True:
        await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)


async def endless_blank_lines(peer: Peer) -> None:
    while True:
        await peer.send(b"\r\n" * 30_000)


async def endless_chunk_extension(peer: Peer) -> None:
    await peer.head("Transfer-Encoding: chunked")
    await peer.send(b"1;more=")
    while True:
        await peer.send(b"x" * 0x10000)


async def endless_tiny_chunks(peer: Peer) -> None:
    await peer.head("Transfer-Encoding: chunked")
    while peer.sent_bytes < SENT_BYTES_MAX:
        await peer.send(b"10\r\n0123456789abcdef\r\n" * 3000)


async def endless_trailers(peer: Peer) -> None:
    await peer.head("Transfer-Encoding: chunked")
    await peer.send(b"%x\r\n" % len(BLOCK) + BLOCK + b"\r\n0\r\n")
    while peer.sent_bytes < SENT_BYTES_MAX:
        await peer.send(b"X-More: " + b"x" * 4000 + b"\r\n")


async def length_too_long(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK) + 1}")
    await peer.send(BLOCK)


async def length_too_short(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK) - 1}")
    await peer.send(BLOCK)


async def length_of_a_terabyte(peer: Peer) -> None:
    await peer.head(f"Content-Length: {1 << 40}")
    while peer.sent_bytes < SENT_BYTES_MAX:
        await peer.send(bytes(1 << 16))


async def length_that_is_none(peer: Peer) -> None:
    await peer.head("Content-Length: many")
    await peer.send(BLOCK)


async def trickle(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}")
    for position in range(len(BLOCK)):
        peer.clock.now_s += 1
        await peer.send(BLOCK[position : position + 1])
        await asyncio.sleep(0)


async def stall_before_the_answer(peer: Peer) -> None:
    await peer.silence()


async def stall_in_the_middle(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BLOCK)}")
    await peer.send(BLOCK[:100_000])
    await peer.silence()


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def gzip_bomb(peer: Peer) -> None:
    await peer.head("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}")
    await peer.send(BOMB)


async def gzip_in_disguise(peer: Peer) -> None:
    await peer.head(f"Content-Length: {len(BOMB)}")
    await peer.send(BOMB)


async def not_http(peer: Peer) -> None:
    await peer.send(b"220 mail.example ESMTP\r\n")


async def server_error(peer: Peer) -> None:
    await peer.head("Content-Length: 0", status="500 Oops")


async def a_web_page(peer: Peer) -> None:
    page = b"<html>Please accept our cookies</html>"
    await peer.head("Content-Type: text/html", f"Content-Length: {len(page)}")
    await peer.send(page)


FAULTS = [
    truncation,
    truncation_without_a_length,
    truncated_chunks,
    wrong_block,
    one_bit_wrong,
    one_byte_more,
    endless_body,
    endless_headers,
    endless_tiny_chunks,
    endless_trailers,
    length_too_long,
    length_too_short,
    length_of_a_terabyte,
    length_that_is_none,
    trickle,
    stall_before_the_answer,
    stall_in_the_middle,
    reset_at_once,
    gzip_bomb,
    gzip_in_disguise,
    not_http,
    server_error,
    a_web_page,
]
LIES = {
    truncation_without_a_length,
    wrong_block,
    one_bit_wrong,
    one_byte_more,
    length_too_short,
    gzip_in_disguise,
    a_web_page,
}


SourceAt = Callable[[str, aiohttp.ClientSession], Source]


def kubo_at(url: str, session: aiohttp.ClientSession) -> Source:
    """A daemon's RPC API in place of the gateway at this URL."""
    return KuboSource(f"/ip4/127.0.0.1/tcp/{url.rpartition(':')[2]}", session=session)


def gateway_at(url: str, session: aiohttp.ClientSession) -> Source:
    return GatewaySource(url, session=session)


@pytest.mark.parametrize("source_at", [gateway_at, kubo_at])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_each_fault_fails_over_and_alone_is_a_typed_error(fault: Script, source_at: SourceAt) -> None:
    clock = Clock()
    # On a busy machine, the honest source needs part of the second too.
    limits = FetchLimits(stall_s=1.0 if fault.__name__.startswith("stall") else 30.0)
    async with (
        scripted(fault, clock) as (bad, peers),
        scripted(honest) as (good, _),
        aiohttp.ClientSession() as session,
    ):
        sources = [source_at(url, session) for url in (bad, good)]
        fetcher = Fetcher(sources, limits=limits, clock=clock)
        assert await fetcher.get(CID) == BLOCK
        first, second = fetcher.source_health
        assert (first.failures, first.blocks, second.failures, second.blocks) == (1, 0, 0, 1)
        assert first.lies == (fault in LIES)
        assert first.is_aside(clock.now_s)
        # Put aside: the next block is not asked of it.
        visits = len(peers)
        await fetcher.get(CID)
        assert len(peers) == visits
        alone = Fetcher(sources[:1], limits=limits, clock=clock)
        with pytest.raises(ContentUnavailable) as caught:
            await alone.get(CID)
        assert sources[0].name in caught.value.detail
        assert list(caught.value.facts["sources"]) == [sources[0].name]
        assert all(peer.sent_bytes <= SENT_BYTES_MAX for peer in peers)


@pytest.mark.parametrize("source_at", [gateway_at, kubo_at])
@pytest.mark.parametrize(
    "fault",
    [
        endless_body,
        endless_headers,
        endless_tiny_chunks,
        endless_trailers,
        length_of_a_terabyte,
        gzip_bomb,
        gzip_in_disguise,
    ],
)
@pytest.mark.slow
async def test_a_server_that_never_ends_is_cut_off_within_a_few_megabytes(
    fault: Script, source_at: SourceAt
) -> None:
    async with scripted(fault) as (url, peers), aiohttp.ClientSession() as session:
        tracemalloc.start()
        try:
            with pytest.raises(ContentUnavailable):
                await Fetcher([source_at(url, session)]).get(CID)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # What the kernel buffers on both ends comes on top of what was read.
        assert peers[0].sent_bytes <= BLOCK_BYTES_MAX + (16 << 20)
        assert peak_bytes <= PEAK_BYTES_MAX


@pytest.mark.parametrize("source_at", [gateway_at, kubo_at])
@pytest.mark.parametrize("noise", [endless_interim_answers, endless_blank_lines, endless_chunk_extension])
async def test_noise_around_the_body_counts_as_nothing(noise: Script, source_at: SourceAt) -> None:
    limits = FetchLimits(stall_s=0.3)
    async with scripted(noise) as (url, _), aiohttp.ClientSession() as session:
        tracemalloc.start()
        try:
            with pytest.raises(ContentUnavailable, match=r"sent nothing for 0\.3 s"):
                await Fetcher([source_at(url, session)], limits=limits).get(CID)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes <= PEAK_BYTES_MAX


async def test_a_liar_is_named_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    async with (
        scripted(wrong_block) as (bad, peers),
        scripted(honest) as (good, _),
        aiohttp.ClientSession() as session,
    ):
        fetcher = Fetcher([GatewaySource(url, session=session) for url in (bad, good)], clock=clock)
        await fetcher.get(CID)
        clock.now_s += FetchLimits().distrust_s - 1
        for _ in range(3):
            await fetcher.get(CID)
        assert len(peers) == 1
        alone = Fetcher([fetcher.source_health[0].source])
        for message in (
            "sent bytes that do not match",
            "sent wrong bytes before, and is not used for another 600 s",
        ):
            with pytest.raises(ContentUnavailable, match=message) as caught:
                await alone.get(CID)
            assert bad in caught.value.detail
            assert caught.value.facts["sources"] == {bad: "content-mismatch"}
    record, _ = [one for one in caplog.records if getattr(one, "action", "") == "source_put_aside"]
    assert bad in record.getMessage()
    assert (record.source, record.cid) == (bad, CID)  # type: ignore[attr-defined]


async def test_a_liar_is_asked_again_after_a_time_that_doubles() -> None:
    clock = Clock()
    limits = FetchLimits(distrust_s=10, distrust_s_max=35)
    async with scripted(wrong_block) as (bad, peers), aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(bad, session=session)], limits=limits, clock=clock)
        for visits, aside_s in enumerate((10, 20, 35, 35), start=1):
            with pytest.raises(ContentUnavailable, match="sent bytes that do not match"):
                await fetcher.get(CID)
            clock.now_s += aside_s - 1
            with pytest.raises(ContentUnavailable, match="not used for another 1 s"):
                await fetcher.get(CID)
            assert len(peers) == visits
            clock.now_s += 1


async def test_a_liar_that_was_mended_is_believed_by_what_it_sends() -> None:
    clock = Clock()
    mended = False

    async def once_wrong(peer: Peer) -> None:
        await (honest if mended else wrong_block)(peer)

    async with scripted(once_wrong) as (url, _), aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(url, session=session)], clock=clock)
        with pytest.raises(ContentUnavailable):
            await fetcher.get(CID)
        mended = True
        clock.now_s += FetchLimits().distrust_s
        assert await fetcher.get(CID) == BLOCK


def test_lies_that_were_under_way_together_are_one() -> None:
    health = SourceHealth(StoreSource({}, name="liar"))  # type: ignore[arg-type]
    for _ in range(16):
        health.distrust(5.0, first_s=10, s_max=1000)
    assert (health.lies, health.failures, health.distrusted_until_s) == (1, 16, 15.0)
    health.distrust(15.0, first_s=10, s_max=1000)
    assert health.distrusted_until_s == 35.0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(offset=st.integers(0, len(BLOCK) + 100), hard=st.booleans())
def test_a_connection_that_breaks_at_any_offset(offset: int, hard: bool) -> None:
    async def broken(peer: Peer) -> None:
        answer = answer_head("200 OK", (f"Content-Length: {len(BLOCK)}",)) + BLOCK
        await peer.send(answer[: min(offset, len(answer) - 1)])
        if hard:
            peer.reset()

    async def run() -> None:
        async with (
            scripted(broken) as (bad, _),
            scripted(honest) as (good, _),
            aiohttp.ClientSession() as session,
        ):
            fetcher = Fetcher([GatewaySource(url, session=session) for url in (bad, good)])
            assert await fetcher.get(CID) == BLOCK
            assert fetcher.source_health[0].failures == 1
            assert fetcher.source_health[0].lies == 0

    asyncio.run(run())


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed(status: str) -> None:
    async with scripted(honest) as (elsewhere, visitors):

        async def redirect(peer: Peer) -> None:
            await peer.head(f"Location: {elsewhere}/ipfs/{CID}", "Content-Length: 0", status=status)

        async with scripted(redirect) as (url, _), aiohttp.ClientSession() as session:
            with pytest.raises(ContentUnavailable, match="redirects"):
                await Fetcher([GatewaySource(url, session=session)]).get(CID)
        assert visitors == []


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "451 Unavailable For Legal Reasons"])
async def test_a_gateway_without_the_block_is_not_to_blame(status: str) -> None:
    async def lacks(peer: Peer) -> None:
        await peer.head("Content-Length: 0", status=status)

    async with scripted(lacks) as (url, _), aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(url, session=session)])
        with pytest.raises(UnknownCid):
            await fetcher.get(CID)
        assert fetcher.source_health[0].failures == 0


async def test_what_is_asked_for_is_a_raw_block_without_compression() -> None:
    async with scripted(honest) as (url, peers), aiohttp.ClientSession() as session:
        await Fetcher([GatewaySource(url + "/base/", session=session, headers={"X-Key": "k"})]).get(CID)
        assert peers[0].asked[0] == f"/base/ipfs/{CID}?format=raw"
        request = peers[0].asked[1].lower()
        assert "accept-encoding: identity\r\n" in request
        assert "accept: application/vnd.ipld.raw\r\n" in request
        assert "x-key: k\r\n" in request


async def test_a_daemon_without_the_block_is_not_to_blame() -> None:
    said = b'{"Message":"block was not found locally (offline): ipld: could not find it","Code":0}'

    async def lacks(peer: Peer) -> None:
        await peer.head(f"Content-Length: {len(said)}", status="500 Internal Server Error")
        await peer.send(said)

    async with scripted(lacks) as (url, peers), aiohttp.ClientSession() as session:
        fetcher = Fetcher([kubo_at(url, session)])
        with pytest.raises(UnknownCid):
            await fetcher.get(CID)
        assert fetcher.source_health[0].failures == 0
        assert peers[0].asked[0] == f"/api/v0/block/get?arg={CID}"
        assert peers[0].asked[1].startswith("POST ")


async def test_nobody_listening_is_a_typed_error() -> None:
    async with scripted(honest) as (url, _):
        pass
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ContentUnavailable):
            await Fetcher([GatewaySource(url, session=session)]).get(CID)


@given(st.binary(max_size=400))
@settings(max_examples=25)
def test_no_answer_but_the_block_itself_is_accepted(noise: bytes) -> None:
    async def run() -> None:
        async def noisy(peer: Peer) -> None:
            await peer.send(noise)

        async with scripted(noisy) as (url, _), aiohttp.ClientSession() as session:
            with pytest.raises(TradepostError):
                await Fetcher([GatewaySource(url, session=session)]).get(CID)

    asyncio.run(run())
