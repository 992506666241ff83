"""Rebuilding the market from its records after a restart.

Records hold everything that was decided; indexes, counters and timers follow from them. Workers start
disconnected. The event `Restarted` must come next: it has every open job looked at.

`needed` declares which records that takes. The declaration is data, so that the database selects rows by it
(`storage.store`), and the verification of the books selects replayed records by it (`select_needed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from tradepost.errors import invariant
from tradepost_broker.market.ledger import Kind, Reservation
from tradepost_broker.market.model.entities import (
    Account,
    CollusionFinding,
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    OwnerPair,
    Pipeline,
    PipelineUse,
    Record,
    Transfer,
    Worker,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.sifting import kind_of
from tradepost_broker.market.state import recorded_evidence
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.state.worker_state import day_of
from tradepost_broker.market.trust.co_wrong import CoWrong

T = TypeVar("T")


class Is(Enum):
    """How a field is compared."""

    UNSET = auto()  # it is `None`
    SET = auto()  # it is not `None`
    TRUE = auto()
    EQUAL_TO = auto()
    AT_LEAST = auto()  # false for a field that is `None`


class Where(NamedTuple):
    """A condition on one field of a record. `value` is for comparisons that need one."""

    field: str
    comparison: Is
    value: Any = None

    def holds(self, record: Any) -> bool:
        """Whether `record` meets the condition."""
        found = getattr(record, self.field)
        match self.comparison:
            case Is.UNSET:
                return found is None
            case Is.SET:
                return found is not None
            case Is.TRUE:
                return bool(found)
            case Is.EQUAL_TO:
                return bool(found == self.value)
            case Is.AT_LEAST:
                return found is not None and bool(found >= self.value)


class Related(NamedTuple):
    """The condition that `field` is the `key` of a record of `kind` for which any of `conditions` holds."""

    field: str
    kind: type[Record]
    key: str
    conditions: tuple[Condition, ...]


Condition = Where | Related
#: For each kind of record, the conditions of which one must hold; `None` means every record of the kind.
Selection = Mapping[type[Record], tuple[Condition, ...] | None]
RecordsById = Mapping[type[Any], Mapping[str, Any]]


def needed(at: float, policy: MarketPolicy) -> Selection:
    """Which records `restore` needs at time `at`; the others, such as every match, cannot matter any more."""
    job_conditions = (
        Where("finished_at", Is.UNSET),
        # Its idempotency key holds, and a repeated receipt is known.
        Where("finished_at", Is.AT_LEAST, at - policy.idempotency_s),
        Where("spot_check", Is.TRUE),
        # A payment of it is held.
        Related("id", Lease, "job", (Where("matures_at", Is.SET),)),
    )
    return {
        Account: None,
        # Funding ids come from people, and are remembered for ever.
        Transfer: (Where("kind", Is.EQUAL_TO, Kind.FUND),),
        Pipeline: None,
        Worker: None,
        Job: job_conditions,
        Lease: (Related("job", Job, "id", job_conditions),),
        Evidence: None,
        PipelineUse: None,
        OwnerPair: None,
        CollusionFinding: None,
    }


def select_needed(records: RecordsById, at: float, policy: MarketPolicy) -> list[Record]:
    """Those of `records` that `restore` needs at time `at`."""
    return [
        record
        for kind, conditions in needed(at, policy).items()
        for record in _selected(records, kind, conditions)
    ]


def _selected(records: RecordsById, kind: type[Any], conditions: Sequence[Condition] | None) -> Iterable[Any]:
    if conditions is None:
        return records[kind].values()
    tests = [_test(records, condition) for condition in conditions]
    return [record for record in records[kind].values() if any(test(record) for test in tests)]


def _test(records: RecordsById, condition: Condition) -> Callable[[Any], bool]:
    if isinstance(condition, Where):
        return condition.holds
    others = _selected(records, condition.kind, condition.conditions)
    keys = {getattr(other, condition.key) for other in others}
    return lambda record: getattr(record, condition.field) in keys


def restore(
    records: Iterable[Record], policy: MarketPolicy, *, left_out: Iterable[tuple[str, str]] = ()
) -> MarketState:
    """The state that these records describe, in any order; `needed` says which there must be.

    `left_out` are the records that it goes on without, as pairs of kind and id (`sifting.sift`): what open
    jobs among them have reserved stays reserved. Raises `InvariantBroken` if the records contradict each
    other, or the ledger is wrong.
    """
    known = list(records)

    def of(kind: type[T]) -> list[T]:
        return [record for record in known if isinstance(record, kind)]

    state = MarketState(policy=policy, accounts=of(Account), transfers=of(Transfer))
    for pipeline in of(Pipeline):
        state.add_pipeline(pipeline)
    for worker in of(Worker):
        state.add_worker(worker)
    _restore_evidence(state, of(Evidence))
    _restore_findings(state, of(OwnerPair), of(CollusionFinding))
    for use in of(PipelineUse):
        state.uses[use.pipeline, use.account] = use
    may_be_withdrawn = {evidence for use in state.uses.values() for evidence in use.evidence}
    state.withdrawable = {one.id: one for one in of(Evidence) if one.id in may_be_withdrawn}
    for job in sorted(of(Job), key=lambda job: (job.submitted_at, job.id)):
        _restore_job(state, job)
    for lease in sorted(of(Lease), key=lambda lease: (lease.job, lease.attempt)):
        invariant(lease.job in state.jobs, f"lease {lease.id} has no job")
        state.add_lease(lease)
    for job in state.jobs.values():
        if job.accused:
            state.accuse(job)
        if job.in_doubt_until is not None:
            state.doubt(job, job.in_doubt_until)
    open_jobs = [job for job in state.jobs.values() if job.status not in FINAL]
    for job in open_jobs:
        committed_microcredits = sum(lease.price_microcredits for lease in state.live_leases(job))
        invariant(
            job.committed_microcredits == committed_microcredits,
            f"job {job.id} commits {job.committed_microcredits}, leases {committed_microcredits}",
        )
    state.ledger.restore_reservations(
        {job.id: Reservation(job.account, job.cap_microcredits) for job in open_jobs},
        may_be_more=any(kind == kind_of(Job) for kind, _ in left_out),
    )
    return state


def _restore_evidence(state: MarketState, known: list[Evidence]) -> None:
    by_id = {evidence.id: evidence for evidence in known}
    for evidence in sorted(known, key=lambda evidence: (evidence.at, evidence.id)):
        worker = state.workers[evidence.worker]
        worker.learn(evidence)
        recorded_evidence.judge(state, evidence)
        if evidence.kind is EvidenceKind.WITHDRAWN:
            withdrawn = by_id.get(evidence.id.removesuffix(f":{EvidenceKind.WITHDRAWN.value}"))
            if withdrawn is not None:  # else its row cannot be read, so that it was not learned either
                worker.withdraw(withdrawn, day_of(evidence.at))


def _restore_findings(
    state: MarketState, pairs: Iterable[OwnerPair], findings: Iterable[CollusionFinding]
) -> None:
    for pair in pairs:
        for job, pipeline, drawn_from, at in pair.wrong:
            state.co_wrong.add(CoWrong(at, job, pair.owner, pair.other, pipeline, drawn_from))
    for finding in findings:
        if finding.withdrawn_at is None:
            state.add_finding(finding)


def _restore_job(state: MarketState, job: Job) -> None:
    if job.status in FINAL:
        state.jobs[job.id] = job
        state.leases_of[job.id] = []
        state.retire_job(job)
        return
    state.add_job(job)
    if job.unmatched_since is not None:
        state.timers.put(TimerPurpose.PATIENCE, job.id, job.unmatched_since + job.patience_s)
