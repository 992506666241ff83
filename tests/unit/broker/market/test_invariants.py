"""The market under random events: after every one, books, jobs and workers must be as they must be.

The machine plays submitters, honest workers, a cheat that works alone, two that collude, and workers that
drop leases or connections; it also kills the broker. At the end the journal is replayed on a fresh market.
"""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tradepost.errors import ModelFailure, UntrustedPipeline
from tradepost.protocol import GiveBackReason, JobStatus, OnWrong
from tradepost_broker.market import Market
from tradepost_broker.market.ledger import earned_of, held_of, stake_of
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(
    audit_rate=0.3,
    hold_s=40.0,
    retain_s=15.0,
    idempotency_s=100.0,
    attempts_max=4,
    results_max=5,
    exposure_leases_max=2,
    proven_checks=4.0,
    reconnect_s=10.0,
    lease_grace_s=5.0,
    suspend_evidence_min=3.0,
    audit_backlog_max=3,
    late_s_min=0.5,
    break_offs_free=1.0,
    cool_off_s=5.0,
    reexamine_s=90.0,
)
STAKE = 1_000
HONEST = ("honest0", "honest1", "honest2", "honest3")
CHEATS = ("loner", "colluder0", "colluder1")
AUDITORS = ("auditor0", "auditor1")
WORKERS = (*HONEST, *CHEATS)
PIPELINES = ("digits", "kernels")
STAGES = ("decode", "infer", "pick")

offers = st.builds(
    make_offer,
    st.integers(5, 30),
    capacity=st.sampled_from([0, 1, 2, 2, 3, 3]),
    providers=st.sampled_from([("cpu",), ("cpu",), ("cpu", "cuda"), ("cuda",)]),
    warm=st.sampled_from([(), ("digits",)]),
)


