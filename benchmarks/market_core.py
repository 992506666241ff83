"""How fast the market core decides, alone: no database, no network, one thread.

    python benchmarks/market_core.py [--offers 100000] [--matches 5000] [--jobs 20000]

Two measurements. The first puts many standing offers into the book and times each submission, which is one
match; the workers keep their leases, as the job mix of a busy market would have it. The second times the
whole life of a job that needs a single result: submit, grant, deliver, accept.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

from tradepost.protocol import Requirements
from tradepost_broker.market.model.events import JobSubmitted, ReceiptDelivered, SendGrant
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import GIBIBYTE, MarketDriver, make_offer


def market_with(offers: int, *, policy: MarketPolicy) -> MarketDriver:
    """A market with so many idle workers of mixed prices, memory and providers."""
    driver = MarketDriver(policy=policy)
    driver.fund(amount_microcredits=10**15)
    driver.publish()
    for number in range(offers):
        worker = f"worker{number:06}"
        driver.join(worker, stake_microcredits=1)
        providers = ("cpu", "cuda") if number % 10 == 0 else ("cpu",)
        offer = make_offer(
            1000 + (number * 7919) % 9000,
            providers=providers,
            memory_bytes=(4 << (number % 4)) * GIBIBYTE,
            warm=("digits",) if number % 3 == 0 else (),
        )
        driver.connect(worker, offer)
    return driver


def submission(driver: MarketDriver, number: int, confidence: float) -> JobSubmitted:
    """The event of one more job."""
    return JobSubmitted(
        at=driver.at,
        job=f"bench{number:08}",
        account="alice",
        idempotency_key=str(number),
        request_hash=str(number),
        pipeline="digits",
        input="input",
        input_bytes=1000,
        max_price_microcredits=10**8,
        confidence=confidence,
        deadline_s=300.0,
        patience_s=5.0,
        requirements=Requirements(),
        seed=number,
    )


def time_matches(driver: MarketDriver, matches: int, confidence: float) -> None:
    """Time submissions that are matched at once, and print the quantiles."""
    events = [submission(driver, number, confidence) for number in range(matches)]
    handle = driver.market.handle
    leases, seconds = 0, []
    for event in events:
        began = time.perf_counter()
        answer = handle(event)
        seconds.append(time.perf_counter() - began)
        leases += sum(isinstance(instruction, SendGrant) for instruction in answer)
    quantiles = statistics.quantiles(seconds, n=100)
    print(
        f"  confidence {confidence}: {leases / matches:.1f} leases a job; p50 {quantiles[49] * 1e6:.0f} µs, "
        f"p99 {quantiles[98] * 1e6:.0f} µs, {leases / sum(seconds):,.0f} matches/s"
    )


def time_lives(jobs: int) -> None:
    """Time whole lives of single-result jobs among ten workers, and print the mean."""
    driver = market_with(10, policy=MarketPolicy(audit_rate=0.0))
    handle = driver.market.handle
    spent = 0.0
    for number in range(jobs):
        submitted = submission(driver, number, 0.75)
        began = time.perf_counter()
        answer = handle(submitted)
        spent += time.perf_counter() - began
        grant = next(instruction for instruction in answer if isinstance(instruction, SendGrant))
        delivered = ReceiptDelivered(
            at=driver.at,
            worker=grant.worker,
            lease=grant.lease,
            outcome="output",
            stage_hashes=(),
            agrees_with=(),
            seed=number,
        )
        began = time.perf_counter()
        handle(delivered)
        spent += time.perf_counter() - began
    print(f"  {spent / jobs * 1e6:.0f} µs from submission to payment, {jobs / spent:,.0f} jobs/s")


def main() -> None:
    """Run both measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offers", type=int, default=100_000)
    parser.add_argument("--matches", type=int, default=5_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    arguments = parser.parse_args()
    print("Whole lives of single-result jobs, 10 workers:")
    time_lives(arguments.jobs)
    began = time.perf_counter()
    driver = market_with(arguments.offers, policy=MarketPolicy())
    print(f"Matches among {arguments.offers:,} offers, set up in {time.perf_counter() - began:.0f} s:")
    gc.collect()
    gc.freeze()
    time_matches(driver, arguments.matches, 0.75)


if __name__ == "__main__":
    main()
