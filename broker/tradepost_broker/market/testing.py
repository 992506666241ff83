"""A market with simulated workers and submitters, for tests, simulations and benchmarks. No shell, no I/O.

`MarketDriver` makes events with rising times and seeds, keeps the records that a database would hold, and
remembers which leases each worker was sent. Two outcomes agree if they are the same text.
"""

from __future__ import annotations

import copy
import hashlib
from typing import TypeVar

import msgspec

from tradepost.errors import Problem, WorkerLost
from tradepost.protocol import (
    Capabilities,
    EstimateRequest,
    EstimateView,
    GiveBackReason,
    JobStatus,
    Offer,
    OnWrong,
    Preference,
    Requirements,
)
from tradepost_broker.market.core import Market
from tradepost_broker.market.ledger import SUPPLY_MICROCREDITS, Kind, held_of
from tradepost_broker.market.model.entities import Account, Job, Lease, Pipeline, Record, Transfer, Worker
from tradepost_broker.market.model.events import (
    CancelRequested,
    Event,
    Funded,
    Instruction,
    JobSubmitted,
    LeaseGivenBack,
    LeaseProgressed,
    NotifyFinished,
    NotifyVerdictChanged,
    OfferUpdated,
    PipelinePublished,
    ReceiptDelivered,
    ReplyRefused,
    ReplySubmitted,
    Restarted,
    RevocationsIssued,
    Save,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    Tick,
    WorkerConnected,
    WorkerDisconnected,
    WorkerJoined,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LIVE
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_signing.policy.revocation import RevocationDocument

GIBIBYTE = 1 << 30

T = TypeVar("T")


def make_pipeline(
    pipeline: str = "digits",
    *,
    providers: tuple[str, ...] = ("cpu",),
    memory_bytes: int = GIBIBYTE,
    artifact_bytes: int = 1 << 20,
    wall_s: float = 30.0,
    units: int = 100,
    publishers: tuple[str, ...] = ("publisher",),
    artifacts: tuple[str, ...] = (),
) -> Pipeline:
    """A published pipeline whose every job has `units` work units."""
    return Pipeline(
        id=pipeline,
        name=pipeline,
        publisher=publishers[0],
        publishers=publishers,
        artifacts=artifacts,
        providers=providers,
        memory_bytes=memory_bytes,
        artifact_bytes=artifact_bytes,
        wall_s=wall_s,
        work_units_base=units,
        work_units_per_mebibyte=0,
        kernel_stages=(),
    )


def make_offer(
    price_per_unit_microcredits: int = 10,
    *,
    capacity: int = 2,
    providers: tuple[str, ...] = ("cpu",),
    memory_bytes: int = 8 * GIBIBYTE,
    isolation: tuple[str, ...] = (),
    warm: tuple[str, ...] = (),
    engines: dict[str, str] | None = None,
) -> Offer:
    """A standing offer at this price per work unit."""
    capabilities = Capabilities(
        cores=4, memory_bytes=memory_bytes, providers=providers, engines=engines or {}, isolation=isolation
    )
    return Offer(
        price_per_unit_microcredits=price_per_unit_microcredits,
        capacity=capacity,
        capabilities=capabilities,
        warm=warm,
    )


class MarketDriver:
    """Drives one market. `seed` makes every choice; `at` is the time of the next event, in Unix seconds."""

    def __init__(self, *, policy: MarketPolicy | None = None, seed: int = 0, at: float = 1_000_000.0) -> None:
        self.policy = policy or MarketPolicy()
        self.market = Market(policy=self.policy)
        self.at = at
        self.events: list[Event] = []
        self.answers: list[list[Instruction]] = []
        #: What a shell would have in its journal, with the answers.
        self.journal: list[tuple[Event, list[Instruction]]] = []
        #: The newest saved version of every record, by kind and id.
        self.records: dict[tuple[type, str], Record] = {}
        #: The leases that each worker was sent and has not ended, in order.
        self.in_hand: dict[str, dict[str, None]] = {}
        self._seed = seed
        self._seeds = 0
        self._jobs = 0

    def handle(self, event: Event) -> list[Instruction]:
        """Give the market an event, and do what a shell would do with the answer."""
        answer = self.market.handle(event)
        self.events.append(event)
        self.answers.append(answer)
        if self.market.changed:
            self.journal.append((event, answer))
        for instruction in answer:
            match instruction:
                case Save(record):
                    self.records[type(record), record.id] = record
                case SendGrant(lease, worker):
                    self.in_hand.setdefault(worker, {})[lease] = None
                case SendRecall(lease, worker) | SendAcknowledged(lease, worker, _):
                    self.in_hand.setdefault(worker, {}).pop(lease, None)
        return answer

    # What submitters, publishers and the operator do

    def fund(
        self, account: str = "alice", amount_microcredits: int = 10**9, *, transfer: str = ""
    ) -> list[Instruction]:
        """Give an account credits."""
        transfer = transfer or f"fund-{account}-{len(self.events)}"
        return self.handle(
            Funded(at=self.at, transfer=transfer, account=account, amount_microcredits=amount_microcredits)
        )

    def publish(self, pipeline: Pipeline | None = None, *, account: str = "publisher") -> list[Instruction]:
        """Publish a pipeline."""
        published = PipelinePublished(at=self.at, pipeline=pipeline or make_pipeline(), account=account)
        return self.handle(published)

    def submit(
        self,
        account: str = "alice",
        *,
        pipeline: str = "digits",
        max_price_microcredits: int = 100_000,
        confidence: float = 0.75,
        deadline_s: float = 300.0,
        patience_s: float = 5.0,
        requirements: Requirements | None = None,
        on_wrong: OnWrong = OnWrong.REDO,
        preference: Preference | msgspec.UnsetType = msgspec.UNSET,
        key: str = "",
        request_hash: str = "",
    ) -> str:
        """Submit a job, and give its id; "" if it was refused."""
        self._jobs += 1
        job = f"job{self._jobs:06}"
        answer = self.handle(
            JobSubmitted(
                at=self.at,
                job=job,
                account=account,
                idempotency_key=key or job,
                request_hash=request_hash or key or job,
                pipeline=pipeline,
                input="input",
                input_bytes=1000,
                max_price_microcredits=max_price_microcredits,
                confidence=confidence,
                deadline_s=deadline_s,
                patience_s=patience_s,
                requirements=requirements or Requirements(),
                on_wrong=on_wrong,
                preference=preference,
                seed=self.next_seed(),
            )
        )
        return next((reply.job for reply in answer if isinstance(reply, ReplySubmitted)), "")

    def estimate(
        self,
        account: str = "alice",
        *,
        pipeline: str = "digits",
        max_price_microcredits: int | None = None,
        confidence: float = 0.75,
        deadline_s: float = 300.0,
        requirements: Requirements | None = None,
    ) -> EstimateView:
        """Ask what such a job as `submit` submits would cost."""
        request = EstimateRequest(
            pipeline=pipeline,
            input_bytes=1000,
            max_price_microcredits=max_price_microcredits,
            confidence=confidence,
            deadline_s=deadline_s,
            requirements=requirements or Requirements(),
        )
        return self.market.estimate(account, request)

    def cancel(self, job: str, account: str = "alice") -> list[Instruction]:
        """Cancel a job."""
        return self.handle(CancelRequested(at=self.at, job=job, account=account, seed=self.next_seed()))

    def revoke(self, document: RevocationDocument) -> list[Instruction]:
        """Issue a revocation list."""
        return self.handle(RevocationsIssued(at=self.at, document=document, seed=self.next_seed()))

    # What workers do

    def join(
        self, worker: str, *, owner: str = "", stake_microcredits: int = 1_000_000, auditor: bool = False
    ) -> list[Instruction]:
        """Let a worker join; without `owner`, it is its own."""
        return self.handle(
            WorkerJoined(
                at=self.at,
                worker=worker,
                owner=owner or worker,
                device="device",
                public_key=worker.encode(),
                auditor=auditor,
                stake_microcredits=stake_microcredits,
            )
        )

    def connect(
        self, worker: str, offer: Offer | None = None, *, open_leases: tuple[str, ...] | None = None
    ) -> list[Instruction]:
        """Open a worker's stream; without `open_leases`, it has what it was sent."""
        if open_leases is None:
            open_leases = tuple(self.in_hand.get(worker, ()))
        self.in_hand[worker] = dict.fromkeys(open_leases)
        return self.handle(
            WorkerConnected(
                at=self.at,
                worker=worker,
                offer=offer or make_offer(),
                open_leases=open_leases,
                seed=self.next_seed(),
            )
        )

    def add_worker(
        self, worker: str, price_per_unit_microcredits: int = 10, *, owner: str = "", auditor: bool = False
    ) -> None:
        """Let a worker join and connect with an offer at `price_per_unit_microcredits`."""
        self.join(worker, owner=owner, auditor=auditor)
        self.connect(worker, make_offer(price_per_unit_microcredits))

    def update_offer(self, worker: str, offer: Offer) -> list[Instruction]:
        """Replace a worker's offer."""
        return self.handle(OfferUpdated(at=self.at, worker=worker, offer=offer, seed=self.next_seed()))

    def disconnect(self, worker: str) -> list[Instruction]:
        """Close a worker's stream."""
        return self.handle(WorkerDisconnected(at=self.at, worker=worker))

    def deliver(
        self,
        lease: str,
        outcome: str = "right",
        *,
        worker: str = "",
        stages: tuple[tuple[str, str], ...] = (),
        wall_us: tuple[int, ...] = (),
        problem: Problem | None = None,
    ) -> list[Instruction]:
        """Deliver an outcome for a lease, as its worker unless another is named."""
        known = self.market.lease(lease)
        peers = self.market.results_of(known.job) if known else []
        agrees_with = tuple(peer.id for peer in peers if peer.outcome == outcome and peer.id != lease)
        worker = worker or (known.worker if known else "nobody")
        return self.handle(
            self.receipt(
                lease,
                outcome,
                worker=worker,
                agrees_with=agrees_with,
                stages=stages,
                wall_us=wall_us,
                problem=problem,
            )
        )

    def receipt(
        self,
        lease: str,
        outcome: str,
        *,
        worker: str,
        agrees_with: tuple[str, ...],
        stages: tuple[tuple[str, str], ...] = (),
        wall_us: tuple[int, ...] = (),
        problem: Problem | None = None,
        shares: tuple[float, ...] = (),
        proofs: tuple[tuple[str, str], ...] = (),
    ) -> ReceiptDelivered:
        """The event that brings an outcome which agrees with these leases, be it within a tolerance.

        `shares` are how much of it each takes; `proofs` are the leases that a stage tells it apart from.
        """
        return ReceiptDelivered(
            at=self.at,
            worker=worker,
            lease=lease,
            outcome=outcome,
            stage_hashes=stages,
            stage_wall_us=wall_us,
            agrees_with=agrees_with,
            shares=shares,
            proofs=proofs,
            problem=problem,
            seed=self.next_seed(),
        )

    def give_back(
        self,
        lease: str,
        reason: GiveBackReason = GiveBackReason.FAILED,
        problem: Problem | None = None,
        *,
        stages: tuple[tuple[str, str], ...] = (),
    ) -> list[Instruction]:
        """Give a lease back without a result, after these `stages`."""
        known = self.market.lease(lease)
        return self.handle(
            LeaseGivenBack(
                at=self.at,
                worker=known.worker if known else "nobody",
                lease=lease,
                reason=reason,
                problem=problem or WorkerLost("the device failed").to_problem(),
                stage_hashes=stages,
                seed=self.next_seed(),
            )
        )

    def report_stages(self, lease: str, stages_done: int, *, worker: str = "") -> list[Instruction]:
        """Report how many stages of a lease are done, as its worker unless another is named."""
        known = self.market.lease(lease)
        worker = worker or (known.worker if known else "nobody")
        return self.handle(LeaseProgressed(at=self.at, worker=worker, lease=lease, stages_done=stages_done))

    # What time and the operator do

    def tick(self, after_s: float = 0.0, *, arrived: tuple[str, ...] = ()) -> list[Instruction]:
        """Let time pass, then let the market look at the clock, while receipts of `arrived` are checked."""
        self.at += after_s
        return self.handle(Tick(at=self.at, seed=self.next_seed(), arrived=arrived))

    def restart(self) -> list[Instruction]:
        """Throw the market away and restore it from its records, as after a crash."""
        self.market = Market.restore(self.all_records(), self.policy)
        return self.handle(Restarted(at=self.at))

    # What can be seen

    def all_records(self) -> list[Record]:
        """What the database would hold, as copies, in an order that says nothing about when they came."""
        ordered = sorted(self.records.items(), key=lambda item: (item[0][1], item[0][0].__name__))
        return [copy.copy(record) for _, record in reversed(ordered)]

    def job(self, job: str) -> Job:
        """The newest saved version of a job."""
        return self.of(Job, job)

    def of(self, kind: type[T], record_id: str) -> T:
        """The newest saved version of a record."""
        record = self.records[kind, record_id]
        assert isinstance(record, kind)
        return record

    def all_of(self, kind: type[T]) -> list[T]:
        """The newest saved version of every record of a kind, in the order in which they appeared."""
        return [record for record in self.records.values() if isinstance(record, kind)]

    def open_leases(self, job: str) -> list[Lease]:
        """The job's leases that are open."""
        return [lease for lease in self.market.leases_of(job) if lease.state == "open"]

    def told(self) -> list[Instruction]:
        """What the last event made the market say, apart from what it saved."""
        return [instruction for instruction in self.answers[-1] if not isinstance(instruction, Save)]

    def refusal(self) -> Problem:
        """Why the last event was refused."""
        [refused] = self.answers[-1]
        assert isinstance(refused, ReplyRefused), refused
        return refused.problem

    def check_replay(self) -> None:
        """Raise `AssertionError` unless all events, and the journal alone, get the same answers again."""
        for replayed in (list(zip(self.events, self.answers, strict=True)), self.journal):
            fresh = Market(policy=self.policy)
            for event, answer in replayed:
                assert fresh.handle(event) == answer, f"it replays differently: {event}"

    def check(self) -> None:
        """Raise `AssertionError` unless books, jobs and leases are as they must be after every event."""
        accounts, jobs, leases = self.all_of(Account), self.all_of(Job), self.all_of(Lease)
        moved_microcredits = sum(
            account.available_microcredits + account.reserved_microcredits for account in accounts
        )
        if accounts:
            assert moved_microcredits == SUPPLY_MICROCREDITS, f"the books have {moved_microcredits}"
        for account in accounts:
            assert account.available_microcredits >= 0, account
            assert account.reserved_microcredits >= 0, account
        unfinished = [job for job in jobs if job.status not in FINAL]
        assert sum(account.reserved_microcredits for account in accounts) == sum(
            job.cap_microcredits for job in unfinished
        )
        for job in jobs:
            paid_microcredits = sum(lease.paid_microcredits for lease in leases if lease.job == job.id)
            assert job.paid_microcredits == paid_microcredits <= job.max_price_microcredits, job
            live = [lease for lease in leases if lease.job == job.id and lease.state in LIVE]
            assert (
                job.committed_microcredits
                == sum(lease.price_microcredits for lease in live)
                <= job.max_price_microcredits
            ), job
            assert (job.status is JobStatus.RUNNING) == (job.status not in FINAL and bool(live)), job
            owners = [self.of(Worker, lease.worker).owner for lease in live]
            assert len(owners) == len(set(owners)), f"{job.id} is with one owner twice"
        for worker in self.all_of(Worker):
            held_microcredits = sum(
                lease.paid_microcredits for lease in leases if lease.worker == worker.id and lease.matures_at
            )
            assert self.market.account(held_of(worker.id)).available_microcredits == held_microcredits, worker
        told = [one for answer in self.answers for one in answer]
        ended = [one.job for one in told if isinstance(one, NotifyFinished)]
        for job in jobs:
            ends = (job.status in FINAL) + (job.redone_after > 0)
            assert ended.count(job.id) == ends, "a job ends exactly once, and again if it is redone"
        changed = [one.job for one in told if isinstance(one, NotifyVerdictChanged)]
        assert len(changed) == len(set(changed)), "a verdict changes at most once"
        assert set(changed) == {job.id for job in jobs if job.verdict_changed_at is not None}
        withdrawn = {job.id for job in jobs if job.status is JobStatus.WITHDRAWN}
        redone = {job.id for job in jobs if job.redone_after}
        assert withdrawn | redone <= set(changed) <= set(ended)
        assert withdrawn.isdisjoint(redone)
        transfers = self.all_of(Transfer)
        slashed_at = {
            held_of(one.id.rpartition(":")[0]): one.at for one in transfers if one.kind == Kind.SLASH
        }
        for one in transfers:
            if one.kind == Kind.MATURE and self.policy.reexamine_s:
                assert one.at <= slashed_at.get(one.debit, one.at), f"{one.id} pays an expelled worker"

    def next_seed(self) -> int:
        """128 bits that follow from the driver's seed and how far it has come."""
        self._seeds += 1
        digest = hashlib.sha256(f"{self._seed}:{self._seeds}".encode()).digest()
        return int.from_bytes(digest[:16], "big")
