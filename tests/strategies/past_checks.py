"""A worker's past in a market of a test."""

from __future__ import annotations

from tradepost_broker.market.model.entities import Evidence, EvidenceKind
from tradepost_broker.market.testing import MarketDriver


def add_past_checks(
    driver: MarketDriver, worker: str, count: int, *, checks: float = 1.0, capability: str = "cpu"
) -> None:
    """Record that a worker has passed `count` reference runs, each of which counts as so many `checks`.

    The market knows of it after the next restart.
    """
    for number in range(count):
        evidence = Evidence(
            id=f"past-{worker}-{number}",
            worker=worker,
            capability=capability,
            kind=EvidenceKind.AUDIT_PASSED,
            job="past",
            lease=f"past.{number}",
            at=driver.at,
            pipeline="digits",
            account="alice",
            checks=checks,
        )
        driver.records[Evidence, evidence.id] = evidence
