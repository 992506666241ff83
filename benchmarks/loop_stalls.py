"""For how long the broker stands still while clients, workers and visitors ask much of it.

    python -m benchmarks loop_stalls [--only blocks,watch] [--scale 1.0]

For each load, a broker of its own runs as a process; the load comes from this one. What is shown is what the
broker's watchdog measured: how often its event loop was held for more than 50 ms, for how long at most, and
where. `--scale` makes the loads smaller. On a busy machine, stalls also show that others had the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import numpy as np

from tradepost.broker_url import raise_for_problem
from tradepost.content import Cid, add_bytes, cid_of_block
from tradepost.content.transfer.car import encode_header, encode_section
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import TradepostError
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import MESSAGE_BYTES_MAX, Submit, UpdateOffer, Watch, client_codec
from tradepost_broker.operator.messages import StallView
from tradepost_broker.testing import FakeWorker, LocalBroker, SamplePipeline
from tradepost_broker.testing.local_broker import job_request

_MEBIBYTE: Final = 1 << 20
_FRAMES_AT_ONCE: Final = 64


class BrokerProcess(LocalBroker):
    """A broker that runs as a process of its own, with its data in `folder`."""

    def __init__(self, folder: Path, url: str, session: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.url = url
        self.session = session
        self.operator_token = (folder / "operator.token").read_text().strip()

    async def stalls(self) -> list[StallView]:
        """What its watchdog has measured."""
        views: list[StallView] = await self.call(
            "GET", "/v1/admin/stalls", key=self.operator_token, reply=list[StallView]
        )
        return views

    async def put_blocks(self, key: str, blocks: list[tuple[Cid, bytes]]) -> None:
        """Upload blocks in one CAR, whose root is the last one."""
        car = encode_header([blocks[-1][0]]) + b"".join(encode_section(*block) for block in blocks)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": CAR_TYPE}
        async with self.session.post(
            f"{self.url}/v1/blocks", data=io.BytesIO(car), headers=headers
        ) as response:
            await raise_for_problem(response)

    @contextlib.asynccontextmanager
    async def stream(self, key: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A client's stream."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.ws_connect(
            f"{self.url}/v1/client", headers=headers, max_msg_size=4 * MESSAGE_BYTES_MAX
        ) as socket:
            yield socket


@contextlib.asynccontextmanager
async def broker_process() -> AsyncIterator[BrokerProcess]:
    """A broker on a free port, until the context ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["broker", "run", "--data-dir", name, "--port", "0", "--port-file", f"{name}/port"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradepost", *command, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            await process.stdout.readline()  # it is open
            url = f"http://127.0.0.1:{(folder / 'port').read_text()}"
            async with aiohttp.ClientSession() as session:
                yield BrokerProcess(folder, url, session)
        finally:
            process.terminate()
            await process.communicate()


Load = Callable[[BrokerProcess, float], Awaitable[None]]


async def small_blocks(broker: BrokerProcess, scale: float) -> None:
    """The input is a file of 20,000 blocks of a few bytes."""
    key = await broker.account()
    pipeline = await broker.publish(key)
    leaves = [f"{number:08}".encode() for number in range(int(20_000 * scale))]
    blocks = [(cid_of_block(data, "raw"), data) for data in leaves]
    root = encode_file_node([Link(cid, len(data), len(data)) for cid, data in blocks])
    cid = cid_of_block(root, "dag-pb")
    await broker.put_blocks(key, [*blocks, (cid, root)])
    for _ in range(3):
        with contextlib.suppress(TradepostError):
            await broker.submit(key, pipeline, input=None, input_cid=cid)


async def long_watch(broker: BrokerProcess, scale: float) -> None:
    """One message watches as many jobs as fit into it."""
    key = await broker.account()
    jobs = tuple(f"{number:026}" for number in range(4096))
    count = int(60 * scale)
    async with broker.stream(key) as socket:
        await socket.send_bytes(client_codec().encode([Watch(jobs)] * count))
        received = 0
        async for message in socket:
            received += len(msgspec.msgpack.decode(message.data))
            if received >= len(jobs):  # each job is answered once on a stream
                break


async def distinct_jobs(broker: BrokerProcess, scale: float) -> None:
    """One worker changes its price while 10,000 jobs wait that all differ."""
    key = await broker.account(funds=10**12)
    pipeline = await broker.publish(key)
    worker = await broker.worker(capacity=1, price=10)
    count = int(9_999 * scale)
    await submit_all(broker, key, pipeline, count)
    for price in (10**9, 11):
        offer = msgspec.structs.replace(worker.offer, price_per_unit_microcredits=price)
        await worker.send(UpdateOffer(offer))
        await asyncio.sleep(4.0)
    await worker.disconnect()
    await asyncio.sleep(10.0)


async def submit_all(broker: BrokerProcess, key: str, pipeline: str, count: int) -> None:
    """Submit so many jobs that all differ, on one stream."""
    async with broker.stream(key) as socket:
        for start in range(0, count, _FRAMES_AT_ONCE):
            numbers = range(start, min(count, start + _FRAMES_AT_ONCE))
            frames = [
                Submit(
                    number,
                    job_request(
                        pipeline, idempotency_key=f"k{number}", max_price_microcredits=100_000 + number
                    ),
                )
                for number in numbers
            ]
            await socket.send_bytes(client_codec().encode(frames))
            answered = 0
            while answered < len(frames):
                answered += len(msgspec.msgpack.decode((await socket.receive()).data))


async def many_results(broker: BrokerProcess, scale: float) -> None:
    """Honest load: jobs with small and large documents, while pages, lists and explanations are read."""
    key = await broker.account(funds=10**12)
    limits = PipelineLimits(input_bytes=64 * _MEBIBYTE, output_bytes=64 * _MEBIBYTE)
    pipeline = await broker.publish(key, SamplePipeline(limits=limits))
    workers = [await broker.worker(f"owner-{number}", serve=True) for number in range(4)]
    large = encode(TensorDocument({"x": np.zeros(int(12 * scale * (_MEBIBYTE // 4)) + 1, np.float32)}))
    blocks: list[tuple[Cid, bytes]] = []
    cid = add_bytes(large, put=lambda one, data: blocks.append((one, data)))
    await broker.put_blocks(key, blocks)
    reading = asyncio.create_task(read_everything(broker, key, workers))
    small = asyncio.create_task(submit_all(broker, key, pipeline, int(6_000 * scale)))
    for _ in range(5):
        job = (await broker.submit(key, pipeline, input=None, input_cid=cid, confidence=0.9)).job
        await broker.result(key, job)
        await broker.call("GET", f"/v1/jobs/{job}/output", key=key)
    await small
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await maintain(broker)
    for worker in workers:
        await worker.disconnect()


async def read_everything(broker: BrokerProcess, key: str, workers: list[FakeWorker]) -> None:
    """Read what visitors, a submitter and the operator can, again and again."""
    public = ["/", "/v1/dashboard.json", "/v1/workers", "/metrics"]
    public += [f"/workers/{worker.id}" for worker in workers]
    while True:
        for path in public:
            await broker.call("GET", path)
        listed = json.loads(await broker.call("GET", "/v1/jobs?limit=1000", key=key))
        await broker.call("GET", "/v1/admin/jobs?limit=1000", key=broker.operator_token)
        for entry in listed["jobs"][::100]:
            await broker.call("GET", f"/v1/jobs/{entry['job']}/explanation", key=key)


async def maintain(broker: BrokerProcess) -> None:
    """What an operator does with the data folder while the broker runs."""

    def back_up() -> None:
        with (
            contextlib.closing(sqlite3.connect(broker.folder / "broker.sqlite3")) as source,
            contextlib.closing(sqlite3.connect(broker.folder / "copy.sqlite3")) as copy,
        ):
            source.backup(copy)

    await asyncio.to_thread(back_up)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tradepost", "broker", "verify-books", "--data-dir", str(broker.folder)
    )
    await process.wait()


LOADS: Final[dict[str, Load]] = {
    "blocks": small_blocks,
    "watch": long_watch,
    "distinct": distinct_jobs,
    "results": many_results,
}


async def measure(names: list[str], scale: float) -> None:
    """Run the loads and print a row for each."""
    print(f"{'load':10} {'stalls':>7} {'longest':>9}  where")
    for name in names:
        async with broker_process() as broker:
            started = {one.place: one.longest_s for one in await broker.stalls()}
            await LOADS[name](broker, scale)
            stalls = [one for one in await broker.stalls() if started.get(one.place) != one.longest_s]
        longest = max((one.longest_s for one in stalls), default=0.0)
        print(f"{name:10} {sum(one.count for one in stalls):7} {longest * 1000:6.0f} ms")
        for one in stalls[:8]:
            print(f"{'':10} {one.count:7} {one.longest_s * 1000:6.0f} ms  {one.place}")


def main() -> None:
    """Parse options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(LOADS), help="loads, separated by commas")
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    asyncio.run(measure(options.only.split(","), options.scale))


if __name__ == "__main__":
    main()
