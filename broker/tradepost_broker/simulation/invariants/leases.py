"""Leases: who may be granted one, at what price, and that each ends in time."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import msgspec

from tradepost.protocol import GiveBackReason
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Match,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.events import (
    Event,
    LeaseGivenBack,
    ReceiptDelivered,
    Restarted,
    WorkerConnected,
    WorkerDisconnected,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.invariants.broken import require

_BLAMED: Final = frozenset({GiveBackReason.FAILED, GiveBackReason.EXHAUSTED})
_RESULTS: Final = frozenset({LeaseState.DELIVERED, LeaseState.ACCEPTED, LeaseState.REJECTED})
#: How long after its time something may end: ticks are apart.
_LATE_S: Final = 2.0


class Leases:
    """Checks grants against what is known of workers, and remembers why leases came back."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._connected: set[str] = set()
        self._restarted_at = 0.0
        self._open: dict[str, dict[str, Lease]] = defaultdict(dict)
        #: Workers that the event at hand may have let return from a suspension.
        self._returning: set[str] = set()
        self._blamed: set[str] = set()
        self._forgiven: set[str] = set()
        self._checks: dict[str, float] = defaultdict(float)
        self._nonces: set[bytes] = set()

    def event(self, event: Event) -> None:
        """Note who is connected, and who reports a failure."""
        self._returning.clear()
        match event:
            case WorkerConnected():
                self._connected.add(event.worker)
                self._returning.add(event.worker)
            case WorkerDisconnected():
                self._connected.discard(event.worker)
            case Restarted():
                self._connected.clear()
                self._restarted_at = event.at
            case LeaseGivenBack() if event.reason in _BLAMED:
                self._blamed.add(event.lease)

    def late_receipt(self, event: ReceiptDelivered, lease: Lease, siblings: list[Lease]) -> None:
        """Note a receipt that answers for a lease which was lost by absence."""
        if lease.blame_at is None or event.at >= lease.blame_at:
            return
        results = [one for one in siblings if one.state in _RESULTS and one.purpose is not LeasePurpose.AUDIT]
        if not results or any(one.id in event.agrees_with for one in results):
            self._forgiven.add(lease.id)

    def granted(self, lease: Lease, worker: Worker, job: Job, other_owners: list[str]) -> None:
        """Check a new lease.

        `worker` is as it was before the event; `other_owners` have the job's other leases.
        """
        require(lease.worker in self._connected, f"lease {lease.id} is granted to an absent worker")
        require(
            worker.standing is WorkerStanding.ACTIVE or lease.worker in self._returning,
            f"lease {lease.id} is granted to {worker.id}, which is {worker.standing}",
        )
        require(
            worker.auditor == (lease.purpose is LeasePurpose.AUDIT),
            f"lease {lease.id} for {lease.purpose} is granted to {worker.id}, auditor: {worker.auditor}",
        )
        require(lease.nonce not in self._nonces, f"the nonce of lease {lease.id} was used before")
        self._nonces.add(lease.nonce)
        require(worker.owner not in other_owners, f"job {job.id} is with owner {worker.owner} twice")
        if lease.purpose is not LeasePurpose.AUDIT and worker.offer is not None:
            bid_microcredits = worker.offer.price_per_unit_microcredits * job.units
            require(
                bid_microcredits <= lease.price_microcredits <= job.max_price_microcredits,
                f"lease {lease.id} costs {lease.price_microcredits}, its bid was {bid_microcredits}",
            )

    def matched(self, match: Match) -> None:
        """The best score wins."""
        scores = [candidate.score_microcredits for candidate in match.candidates]
        require(scores[0] == max(scores), f"match {match.id} was not won by the best score")

    def changed(self, lease: Lease, at: float) -> None:
        """Take a lease's new state into account."""
        if lease.state is LeaseState.OPEN:
            self._open[lease.worker][lease.id] = lease
        elif self._open[lease.worker].pop(lease.id, None) is not None:
            self.in_time(lease.id, self._due_at(lease), at)

    def _due_at(self, lease: Lease) -> float:
        if lease.granted_at > self._restarted_at:
            return lease.expires_at
        # It outlives a restart: its result may be on the way.
        return max(lease.expires_at, self._restarted_at + self._policy.reconnect_s)

    def in_time(self, what: str, due_at: float, at: float) -> None:
        """Check that something that was due has not been late, unless the broker was down."""
        require(at <= max(due_at, self._restarted_at) + _LATE_S, f"{what} was due at {due_at}, not at {at}")

    def load(self, lease: Lease, worker: Worker) -> None:
        """Check, after the event that granted a lease, that its worker may have as many as it has now."""
        limit = worker.offer.capacity if worker.offer is not None else 0
        if not worker.auditor and self._checks[worker.id] < self._policy.proven_checks:
            limit = min(limit, self._policy.exposure_leases_max)
        require(worker.examined_since is msgspec.UNSET, f"{worker.id} is examined, and gets {lease.id}")
        require(
            len(self._open[worker.id]) <= limit,
            f"{worker.id} has {len(self._open[worker.id])} open leases, and may have {limit}",
        )

    def any_connected(self, workers: list[str]) -> bool:
        """Whether one of these workers has its stream open."""
        return not self._connected.isdisjoint(workers)

    def expelled(self, worker: Worker) -> None:
        """An expelled worker has no open leases."""
        require(not self._open[worker.id], f"{worker.id} is expelled and keeps leases")

    def evidence(self, evidence: Evidence, lease: Lease) -> None:
        """Check what is held against a worker that lost a lease."""
        if evidence.kind is EvidenceKind.FAILED:
            require(evidence.lease in self._blamed, f"{evidence.id}: its worker reported no failure")
        if evidence.kind is EvidenceKind.EXPIRED:
            ends = (LeaseState.EXPIRED, LeaseState.RECALLED)
            require(lease.state in ends, f"{evidence.id}: the lease is {lease.state}")
            require(lease.id not in self._forgiven, f"{evidence.id}: its receipt came in time")
        if evidence.kind is EvidenceKind.AUDIT_PASSED:
            self._checks[evidence.worker] += 1
        elif evidence.kind is EvidenceKind.AGREED:
            self._checks[evidence.worker] += self._policy.agreed_checks

    def overdue(self, at: float) -> None:
        """Check that no open lease is long past its end."""
        for held in self._open.values():
            for lease in held.values():
                self.in_time(lease.id, self._due_at(lease), at)
