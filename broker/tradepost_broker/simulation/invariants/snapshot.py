"""Compares two markets, and a market with its records: nothing is lost, and nothing is left unsaved."""

from __future__ import annotations

from collections.abc import Iterable

from tradepost_broker.market.core import Market
from tradepost_broker.market.model.entities import Job, Lease, Worker
from tradepost_broker.simulation.invariants.broken import require
from tradepost_broker.simulation.world.disk import Disk


def compare(crashed: Market, restored: Market, open_jobs: Iterable[str]) -> None:
    """Check that what can be seen of a restored market is what could be seen of the one that crashed."""
    for account in crashed.accounts():
        found = restored.account(account.id)
        require(found == account, f"the restart made {found} of {account}")
    for job in open_jobs:
        require(restored.job(job) == crashed.job(job), f"the restart changed job {job}")
        require(restored.leases_of(job) == crashed.leases_of(job), f"the restart changed the leases of {job}")
    for worker in crashed.workers():
        require(restored.worker(worker.id) == worker, f"the restart changed worker {worker.id}")
        require(
            restored.reputation_of(worker.id) == crashed.reputation_of(worker.id),
            f"the restart changed the reputation of {worker.id}",
        )
        require(
            sorted(lease.id for lease in restored.open_leases_of(worker.id))
            == sorted(lease.id for lease in crashed.open_leases_of(worker.id)),
            f"the restart changed the open leases of {worker.id}",
        )


def compare_with_records(market: Market, disk: Disk) -> None:
    """Check that the newest saved version of each record is what the market has in memory."""
    for job in disk.records[Job].values():
        known = market.job(job.id)
        require(known is None or known == job, f"job {job.id} was changed and not saved")
    for lease in disk.records[Lease].values():
        held = market.lease(lease.id)
        require(held is None or held == lease, f"lease {lease.id} was changed and not saved")
    for worker in disk.records[Worker].values():
        require(market.worker(worker.id) == worker, f"worker {worker.id} was changed and not saved")
