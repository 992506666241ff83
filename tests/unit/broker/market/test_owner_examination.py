"""When a device is expelled, what its owner's other devices did is checked before they are paid or go on."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradepost.protocol import JobStatus, OnWrong
from tradepost_broker.market.ledger import earned_of
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, Worker, WorkerStanding
from tradepost_broker.market.model.events import NotifyVerdictChanged, SendSettled
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import StaffedMarket

UNCHECKED = MarketPolicy(audit_rate=0.0, recheck_rate=0.0, references_to_expel=1)
DEVICES = ("d0", "d1", "d2", "d3", "d4")


class MarketWithHousehold(StaffedMarket):
    """One owner has five devices, the cheapest; w1 and w2 are others', and a0 makes reference runs."""

    def __init__(self, *, policy: MarketPolicy = UNCHECKED) -> None:
        super().__init__(0, auditors=1, policy=policy)
        for device in DEVICES:
            self.join(device, owner="household")
        self.add_worker("w1")
        self.add_worker("w2")

    def accepted(self, device: str, outcome: str = "wrong", *, on_wrong: OnWrong = OnWrong.REDO) -> str:
        """A job that was accepted with an outcome of this device alone."""
        self.connect(device, make_offer(5, capacity=4))
        job = self.submit(on_wrong=on_wrong)
        [lease] = self.open_leases(job)
        assert lease.worker == device
        self.deliver(lease.id, outcome)
        assert self.job(job).status is JobStatus.ACCEPTED
        self.disconnect(device)
        return job

    def prove(self, device: str = "d0") -> str:
        """The job on which a device is caught, while two results differ."""
        self.connect(device, make_offer(5, capacity=4))
        job = self.submit(confidence=0.9)
        for lease in self.open_leases(job):
            self.deliver(lease.id, "wrong" if lease.worker == device else "right")
        self.deliver(self.open_audit(job).id, "right")
        assert self.standing(device) is WorkerStanding.EXPELLED
        return job

    def standing(self, device: str) -> WorkerStanding:
        """Whether a device may have leases, but for being examined."""
        return self.of(Worker, device).standing

    def is_examined(self, device: str) -> bool:
        """Whether what a device did is being checked."""
        return self.of(Worker, device).examined_since is not msgspec.UNSET

    def gets_leases(self, device: str) -> bool:
        """Whether a new job goes to a device that is the cheapest."""
        self.connect(device, make_offer(1, capacity=4))
        [lease] = self.open_leases(self.submit())
        return lease.worker == device

    def open_audits(self) -> list[Lease]:
        """All reference runs that are open, in order."""
        leases = [lease for job in self.all_of(Job) for lease in self.open_leases(job.id)]
        return [lease for lease in leases if lease.purpose is LeasePurpose.AUDIT]

    def audit_all(self, outcome: str = "right") -> None:
        """Make reference runs until none is open."""
        while audits := self.open_audits():
            self.deliver(audits[0].id, outcome)
            self.check()

    def changed(self) -> set[str]:
        """The jobs of whose new verdicts submitters were told."""
        told = [one for answer in self.answers for one in answer]
        return {one.job for one in told if isinstance(one, NotifyVerdictChanged)}


def test_wrong_results_of_the_other_devices_are_found_and_corrected() -> None:
    driver = MarketWithHousehold()
    jobs = [driver.accepted(device) for device in DEVICES]
    driver.prove()
    driver.audit_all()
    assert driver.changed() == set(jobs)
    for job in jobs:
        assert driver.of(Lease, driver.job(job).accepted[0]).outcome == "right"
        assert driver.job(job).paid_microcredits == 0
    assert [driver.standing(device) for device in DEVICES] == [WorkerStanding.EXPELLED] * 5
    driver.tick(10_000.0)
    assert [driver.market.account(earned_of(one)).available_microcredits for one in DEVICES] == [0] * 5
    driver.check_replay()


def test_right_results_are_paid_once_they_are_checked_and_the_device_goes_on() -> None:
    driver = MarketWithHousehold()
    job = driver.accepted("d1", "right")
    price = driver.job(job).paid_microcredits
    driver.prove()
    assert driver.is_examined("d1")
    assert not driver.gets_leases("d1")
    driver.tick(driver.policy.hold_s + 1)
    assert driver.market.account(earned_of("d1")).available_microcredits == 0
    driver.deliver(driver.open_audit(job).id, "right")
    assert not driver.is_examined("d1")
    driver.tick()
    assert driver.market.account(earned_of("d1")).available_microcredits == price > 0
    assert driver.job(job).paid_microcredits == price
    assert driver.gets_leases("d1")
    assert driver.changed() == set()
    driver.check_replay()


def test_it_is_checked_before_its_hold_is_over_and_matures_when_it_would_have() -> None:
    driver = MarketWithHousehold()
    job = driver.accepted("d1", "right")
    driver.prove()
    driver.deliver(driver.open_audit(job).id, "right")
    driver.tick(driver.policy.hold_s - 1)
    assert driver.market.account(earned_of("d1")).available_microcredits == 0
    driver.tick(1)
    assert driver.market.account(earned_of("d1")).available_microcredits > 0


