"""A real worker of a real broker, whose owner names a second gateway: the one helps where the other fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

import tradepost_kernels
from tradepost.content import FolderStore
from tradepost.content.ipld.dag_pb import encode_varint
from tradepost.content.transfer.fetch import Fetcher, FetchLimits
from tradepost.protocol import JobStatus, PublishRequest
from tradepost.testing.gateway import Gateway
from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_broker.web.gateway import GatewayEndpoints
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_worker.assembly import worker_from_settings
from tradepost_worker.link.joining import join
from tradepost_worker.link.network_rate import NetworkRate
from tradepost_worker.settings import FILE_NAME, load_settings, save_settings
from tradepost_worker.state import StateFolder
from tradepost_worker.testing.samples import kernel_pipeline, sample_input

PUBLISHER = SigningKey.generate()
#: What a custom section holds is for nobody, and makes this kernel a file of several blocks.
PADDING = b"\x03pad" + random.Random(8).randbytes(600_000)
KERNEL = tradepost_kernels.load("noop") + b"\0" + encode_varint(len(PADDING)) + PADDING
PIPELINE = kernel_pipeline(KERNEL)
#: One runner, which gives way to nobody: a nice one takes minutes on a busy machine.
ALONE: dict[str, str | int] = {"capacity": 1, "runners_max": 1, "nice": 0, "mains_only": False}
ARTIFACT = {cid: block for cid, block in PIPELINE.blocks.items() if cid != PIPELINE.cid}

Serve = Callable[[GatewayEndpoints, web.Request], Awaitable[web.StreamResponse]]


class Clock:
    """Seconds that pass when a server says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Market:
    """A broker that lists the pipeline, and the folder of a device that joined and trusts the publisher."""

    broker: LocalBroker
    key: str
    device: Path

    @asynccontextmanager
    async def worker(self, **settings: str | int) -> AsyncIterator[None]:
        """The device at work, until the context ends."""
        save_settings(self.device / FILE_NAME, {**ALONE, **settings})
        stop = asyncio.Event()
        async with worker_from_settings(load_settings({"state_dir": self.device})) as worker:
            running = asyncio.create_task(worker.run(stop))
            try:
                yield
            finally:
                stop.set()
                await running

    async def run_job(self) -> JobStatus:
        """How a job of the pipeline ends."""
        job = await self.broker.submit(self.key, PIPELINE.cid, input=sample_input())
        async with asyncio.timeout(180):
            return (await self.broker.result(self.key, job.job)).status


@asynccontextmanager
async def open_market(tmp_path: Path) -> AsyncIterator[Market]:
    async with local_broker(tmp_path / "broker") as broker:
        key = await broker.account()
        for cid, block in ARTIFACT.items():
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=block)
        request = PublishRequest(manifest=PIPELINE.block, bundle=sign_bytes(PIPELINE.block, PUBLISHER))
        await broker.call("POST", "/v1/pipelines", key=key, body=request)
        device = tmp_path / "device"
        await join(StateFolder(device), broker_url=broker.url, token=await broker.token(), device="lab")
        add_publisher(device / "trust.toml", Publisher(name="a", key=PUBLISHER.public_key))
        yield Market(broker, key, device)


@asynccontextmanager
async def mirror(folder: Path) -> AsyncIterator[tuple[Gateway, str]]:
    """A second gateway, with the artifact and nothing else."""
    store = FolderStore(folder, bytes_max=1 << 30)
    for cid, block in ARTIFACT.items():
        store.put(cid, block)
    gateway = Gateway(store)
    async with gateway.serve() as url:
        yield gateway, url


def lie(clock: Clock) -> Serve:
    async def serve(_: GatewayEndpoints, http: web.Request) -> web.StreamResponse:
        return web.Response(body=b"something else")

    return serve


def trickle(clock: Clock) -> Serve:
    """One byte a second, by the fetcher's clock."""

    async def serve(_: GatewayEndpoints, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        while True:
            await response.write(b"x")
            clock.now_s += 1
            await asyncio.sleep(0)

    return serve


def stall(clock: Clock) -> Serve:
    async def serve(_: GatewayEndpoints, http: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    return serve


@pytest.mark.parametrize(
    ("fault", "said", "stall_s"),
    [
        pytest.param(lie, "sent bytes that do not match", 30.0, id="lies"),
        pytest.param(trickle, "bytes in", 30.0, id="trickles"),
        pytest.param(stall, "sent nothing for", 2.0, id="stalls"),
    ],
)
async def test_the_second_gateway_is_asked_where_the_brokers_fails(
    fault: Callable[[Clock], Serve],
    said: str,
    stall_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    monkeypatch.setattr(GatewayEndpoints, "get", fault(clock))
    fetcher = partial(Fetcher, clock=clock, limits=FetchLimits(stall_s=stall_s))
    monkeypatch.setattr("tradepost_worker.assembly.Fetcher", fetcher)
    async with (
        open_market(tmp_path) as market,
        mirror(tmp_path / "mirror") as (gateway, url),
        market.worker(gateways=url),
    ):
        assert await market.run_job() is JobStatus.ACCEPTED
    assert set(gateway.asked) == set(ARTIFACT)
    aside = [one for one in caplog.records if one.__dict__.get("action") == "source_put_aside"]
    assert aside
    assert {one.__dict__["source"] for one in aside} == {market.broker.url}
    assert said in aside[0].getMessage()


async def test_without_a_second_gateway_the_broker_is_enough_and_the_owners_rate_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)

    clock = Clock()
    monkeypatch.setattr(
        "tradepost_worker.assembly.NetworkRate", partial(NetworkRate, monotonic=clock, sleep=sleep)
    )
    rate = 1_000_000
    async with open_market(tmp_path) as market, market.worker(network_bytes_per_s_max=rate):
        assert await market.run_job() is JobStatus.ACCEPTED
    # Every block of the artifact waits its turn, behind all that came before it.
    moved_s = sum(map(len, ARTIFACT.values())) / rate
    assert len(waits_s) >= len(ARTIFACT)
    assert max(waits_s) >= moved_s
    assert waits_s == sorted(waits_s)
