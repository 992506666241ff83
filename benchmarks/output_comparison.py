"""How long other work waits while the broker compares two large outputs.

    python -m benchmarks output_comparison [--mebibytes 32] [--rounds 3]

Two workers deliver outputs of one job that differ in every value, within tolerance, so the broker reads and
compares both in full. Meanwhile the engine gets empty work every millisecond; its wait is counted from when
it was due. The wait at an idle broker is measured first.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import numpy as np

from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import Grant
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Keep
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker

_EVERY_S: Final = 0.001
_IDLE_S: Final = 2.0


@asynccontextmanager
async def waits_of(engine: Engine) -> AsyncIterator[list[float]]:
    """How long each piece of other work waited, in seconds, until the context ends."""
    waits: list[float] = []

    async def bring() -> None:
        while True:
            due = time.perf_counter() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            await engine.ask(Keep())
            waits.append(time.perf_counter() - due)

    bringing = asyncio.create_task(bring())
    try:
        yield waits
    finally:
        bringing.cancel()
        await asyncio.gather(bringing, return_exceptions=True)


async def compared(broker: LocalBroker, key: str, pipeline: str, workers: list[FakeWorker]) -> list[float]:
    """The waits while the second of two large outputs is checked, compared and paid."""
    job = (await broker.submit(key, pipeline, confidence=0.9)).job
    frames = []
    for position, worker in enumerate(workers):
        grant = await worker.expect(Grant)
        await worker.upload_output(grant, worker.script(b""))
        frames.append(worker.delivery(grant, await worker.fetch_input(grant)))
        if position == 0:
            await worker.send(frames[0])
    async with waits_of(broker.running.parts.engine) as waits:
        await workers[1].send(frames[1])
        view = await broker.result(key, job)
    if view.verification is None or len(view.verification.agreed) != len(workers):
        raise SystemExit(f"the outputs were not compared: job {job} is {view.status.value}")
    return waits


async def measure(mebibytes: int, rounds: int) -> None:
    """Run the rounds and print the waits of each."""
    values = np.random.default_rng(1).random(mebibytes << 18, dtype=np.float32)
    outputs = [
        encode(TensorDocument({"y": one})) for one in (values, np.nextafter(values, np.float32(np.inf)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        async with local_broker(Path(folder)) as broker:
            key = await broker.account()
            pipeline = await broker.publish(key)
            workers = []
            for number, output in enumerate(outputs):
                # A fixed output, so that the measured part creates no load itself.
                worker = await broker.worker(
                    f"owner-{number}", script=lambda _, output=output: output, price=1000 + number
                )
                workers.append(worker)
            async with waits_of(broker.running.parts.engine) as idle:
                await asyncio.sleep(_IDLE_S)
            print(f"idle: {described(idle)}")
            for _ in range(rounds):
                waits = await compared(broker, key, pipeline, workers)
                print(f"comparing outputs of {mebibytes} MiB: {described(waits)}")
            for worker in workers:
                await worker.disconnect()


def described(waits: list[float]) -> str:
    """The waits in a line."""
    p50, p99, most = np.quantile(waits, (0.5, 0.99, 1.0)) * 1e3
    return f"{len(waits)} works waited p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {most:.1f} ms"


def main() -> None:
    """Parse options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.mebibytes, options.rounds))


if __name__ == "__main__":
    main()