@pytest.mark.parametrize("owner_examined", [True, False])
def test_a_device_that_holds_nothing_goes_on_at_once_but_is_not_believed_alone(owner_examined: bool) -> None:
    driver = MarketWithHousehold(policy=msgspec.structs.replace(UNCHECKED, audit_rate=1.0))
    checked = driver.accepted("d1", "right")
    driver.deliver(driver.open_audit(checked).id, "right")
    driver.tick(driver.policy.hold_s + driver.policy.idempotency_s)
    driver.policy = msgspec.structs.replace(UNCHECKED, recheck_rate=1e-9, owner_examined=owner_examined)
    driver.restart()
    for other in ("a0", "w1", "w2"):
        driver.connect(other)
    driver.prove()
    assert not driver.is_examined("d1")
    driver.connect("d1", make_offer(1))
    job = driver.submit(confidence=0.908)
    [lease] = driver.open_leases(job)
    assert lease.worker == "d1"
    driver.deliver(lease.id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert len(driver.open_audits()) == owner_examined


def test_results_without_a_verdict_decide_nothing_alone() -> None:
    driver = MarketWithHousehold()
    driver.connect("d1", make_offer(4, capacity=4))
    job = driver.submit(confidence=0.9)
    [lease] = [one for one in driver.open_leases(job) if one.worker == "d1"]
    driver.deliver(lease.id, "right")
    driver.disconnect("d1")
    driver.prove()
    assert driver.of(Lease, lease.id).recheck


def without_auditors(driver: MarketWithHousehold) -> None:
    """Let the time for a reference run pass, while no auditor is there."""
    driver.disconnect("a0")
    driver.tick(driver.policy.reexamine_s)
    driver.check()
    driver.tick(60)
    driver.check()


@pytest.mark.parametrize("on_wrong", OnWrong)
def test_what_no_auditor_can_check_is_refunded_and_run_again_by_other_owners(on_wrong: OnWrong) -> None:
    driver = MarketWithHousehold()
    job = driver.accepted("d1", "right", on_wrong=on_wrong)
    driver.prove()
    assert driver.job(job).in_doubt_until is not None
    without_auditors(driver)
    assert driver.job(job).paid_microcredits == 0
    assert not driver.is_examined("d1")
    assert driver.changed() == {job}
    if on_wrong is OnWrong.REFUND:
        assert driver.job(job).status is JobStatus.WITHDRAWN
        return
    driver.connect("d1", make_offer(1))
    [lease] = driver.open_leases(job)
    assert lease.worker in ("w1", "w2")
    driver.check_replay()


def test_its_owner_is_told_why() -> None:
    driver = MarketWithHousehold()
    job = driver.accepted("d1", "right")
    driver.prove()
    told = [one for answer in driver.answers for one in answer if isinstance(one, SendSettled)]
    [reason] = [one.reason for one in told if one.lease == driver.job(job).accepted[0]][1:]
    assert "another device of its owner was expelled" in reason


def test_an_examination_outlives_a_restart() -> None:
    policy = msgspec.structs.replace(UNCHECKED, jobs_per_event_max=2)
    driver = MarketWithHousehold(policy=policy)
    jobs = [driver.accepted("d1", "right") for _ in range(6)]
    driver.prove()
    driver.restart()
    driver.connect("a0", make_offer(1))
    driver.connect("w1", make_offer(10))
    assert not driver.gets_leases("d1")
    while driver.open_audits():
        driver.deliver(driver.open_audits()[0].id, "right")
        driver.tick(0.1)
        driver.check()
    assert not driver.is_examined("d1")
    assert all(driver.job(job).in_doubt_until is None for job in jobs)
    assert driver.changed() == set()
    driver.tick(policy.hold_s)
    for _ in range(10):
        driver.tick()
    assert driver.market.account(earned_of("d1")).available_microcredits == sum(
        driver.job(job).paid_microcredits for job in jobs
    )
    driver.check_replay()


def test_older_journals_keep_their_rule() -> None:
    assert recorded_policy(b"\x80").owner_examined is False
    driver = MarketWithHousehold(policy=msgspec.structs.replace(UNCHECKED, owner_examined=False))
    jobs = [driver.accepted(device) for device in DEVICES]
    driver.prove()
    driver.audit_all()
    assert driver.changed() == {jobs[0]}
    driver.tick(driver.policy.hold_s)
    assert driver.market.account(earned_of("d1")).available_microcredits > 0


@settings(max_examples=30, deadline=None)
@given(
    wrong=st.lists(st.tuples(st.sampled_from(DEVICES), st.booleans()), min_size=1, max_size=8),
    crash_after=st.integers(0, 8),
)
def test_whatever_the_devices_did_no_wrong_result_that_was_held_stays(
    wrong: list[tuple[str, bool]], crash_after: int
) -> None:
    driver = MarketWithHousehold(policy=msgspec.structs.replace(UNCHECKED, jobs_per_event_max=2))
    jobs = {driver.accepted(device, "wrong" if is_wrong else "right"): is_wrong for device, is_wrong in wrong}
    driver.prove()
    for turn in range(40):
        if turn == crash_after:
            driver.restart()
            driver.connect("a0", make_offer(1))
        if audits := driver.open_audits():
            driver.deliver(audits[0].id, "right")
        driver.tick(0.1)
        driver.check()
    assert driver.changed() == {job for job, is_wrong in jobs.items() if is_wrong}
    assert not any(driver.is_examined(device) for device in DEVICES)
    cheats = {device for device, is_wrong in wrong if is_wrong} | {"d0"}
    assert {one for one in DEVICES if driver.standing(one) is WorkerStanding.EXPELLED} == cheats
    driver.check_replay()
