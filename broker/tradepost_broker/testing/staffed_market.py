"""A market with workers and auditors who wait for jobs, for tests of what becomes of results."""

from __future__ import annotations

from typing import Final

from tradepost_broker.market.model.entities import Evidence, Lease, LeasePurpose
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver

#: One reference run proves fraud, so that tests of its consequences need one only.
NO_CHECKS: Final = MarketPolicy(audit_rate=0.0, references_to_expel=1)
ALWAYS_CHECKED: Final = MarketPolicy(audit_rate=1.0, references_to_expel=1)


class StaffedMarket(MarketDriver):
    """Funded, with a pipeline, workers w0, w1, … at the same price, and auditors a0, a1, …"""

    def __init__(
        self, workers: int, *, auditors: int = 0, policy: MarketPolicy = NO_CHECKS, seed: int = 0
    ) -> None:
        super().__init__(policy=policy, seed=seed)
        self.fund(amount_microcredits=10_000_000)
        self.publish()
        for number in range(auditors):
            self.add_worker(f"a{number}", auditor=True)
        for number in range(workers):
            self.add_worker(f"w{number}")

    def evidence(self) -> list[tuple[str, str]]:
        """All evidence as (worker, kind)."""
        return [(found.worker, found.kind.value) for found in self.all_of(Evidence)]

    def open_audit(self, job: str) -> Lease:
        """The one reference run of a job that is open."""
        [audit] = [lease for lease in self.open_leases(job) if lease.purpose is LeasePurpose.AUDIT]
        return audit

    def deliver_all(self, job: str, *outcomes: str) -> list[Lease]:
        """Deliver these outcomes for the job's open leases, in order."""
        leases = self.open_leases(job)
        for lease, outcome in zip(leases, outcomes, strict=True):
            self.deliver(lease.id, outcome)
        return leases
