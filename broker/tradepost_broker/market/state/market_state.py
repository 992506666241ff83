"""The market's memory: records by id, the indexes over them, and the changes of the current event.

The modules that decide change records only together with the indexes, through the methods here. Every changed
record is marked with `save`; when the event is done, `drain` gives the instructions in order, then one `Save`
for each changed record with a copy of its final state. What changes without a record changing (a job begins
to wait, say) marks its record too: an event that gave no instruction has changed nothing, so the shell may
leave it out of the journal.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from tradepost.errors import Problem, StateBroken, invariant
from tradepost_broker.market.ledger import Ledger
from tradepost_broker.market.model.entities import (
    Account,
    CollusionFinding,
    Evidence,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Pipeline,
    PipelineUse,
    Record,
    Transfer,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.events import Instruction, Save, WorkGoesOn
from tradepost_broker.market.model.lease_states import LIVE, LOST, LeaseTrigger, transition_lease
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state import worker_state
from tradepost_broker.market.state.audit_queue import AuditQueue, Flow
from tradepost_broker.market.state.commitments import Commitments, LeaseWatch
from tradepost_broker.market.state.examinations import Examinations
from tradepost_broker.market.state.job_queue import JobQueue
from tradepost_broker.market.state.offer_book import Need, OfferBook
from tradepost_broker.market.state.price_levels import PriceLevels
from tradepost_broker.market.state.recent_jobs import RecentJobs
from tradepost_broker.market.state.run_times import RunTimes
from tradepost_broker.market.state.timers import TimerPurpose, Timers
from tradepost_broker.market.state.worker_state import Scope, WorkerState
from tradepost_broker.market.trust.agreeing_pairs import AgreeingPairs
from tradepost_broker.market.trust.co_wrong import CoWrongResults
from tradepost_broker.market.trust.hands import Hands
from tradepost_signing.policy.revocation import RevocationList

#: The id of a job that somebody only asks about. It has no leases, and no job has this id.
UNSUBMITTED: Final = ""
#: Times of runs of a pipeline that are kept to estimate how long the next one takes.
_RUN_TIMES_KEPT: Final = 64


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """What an idempotency key stands for."""

    job: str
    request_hash: str
    expires_at: float | None = None


class MarketState:
    """The whole state of the market. `at`, `day` and `seed` are those of the current event."""

    def __init__(
        self, *, policy: MarketPolicy, accounts: Iterable[Account] = (), transfers: Iterable[Transfer] = ()
    ) -> None:
        self.policy = policy
        self.ledger = Ledger(save=self.save, accounts=accounts, transfers=transfers)
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, Lease] = {}
        #: The leases of each job's run at hand, and of redone jobs those of the first run.
        self.leases_of: dict[str, list[Lease]] = {UNSUBMITTED: []}
        self.earlier_leases_of: dict[str, list[Lease]] = {}
        self.pipelines: dict[str, Pipeline] = {}
        #: How pipelines fare, by pipeline and account ("" for all), and the evidence that may be withdrawn.
        self.uses: dict[tuple[str, str], PipelineUse] = {}
        self.withdrawable: dict[str, Evidence] = {}
        #: Until when payments are held at least, by worker and job of which a result is contradicted.
        self.accusations: dict[str, dict[str, float]] = {}
        #: What is checked again because a device was expelled.
        self.examinations = Examinations()
        #: Equal wrong results of different owners, and the owners that are kept apart because of them.
        self.co_wrong = CoWrongResults(fault_fraction=policy.fault_fraction)
        self.findings_of: dict[str, CollusionFinding] = {}
        self.workers: dict[str, WorkerState] = {}
        self.auditors: dict[str, WorkerState] = {}
        self.idempotency_keys: dict[tuple[str, str], IdempotencyKey] = {}
        self.offers = OfferBook()
        self.job_queue = JobQueue()
        #: Jobs that wait for an auditor: those it would decide, and spot checks of decided ones.
        self.audits_wanted = AuditQueue(fair=policy.fair_audits)
        #: Which accounts and owners are under one hand.
        self.hands = Hands()
        self.timers = Timers()
        #: How long runs take, what the broker knows of ordinary leases of open jobs, and how owners keep to
        #: theirs. None of it is in the records: a restart clears it.
        self.run_times = RunTimes(newest_max=_RUN_TIMES_KEPT)
        #: From grants to the reports that so many stages are done, by pipeline and number of stages.
        self.stage_times = RunTimes()
        self.price_levels = PriceLevels()
        #: Whose results agree with whose.
        self.agreeing_pairs = AgreeingPairs()
        #: What jobs that ended lately paid, and how many end in a second.
        self.recent_jobs = RecentJobs()
        self.watches: dict[str, LeaseWatch] = {}
        self.commitments: dict[str, Commitments] = {}
        self.cooling_owners: dict[str, None] = {}
        self.workers_of: dict[str, list[WorkerState]] = {}
        #: What the operator forbids, and the connected workers whose engines are too old for it.
        self.revocations: RevocationList | None = None
        self.too_old: dict[str, None] = {}
        #: What a job may hope for has changed: offers, refusals or beliefs. The next tick reviews who waits.
        self.supply_changed = False
        #: Waiting jobs that the review under way has not come to.
        self.to_review: dict[str, None] = {}
        #: Jobs of what was revoked, which the event that revoked it had no time to end.
        self.jobs_to_revoke: dict[str, None] = {}
        #: When the broker last came back: leases granted before that may be lost through its absence.
        self.restarted_at = 0.0
        #: Before this time, nobody's patience runs: workers are on their way back after a restart.
        self.patience_from = 0.0
        self.at = 0.0
        self.day = self.seed = 0
        #: The job that is being looked at, which a failure is put down to; "" for the event itself.
        self.job_at_hand = ""
        #: The handler of the event at hand has found that there is nothing to change.
        self.is_repeated = False
        #: What this event still has to look at: jobs whose leases changed, and workers that have capacity
        #: again, with whether their offer is new.
        self.jobs_to_advance: dict[str, None] = {}
        self.workers_freed: dict[str, bool] = {}
        #: Failed matches so far of workers that an event had no time to serve to the end.
        self.tries_used: dict[str, int] = {}
        #: Jobs that this event has reviewed, or ended because of the time; and those that it has advanced.
        self.jobs_reviewed = self.jobs_advanced = 0
        #: It has changed what later events do, though perhaps no record.
        self.has_progressed = False
        #: A tick has left timers that are due for the next one.
        self.is_cut_short = False
        #: What each kind of evidence adds to a worker's record.
        self.evidence_weights = worker_state.weights(policy)
        self._instructions: list[Instruction] = []
        self._changed: dict[int, Record] = {}

    def begin(self, at: float, seed: int) -> None:
        """An event is at hand."""
        self.at = at
        self.supply_changed |= self.day != (day := worker_state.day_of(at))
        self.day = day
        self.seed = seed
        self.job_at_hand = ""
        self.jobs_reviewed = 0
        self.jobs_advanced = 0
        self.has_progressed = False
        self.is_cut_short = False
        self.is_repeated = False

    def may_review(self) -> bool:
        """Whether this event may review, or end, one more job."""
        limit = self.policy.jobs_per_event_max
        return limit == 0 or self.jobs_reviewed < limit

    def may_advance(self) -> bool:
        """Whether this event may advance one more job."""
        limit = self.policy.jobs_per_event_max
        return limit == 0 or self.jobs_advanced < limit

    @property
    def has_more_to_do(self) -> bool:
        """Whether events have left something for the next one that may match."""
        return bool(self.jobs_to_advance or self.examinations.are_due or self.workers_freed)

    # What the event at hand gives

    def save(self, record: Record) -> None:
        """Mark a record as changed."""
        self._changed[id(record)] = record

    def send(self, instruction: Instruction) -> None:
        """Give an instruction."""
        self._instructions.append(instruction)

    def note_progress(self) -> None:
        """Note what a tick has left for the next one, or has done without any instruction."""
        if self.policy.jobs_per_event_max == 0:
            return
        is_more = self.is_cut_short or self.has_more_to_do or bool(self.to_review or self.jobs_to_revoke)
        if is_more or (self.has_progressed and not self._instructions and not self._changed):
            self.send(WorkGoesOn(is_more))

    def drain(self) -> list[Instruction]:
        """All that the event gave, and forget it: it is done."""
        self.job_at_hand = ""
        instructions = self._instructions
        for record in self._changed.values():
            instructions.append(Save(copy.copy(record) if isinstance(record, MUTABLE) else record))
        self._instructions = []
        self._changed.clear()
        return instructions

    # Records and their indexes

    def add_worker(self, record: Worker) -> WorkerState:
        """Take in a worker, disconnected."""
        worker = WorkerState(record, policy=self.policy, evidence_weights=self.evidence_weights)
        self.workers[record.id] = worker
        self.workers_of.setdefault(record.owner, []).append(worker)
        if record.auditor:
            self.auditors[record.id] = worker
        if record.standing is WorkerStanding.EXPELLED:
            self.examinations.expelled_owners[record.owner] = None
        self.note_kind(record.owner)
        return worker

    def add_job(self, job: Job) -> None:
        """Take in a job that is not finished."""
        self.jobs[job.id] = job
        self.leases_of[job.id] = []
        self.idempotency_keys[job.account, job.idempotency_key] = IdempotencyKey(job.id, job.request_hash)
        self.timers.put(TimerPurpose.DEADLINE, job.id, job.deadline_at)

    def retire_job(self, job: Job) -> None:
        """Take in that a job has finished: when it may leave memory, and when its key may be forgotten."""
        assert job.finished_at is not None
        self.recent_jobs.note(job)
        expires_at = job.finished_at + self.policy.idempotency_s
        key = job.account, job.idempotency_key
        if not job.redone_after or self._has_key(job):
            self.idempotency_keys[key] = IdempotencyKey(job.id, job.request_hash, expires_at)
            self.timers.put(TimerPurpose.KEY_EXPIRY, "\x00".join(key), expires_at)
        self.timers.put(TimerPurpose.RETIREMENT, job.id, job.finished_at + self.policy.retain_s)

    def reopen_job(self, job: Job) -> None:
        """Take in that a job which had finished is to be run again."""
        self.earlier_leases_of[job.id], self.leases_of[job.id] = self.leases_of[job.id], []
        key = job.account, job.idempotency_key
        if self._has_key(job):
            self.idempotency_keys[key] = IdempotencyKey(job.id, job.request_hash)
            self.timers.cancel(TimerPurpose.KEY_EXPIRY, "\x00".join(key))
        self.timers.cancel(TimerPurpose.RETIREMENT, job.id)
        self.timers.put(TimerPurpose.DEADLINE, job.id, job.deadline_at)

    def _has_key(self, job: Job) -> bool:
        """Whether a job's idempotency key does not stand for a newer one."""
        known = self.idempotency_keys.get((job.account, job.idempotency_key))
        return known is None or known.job == job.id

    def add_lease(self, lease: Lease) -> None:
        """Take in a lease of a known job and worker."""
        self.leases[lease.id] = lease
        if lease.attempt <= self.jobs[lease.job].redone_after:
            self.earlier_leases_of.setdefault(lease.job, []).append(lease)
        else:
            self.leases_of[lease.job].append(lease)
        worker = self.workers[lease.worker]
        if lease.state is LeaseState.OPEN:
            worker.open[lease.id] = lease
            self.timers.put(TimerPurpose.LEASE_EXPIRY, lease.id, lease.expires_at)
        elif lease.state is LeaseState.DELIVERED:
            worker.delivered[lease.id] = lease
        if lease.matures_at is not None:
            worker.held[lease.id] = lease
            self.timers.put(TimerPurpose.MATURITY, lease.id, lease.matures_at)
        if lease.blame_at is not None:
            self.timers.put(TimerPurpose.BLAME, lease.id, lease.blame_at)

    def accuse(self, job: Job) -> None:
        """Take in that results of a job are contradicted: payments of their workers stay held meanwhile."""
        assert job.accused_until is not None
        for lease in job.accused:
            self.accusations.setdefault(self.leases[lease].worker, {})[job.id] = job.accused_until
        self.timers.put(TimerPurpose.ACCUSATION, job.id, job.accused_until)

    def acquit(self, job: Job, leases: Iterable[str]) -> None:
        """Take in that so many of the accused leases of a job are accused no more, for whatever reason."""
        gone = set(leases)
        for lease in gone:
            accused = self.accusations.get(self.leases[lease].worker, {})
            accused.pop(job.id, None)
            if not accused:
                self.accusations.pop(self.leases[lease].worker, None)
        self._note_examined(gone)
        job.accused = tuple(lease for lease in job.accused if lease not in gone)
        if not job.accused:
            job.accused_until = None
            self.timers.cancel(TimerPurpose.ACCUSATION, job.id)
        self.save(job)

    def accused_until(self, worker: str) -> float:
        """Until when a worker's payments must be held because its results are contradicted; 0 if none is."""
        return max(self.accusations.get(worker, {}).values(), default=0.0)

    def doubt(self, job: Job, until: float) -> None:
        """Take in that the accepted result of a job waits for a reference run."""
        job.in_doubt_until = until
        self.timers.put(TimerPurpose.DOUBT, job.id, until)

    def end_doubt(self, job: Job) -> None:
        """Take in that the result of a job is not in doubt any more, if it was."""
        if job.in_doubt_until is not None:
            job.in_doubt_until = None
            self.timers.cancel(TimerPurpose.DOUBT, job.id)
            self._note_examined(job.accepted)
            self.save(job)

    def _note_examined(self, leases: Iterable[str]) -> None:
        """Have leases looked at that are examined because of another device of their owner."""
        for lease in sorted(leases) if self.examinations.pending else ():
            worker = self.leases[lease].worker
            if lease in self.examinations.pending.get(worker, ()):
                self.examinations.changed[lease] = worker

    def was_interrupted(self, lease: Lease) -> bool:
        """Whether the broker was away while the lease was open: losing it may be the broker's fault."""
        return lease.granted_at < self.restarted_at

    def close_lease(self, lease: Lease, trigger: LeaseTrigger, problem: Problem | None = None) -> None:
        """Move a live lease on, out of its worker's hands. What it committed is released unless delivered."""
        worker = self.workers[lease.worker]
        if worker.open.pop(lease.id, None) is not None:
            self.timers.cancel(TimerPurpose.LEASE_EXPIRY, lease.id)
            self.timers.cancel(TimerPurpose.LATENESS, lease.id)
            self.audits_wanted.end(lease.id, self.at)
            self.place(worker)
        else:
            delivered = worker.delivered.pop(lease.id, None)
            invariant(delivered is not None, f"lease {lease.id} is not live", StateBroken)
        transition_lease(lease, trigger)
        if lease.state is LeaseState.DELIVERED:
            worker.delivered[lease.id] = lease
        else:
            self.jobs[lease.job].committed_microcredits -= lease.price_microcredits
            self.save(self.jobs[lease.job])
        lease.problem = problem or lease.problem
        self.save(lease)

    def forget_job(self, job: Job) -> None:
        """Let a finished job and its leases leave memory."""
        for lease in (*self.earlier_leases_of.pop(job.id, ()), *self.leases_of.pop(job.id)):
            del self.leases[lease.id]
            self.ledger.forget(lease.id)
        del self.jobs[job.id]

    def review_everything(self) -> None:
        """Forget what waits for what, and have every job looked at that may need something, oldest first."""
        self.job_queue = JobQueue()
        self.audits_wanted.clear()
        self.workers_freed.clear()
        self.to_review.clear()
        self.jobs_to_revoke.clear()  # the shell gives the list again
        self.tries_used.clear()
        wanting = [job for job in self.jobs.values() if job.finished_at is None or job.spot_check]
        wanting.sort(key=lambda job: (job.submitted_at, job.id))
        self.jobs_to_advance = dict.fromkeys(job.id for job in wanting)
        self.examinations.to_reexamine.clear()
        for _, worker in sorted(self.workers.items()):
            if worker.record.standing is WorkerStanding.EXPELLED and self.policy.reexamine_s:
                self.examinations.to_reexamine.update(dict.fromkeys(sorted(worker.held)))
        self.supply_changed = True

    def live_leases(self, job: Job) -> Iterator[Lease]:
        """Leases that may still end in a verdict."""
        return (lease for lease in self.leases_of[job.id] if lease.state in LIVE)

    def ordinary_leases(self, job: Job, state: LeaseState) -> list[Lease]:
        """Leases in this state that are not reference runs, in the order in which they were granted."""
        return [
            lease
            for lease in self.leases_of[job.id]
            if lease.state is state and lease.purpose is not LeasePurpose.AUDIT
        ]

    def place(self, worker: WorkerState) -> None:
        """Put a worker's offer where it belongs now: stand it, mark it idle or busy, or take it away."""
        capacity = worker.capacity(self.day)
        idle = len(worker.open) < capacity and not self.is_cooling_off(worker.record.owner)
        before = worker.seat
        if not worker.record.auditor:
            offer = worker.record.offer if capacity else None
            worker.seat = self.offers.place(worker.record.id, before, offer, idle=idle)
            if offer is not (before.offer if before else None):
                self.supply_changed = True
        if idle and not (before and before.idle):
            self.workers_freed.setdefault(worker.record.id, False)

    def is_cooling_off(self, owner: str) -> bool:
        """Whether an owner's devices get no new leases now, because too many were broken off."""
        known = self.commitments.get(owner)
        return known is not None and known.is_cooling_off(self.at)

    def commitments_of(self, lease: Lease) -> Commitments:
        """How the owner of a lease's worker keeps to leases."""
        owner = self.workers[lease.worker].record.owner
        known = self.commitments.get(owner)
        if known is None:
            known = self.commitments[owner] = Commitments(self.policy.break_offs_free)
        return known

    def is_late(self, lease: Lease) -> bool:
        """Whether an open lease was found to take too long."""
        watch = self.watches.get(lease.id)
        return watch is not None and watch.is_late

    def note_kind(self, owner: str) -> None:
        """Take in what the devices of an owner are, because one joined or changed its offer."""
        kinds = {device.kind for device in self.workers_of[owner]}
        self.co_wrong.set_kind(owner, " ".join(sorted(kinds)))

    def add_finding(self, finding: CollusionFinding) -> None:
        """Keep owners apart from now on."""
        self.findings_of.update(dict.fromkeys(finding.owners, finding))

    def drop_finding(self, finding: CollusionFinding) -> None:
        """Keep owners apart no more because of this finding."""
        for owner in finding.owners:
            if self.findings_of.get(owner) is finding:
                del self.findings_of[owner]

    def finding_of(self, owner: str) -> CollusionFinding | None:
        """The finding of collusion that an owner is part of."""
        return self.findings_of.get(owner)

    def are_kept_apart(self, owner: str, other: str) -> bool:
        """Whether two owners count as one voice, because they erred together too often."""
        finding = self.findings_of.get(owner)
        return finding is not None and finding is self.findings_of.get(other)

    def use(self, pipeline: str, account: str) -> PipelineUse:
        """How the jobs of an account ("" for all) on a pipeline end; it is made when first asked for."""
        known = self.uses.get((pipeline, account))
        if known is None:
            known = PipelineUse(id=f"{pipeline}/{account}", pipeline=pipeline, account=account)
            self.uses[pipeline, account] = known
        return known

    # What a job is, to the market

    def need(self, job: Job) -> Need:
        """What a job asks of a worker that its offer tells."""
        need, required = self.reference_need(job), job.requirements.providers or ()
        if not required:
            return need
        shared = tuple(provider for provider in need.providers if provider in required)
        return need._replace(providers=shared or required)

    def reference_need(self, job: Job) -> Need:
        """What a reference run of a job asks of an auditor: the submitter's choice of providers is none."""
        pipeline = self.pipelines[job.pipeline]
        memory_bytes = max(pipeline.memory_bytes, job.requirements.memory_bytes)
        return Need(pipeline.providers, memory_bytes, job.requirements.isolation)

    def loser(self, worker: WorkerState) -> str:
        """The id under which a worker's lost leases of a job are remembered: its owner's, or else its own."""
        return worker.record.owner if self.policy.losses_by_owner else worker.record.id

    def losers(self, job: Job) -> set[str]:
        """The ids, as `loser` gives them, of those that lost an ordinary lease of a job.

        Where a job is run again, also of the owners whose device gave the first result and was expelled.
        """
        lost = [
            lease
            for lease in self.leases_of[job.id]
            if lease.state in LOST and lease.purpose is not LeasePurpose.AUDIT
        ]
        if self.policy.owner_examined:
            lost += [
                lease
                for lease in self.earlier_leases_of.get(job.id, ())
                if self.workers[lease.worker].record.owner in self.examinations.expelled_owners
            ]
        return {self.loser(self.workers[lease.worker]) for lease in lost}

    def scope(self, job: Job) -> Scope:
        """For whom, and in what, a worker's credibility is asked for where this job is to be decided."""
        return Scope(self.capability(job), job.pipeline, job.account)

    def flow(self, job: Job) -> Flow:
        """Whose auditor time a reference run of this job uses."""
        return Flow(job.account, job.pipeline)

    def add_pipeline(self, pipeline: Pipeline) -> None:
        """Take in a pipeline, or the newest version of its record."""
        self.pipelines[pipeline.id] = pipeline
        for account, publisher in pipeline.claims:
            self.hands.claim(account, publisher)

    def capability(self, job: Job) -> str:
        """The capability class that a job's evidence belongs to."""
        return worker_state.capability_of(self.pipelines[job.pipeline])


#: The records that change; the others are frozen.
MUTABLE = (Account, Worker, Job, Lease, PipelineUse, CollusionFinding)
