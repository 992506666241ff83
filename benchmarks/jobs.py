"""No-op jobs, submitted to paid, beside Ray's no-op tasks where Ray is installed.

Tradepost's jobs go through everything: a durable submission, an auction, a lease, a kernel in the sandbox, a
signed receipt, verification and a ledger entry, each in its own process, on SQLite with full synchronisation.
Ray's tasks are function calls on one trusted machine. Two numbers each: tasks per second with many in flight,
and the median of one at a time. Ray comes with `pip install ray`; it is no dependency.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tradepost import Client
from tradepost.testing import LocalMarket, WorkerPlan

CAPACITY = 64
PIPELINE = """
name = "noop"
version = "1.0.0"
[inputs]
x = { dtype = "F32", shape = [1] }
[[stage]]
name = "noop"
kernel = "builtin:noop"
inputs = { x = "input.x" }
outputs = ["x"]
[outputs]
x = "noop.x"
"""


def measure(
    name: str, many: Callable[[int], None], one: Callable[[], object], jobs: int
) -> tuple[float, float]:
    """Tasks per second over `jobs` at once, and the median seconds of one at a time."""
    many(jobs // 10)  # everything warm
    began = time.perf_counter()
    many(jobs)
    rate = jobs / (time.perf_counter() - began)
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    print(f"{name:10} {rate:8.0f} tasks/s   p50 in sequence {median * 1000:6.2f} ms", flush=True)
    return rate, median


def tradepost(jobs: int) -> tuple[float, float]:
    """Measure Tradepost with one worker, its results accepted one by one.

    The market lets an unproven worker hold four leases at once; that limit is lifted here, or it would be
    what is measured.
    """
    os.environ["TRADEPOST_BROKER_MARKET_EXPOSURE_LEASES_MAX"] = str(CAPACITY)
    workers = [WorkerPlan(name="w", owner="o", price="0.000001", capacity=CAPACITY)]
    with tempfile.TemporaryDirectory() as folder, LocalMarket(workers=workers) as market:
        toml = Path(folder) / "pipeline.toml"
        toml.write_text(PIPELINE)
        pipeline = market.publish(toml)
        inputs = {"x": np.zeros(1, np.float32)}
        options = {"max_price": "0.0001", "confidence": 0.5}
        with Client(market.url, api_key=market.api_key) as client:

            def many(count: int) -> None:
                for _ in client.map(pipeline, (inputs for _ in range(count)), **options):
                    pass

            def one() -> object:
                return client.submit(pipeline, inputs, **options).result(timeout=60)

            return measure("tradepost", many, one, jobs)


def ray(jobs: int) -> tuple[float, float] | None:
    """Measure Ray, if it is here."""
    try:
        import ray
    except ImportError:
        print("ray        not installed: pip install ray")
        return None
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    noop = ray.remote(lambda x: x)
    x = np.zeros(1, np.float32)

    def many(count: int) -> None:
        ray.get([noop.remote(x) for _ in range(count)])

    try:
        return measure("ray", many, lambda: ray.get(noop.remote(x)), jobs)
    finally:
        ray.shutdown()


def main() -> None:
    """Print both, and the ratio."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--jobs", type=int, default=3000)
    jobs = arguments.parse_args().jobs
    ours = tradepost(jobs)
    theirs = ray(jobs)
    if theirs is not None:
        print(f"ratio: {ours[0] / theirs[0]:.2f} x tasks/s, {ours[1] / theirs[1]:.2f} x latency")


if __name__ == "__main__":
    main()