class MarketMachine(RuleBasedStateMachine):
    """Random events, and what must hold after each. Of `workers`, the first ask the least."""

    policy = POLICY
    workers = WORKERS

    @initialize(seed=st.integers(0, 1 << 64))
    def open_market(self, seed: int) -> None:
        self.driver = MarketDriver(policy=self.policy, seed=seed)
        self.driver.fund("alice", 500_000)
        self.driver.fund("bob", 20_000)
        self.driver.publish(make_pipeline("digits", wall_s=20.0))
        self.driver.publish(make_pipeline("kernels", providers=(), wall_s=5.0))
        for worker in (*WORKERS, *AUDITORS):
            self.driver.join(worker, stake_microcredits=STAKE, auditor=worker in AUDITORS)
        self.all_connect(audited=True)

    def open_leases(self) -> list[str]:
        return [lease for leases in self.driver.in_hand.values() for lease in leases]

    def is_connected(self, worker: str) -> bool:
        return self.driver.market.is_connected(worker)

    # Submitters

    @rule(
        account=st.sampled_from(["alice", "alice", "bob"]),
        pipeline=st.sampled_from(PIPELINES),
        max_price_microcredits=st.sampled_from([900, 5_000, 10_000, 10_000]),
        confidence=st.sampled_from([0.5, 0.75, 0.9, 0.95]),
        deadline_s=st.sampled_from([8.0, 60.0]),
        patience_s=st.sampled_from([0.0, 4.0]),
        on_wrong=st.sampled_from(OnWrong),
        count=st.integers(1, 4),
    )
    def submit(
        self,
        account: str,
        pipeline: str,
        max_price_microcredits: int,
        confidence: float,
        deadline_s: float,
        patience_s: float,
        on_wrong: OnWrong,
        count: int,
    ) -> None:
        for _ in range(count):
            self.driver.submit(
                account,
                pipeline=pipeline,
                max_price_microcredits=max_price_microcredits,
                confidence=confidence,
                deadline_s=deadline_s,
                patience_s=patience_s,
                on_wrong=on_wrong,
            )

    @precondition(lambda self: self.driver.all_of(Job))
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        jobs = {(job.account, job.idempotency_key): job for job in self.driver.all_of(Job)}
        job = data.draw(st.sampled_from(list(jobs.values())))  # a key stands for the newest job
        again = self.driver.submit(job.account, key=job.idempotency_key)
        kept = job.finished_at is None or self.driver.at < job.finished_at + POLICY.idempotency_s
        assert (again == job.id) == kept

    @precondition(lambda self: len(self.driver.all_of(Job)) > 2)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.driver.all_of(Job)))
        self.driver.cancel(job.id, job.account)

    @rule(account=st.sampled_from(["alice", "bob"]), name=st.sampled_from("xyz"))
    def fund(self, account: str, name: str) -> None:
        self.driver.fund(account, 5_000, transfer=f"gift-{name}-{account}")

    # Workers

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.deliver_one(data.draw(st.sampled_from(self.open_leases())))

    @rule()
    def deliver_all(self) -> None:
        for lease_id in self.open_leases():
            self.deliver_one(lease_id)

    def deliver_one(self, lease_id: str) -> None:
        lease = self.driver.of(Lease, lease_id)
        if not self.is_connected(lease.worker):
            return
        outcome, problem = f"right {lease.job}", None
        stages, wall_us = stages_of(lease), (100, lease.attempt * 200, 50)
        if lease.worker in CHEATS:
            outcome = f"wrong {lease.job}"
        elif int(lease.job[-3:]) % 5 == 0:  # every fifth job truly fails
            outcome, problem = "failed:infer:model-failure", ModelFailure("out of bounds").to_problem()
            stages, wall_us = stages[:1], ()
        if lease.worker == "loner":
            outcome = f"wrong {lease.job} by loner"
        self.driver.deliver(
            lease_id, outcome, worker=lease.worker, stages=stages, wall_us=wall_us, problem=problem
        )

    @precondition(lambda self: any(self.driver.in_hand.get(auditor) for auditor in AUDITORS))
    @rule(runs=st.integers(1, 8))
    def make_reference_runs(self, runs: int) -> None:
        for _ in range(runs):
            held = [lease for auditor in AUDITORS for lease in self.driver.in_hand.get(auditor, ())]
            if held:
                self.deliver_one(held[0])

    @precondition(lambda self: any(job.in_doubt_until for job in self.driver.all_of(Job)))
    @rule()
    def let_doubts_end_without_auditors(self) -> None:
        for auditor in AUDITORS:
            self.driver.disconnect(auditor)
        self.driver.tick(self.policy.reconnect_s + 1)
        for _ in range(3):  # each ends a few
            self.driver.tick(self.policy.reexamine_s)

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), reason=st.sampled_from(GiveBackReason))
    def give_back(self, data: st.DataObject, reason: GiveBackReason) -> None:
        lease_id = data.draw(st.sampled_from(self.open_leases()))
        problem = UntrustedPipeline("no").to_problem() if reason is GiveBackReason.REFUSED else None
        self.driver.give_back(lease_id, reason, problem)

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), done=st.integers(1, 2), goes_on=st.booleans())
    def preempt(self, data: st.DataObject, done: int, goes_on: bool) -> None:
        lease = self.driver.of(Lease, data.draw(st.sampled_from(self.open_leases())))
        self.driver.give_back(lease.id, GiveBackReason.PREEMPTED, stages=stages_of(lease)[:done])
        while goes_on and (again := [one.id for one in self.driver.open_leases(lease.job)]):
            self.deliver_one(again[0])
            goes_on = self.driver.of(Lease, again[0]).state is not LeaseState.OPEN

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), stages_done=st.integers(1, 3))
    def report_stages(self, data: st.DataObject, stages_done: int) -> None:
        self.driver.report_stages(data.draw(st.sampled_from(self.open_leases())), stages_done)

    @rule(audited=st.booleans())
    def all_connect(self, audited: bool) -> None:
        for number, worker in enumerate(self.workers):
            self.driver.connect(worker, make_offer(10 + number))
        for auditor in AUDITORS:
            if audited:
                self.driver.connect(auditor, make_offer(1))
            else:
                self.driver.disconnect(auditor)

    @rule(worker=st.sampled_from([*WORKERS, *AUDITORS]), offer=offers, forgets=st.booleans())
    def connect(self, worker: str, offer: object, forgets: bool) -> None:
        known = tuple(self.driver.in_hand.get(worker, ()))
        self.driver.connect(worker, offer, open_leases=known[:1] if forgets else known)  # type: ignore[arg-type]

    @rule(worker=st.sampled_from([*WORKERS, *AUDITORS]), offer=offers)
    def update_offer(self, worker: str, offer: object) -> None:
        self.driver.update_offer(worker, offer)  # type: ignore[arg-type]

    @rule(worker=st.sampled_from([*WORKERS, *AUDITORS]))
    def disconnect(self, worker: str) -> None:
        self.driver.disconnect(worker)

    # Time and crashes

    @rule(after_s=st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0, 6.0, 20.0, 100.0]))
    def tick(self, after_s: float) -> None:
        self.driver.tick(after_s)

    @rule(after_s=st.sampled_from([0.0, 1.0, 20.0, 100.0]))
    def tick_while_receipts_are_checked(self, after_s: float) -> None:
        held = [lease for leases in self.driver.in_hand.values() for lease in leases]
        self.driver.tick(after_s, arrived=tuple(sorted(held)))

    @precondition(lambda self: len(self.driver.events) % 5 == 0)
    @rule()
    def crash(self) -> None:
        self.driver.restart()

    # What must hold

    @invariant()
    def books_and_jobs_are_sound(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check()

    @invariant()
    def honest_workers_keep_their_stake_and_earnings(self) -> None:
        if not hasattr(self, "driver"):
            return
        for worker in HONEST:
            assert self.driver.market.account(stake_of(worker)).available_microcredits == STAKE
            assert self.driver.market.worker(worker).standing != "expelled"  # type: ignore[union-attr]
            paid = sum(
                lease.paid_microcredits for lease in self.driver.all_of(Lease) if lease.worker == worker
            )
            purses = (held_of(worker), earned_of(worker))
            assert paid == sum(self.driver.market.account(purse).available_microcredits for purse in purses)

    @invariant()
    def breaking_off_gains_nothing(self) -> None:
        if not hasattr(self, "driver"):
            return
        for job in self.driver.all_of(Job):
            leases = [lease for lease in self.driver.all_of(Lease) if lease.job == job.id]
            stages = [
                lease for lease in leases if lease.paid_microcredits and lease.state is LeaseState.PREEMPTED
            ]
            if stages:
                accepted = [lease for lease in leases if lease.id in job.accepted]
                if job.verdict_changed_at is not None:  # a result that was accepted before confirmed them
                    accepted = [lease for lease in leases if lease.outcome and lease.worker not in AUDITORS]
                assert sum(lease.paid_microcredits for lease in stages) <= max(
                    lease.price_microcredits for lease in accepted
                )
                owners = [lease.worker for lease in (*stages, *accepted)]
                is_final = job.verdict_changed_at is None
                assert not is_final or len(owners) == len(set(owners)), "each worker is its own owner's here"

    @invariant()
    def a_verdict_changes_as_the_submitter_asked(self) -> None:
        if not hasattr(self, "driver"):
            return
        for job in self.driver.all_of(Job):
            if job.verdict_changed_at is None:
                continue
            if job.redone_after:
                assert job.on_wrong is OnWrong.REDO
                continue
            given = [self.driver.of(Lease, lease) for lease in job.accepted]
            assert all(lease.worker in AUDITORS and not lease.outcome.startswith("wrong") for lease in given)
            assert bool(given) == (job.status is not JobStatus.WITHDRAWN)
            assert job.on_wrong is OnWrong.REDO or not given

    @invariant()
    def memory_is_what_was_saved(self) -> None:
        if not hasattr(self, "driver"):
            return
        restored = Market.restore(self.driver.all_records(), self.policy)
        assert observed(restored, self.driver) == observed(self.driver.market, self.driver)

    @invariant()
    def capacity_is_kept(self) -> None:
        if not hasattr(self, "driver"):
            return
        for worker in self.driver.market.workers():
            open_leases = self.driver.market.open_leases_of(worker.id)
            assert len(open_leases) <= 3
            if worker.standing == "expelled":
                assert not open_leases

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check_replay()


def stages_of(lease: Lease) -> tuple[tuple[str, str], ...]:
    """The stages of a run of a lease's job with their hashes; a cheat's go wrong from the second on."""
    hashes = ("right", "right", "right")
    if lease.worker in CHEATS:
        hashes = ("right", f"by {lease.worker[:5]}", f"by {lease.worker[:5]}")
    return tuple((name, f"{one} {lease.job}") for name, one in zip(STAGES, hashes, strict=True))


def observed(market: Market, driver: MarketDriver) -> dict[str, object]:
    """All that can be seen of a market, apart from finished jobs, which leave memory in their own time."""
    jobs = [market.job(job.id) for job in driver.all_of(Job) if job.status not in FINAL]
    return {
        "jobs": jobs,
        "leases": [market.leases_of(job.id) for job in jobs if job is not None],
        "open": {worker: {lease.id for lease in market.open_leases_of(worker)} for worker in WORKERS},
        "workers": [market.worker(worker) for worker in WORKERS],
        "reputations": [market.reputation_of(worker) for worker in WORKERS],
        "accounts": {account.id: account for account in market.accounts()},
    }


class MarketOfCheats(MarketMachine):
    """The cheats underbid, so that they are believed alone, and one reference run proves what they are."""

    policy = msgspec.structs.replace(POLICY, references_to_expel=1, jobs_per_event_max=3, reexamine_s=30.0)
    workers = (*CHEATS, *HONEST)


MarketMachine.TestCase.settings = MarketOfCheats.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMarketMachine = MarketMachine.TestCase
TestMarketOfCheats = MarketOfCheats.TestCase
