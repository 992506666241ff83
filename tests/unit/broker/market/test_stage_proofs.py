"""A kernel that gave other bytes from the same bytes is proof: no tolerance and no result excuses it."""

from __future__ import annotations

import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Evidence, Lease, LeaseState, WorkerStanding
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.testing.staffed_market import StaffedMarket

POLICY = MarketPolicy(audit_rate=0.0)
EARLIER = MarketPolicy(audit_rate=0.0, stage_proofs=False)
KERNEL = "pick"


class Runs(StaffedMarket):
    """Runs on two execution providers, `a` and `b`, honest or with another kernel.

    A run is written `a`, `b`, `a!` or `b!`. The outputs of all four agree within the tolerance. On one
    provider, the stages tell an honest run from one with another kernel.
    """

    def bring(self, lease: Lease, run: str) -> None:
        others = [other for other in self.market.results_of(lease.job) if other.id != lease.id]
        proofs = {other.id for other in others if other.outcome != run and other.outcome.startswith(run[0])}
        agreeing = [other for other in others if other.id not in proofs and other.outcome != "wrong"]
        shares = tuple(0.0 if other.outcome == run else 0.5 for other in agreeing)
        self.handle(
            self.receipt(
                lease.id,
                run,
                worker=lease.worker,
                agrees_with=tuple(other.id for other in agreeing),
                shares=shares if any(shares) else (),
                proofs=tuple((other, KERNEL) for other in sorted(proofs)),
            )
        )

    def bring_all(self, job: str, *runs: str) -> list[Lease]:
        """Deliver these runs, each for an open lease of the job."""
        leases = []
        for run in runs:
            lease = self.open_leases(job)[0]
            self.bring(lease, run)
            leases.append(lease)
        return leases

    def audit(self, job: str, *runs: str) -> list[str]:
        """Deliver these reference runs; the auditors that made them."""
        auditors = []
        for run in runs:
            audit = self.open_audit(job)
            auditors.append(audit.worker)
            self.bring(audit, run)
        return auditors

    def states(self, leases: list[Lease]) -> list[LeaseState]:
        return [self.of(Lease, lease.id).state for lease in leases]

    def findings(self, lease: Lease) -> list[tuple[str, str]]:
        """What was found about a lease, each with the stage at fault."""
        found = [one for one in self.all_of(Evidence) if one.lease == lease.id]
        return [(one.kind.value, one.stage) for one in found]

    def is_expelled(self, lease: Lease) -> bool:
        worker = self.market.worker(lease.worker)
        assert worker is not None
        return worker.standing is WorkerStanding.EXPELLED


ACCEPTED, REJECTED, INCONCLUSIVE = LeaseState.ACCEPTED, LeaseState.REJECTED, LeaseState.INCONCLUSIVE


@pytest.mark.parametrize(
    ("policy", "cheat_is", "found"),
    [
        (POLICY, REJECTED, [("contradicted", KERNEL)]),
        (EARLIER, ACCEPTED, [("audit_passed", "")]),
    ],
)
def test_another_kernel_is_not_excused_by_a_result_that_the_reference_agrees_with(
    policy: MarketPolicy, cheat_is: LeaseState, found: list[tuple[str, str]]
) -> None:
    """The attack: a result on another provider agrees with the cheat, and vouches for it."""
    driver = Runs(3, auditors=1, policy=policy)
    job = driver.submit(confidence=0.95)
    cheat, other = driver.bring_all(job, "a!", "b")
    [wrong] = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong")
    driver.audit(job, "a")
    assert driver.states([cheat, other, wrong]) == [cheat_is, ACCEPTED, REJECTED]
    assert driver.findings(cheat) == found
    driver.check()


def test_one_run_each_of_two_owners_auditors_expels_whom_a_kernel_proves_wrong() -> None:
    driver = Runs(2, auditors=2, policy=POLICY)
    job = driver.submit(confidence=0.9)
    cheat, honest = driver.bring_all(job, "a!", "a")
    auditors = driver.audit(job, "a")
    assert driver.states([cheat, honest]) == [REJECTED, ACCEPTED]
    assert not driver.is_expelled(cheat)
    driver.restart()
    for worker in ("a0", "a1", "w0", "w1"):
        driver.connect(worker)
    driver.tick()
    auditors += driver.audit(job, "a")
    assert sorted(auditors) == ["a0", "a1"]
    assert driver.is_expelled(cheat)
    assert driver.findings(cheat) == [("contradicted", KERNEL), ("audit_failed", KERNEL)]
    assert "must be the same bytes" in driver.of(Evidence, f"{cheat.id}:audit_failed").detail
    assert not driver.is_expelled(honest)
    driver.check()


def test_a_reference_run_on_another_provider_neither_clears_nor_convicts() -> None:
    driver = Runs(2, auditors=2, policy=POLICY)
    job = driver.submit(confidence=0.9)
    cheat, honest = driver.bring_all(job, "a!", "a")
    driver.audit(job, "a", "b")
    assert driver.states([cheat, honest]) == [REJECTED, ACCEPTED]
    assert driver.findings(cheat) == [("contradicted", KERNEL)]
    assert driver.job(job).accused == ()
    assert not driver.is_expelled(cheat)
    driver.check()


def test_auditors_that_a_kernel_tells_apart_expel_nobody() -> None:
    driver = Runs(2, auditors=2, policy=POLICY)
    job = driver.submit(confidence=0.9)
    one, other = driver.bring_all(job, "a!", "a")
    driver.audit(job, "a", "a!")
    assert driver.findings(one) == [("contradicted", KERNEL), ("withdrawn", "")]
    assert not driver.is_expelled(one)
    assert not driver.is_expelled(other)
    driver.check()


def test_results_that_a_kernel_tells_apart_are_never_in_one_group() -> None:
    driver = Runs(5, policy=POLICY)
    job = driver.submit(confidence=0.97)
    cheat, between, honest, also_honest = driver.bring_all(job, "a!", "b", "a", "a")
    groups = [driver.of(Lease, lease.id).group for lease in (cheat, between, honest, also_honest)]
    assert groups == [cheat.id, cheat.id, honest.id, honest.id]


def test_without_an_auditor_nobody_is_blamed_for_agreeing_with_one_of_two_that_differ() -> None:
    driver = Runs(6, policy=POLICY)
    job = driver.submit(confidence=0.9)
    cheat, *honest, between, last, _ = driver.bring_all(job, "a!", "a", "a", "b", "a", "a")
    assert driver.of(Lease, between.id).group == cheat.id
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.findings(cheat) == [("outvoted", KERNEL)]
    assert driver.states([between, *honest, last]) == [INCONCLUSIVE] + [ACCEPTED] * 3
    assert driver.findings(between) == []
    driver.check()


def test_equal_outputs_do_not_excuse_another_kernel() -> None:
    """The attack: a small model guesses the label, so that the dear stages are not run."""
    driver = Runs(2, auditors=1, policy=POLICY)
    job = driver.submit(confidence=0.9)
    guess, honest = driver.open_leases(job)
    driver.handle(driver.receipt(guess.id, "label", worker=guess.worker, agrees_with=()))
    proofs = ((guess.id, KERNEL),)
    driver.handle(driver.receipt(honest.id, "label", worker=honest.worker, agrees_with=(), proofs=proofs))
    audit = driver.open_audit(job)
    driver.handle(
        driver.receipt(audit.id, "label", worker=audit.worker, agrees_with=(honest.id,), proofs=proofs)
    )
    assert driver.states([guess, honest]) == [REJECTED, ACCEPTED]
    assert driver.findings(guess) == [("contradicted", KERNEL)]


def test_a_start_from_before_the_rule_replays_without_it() -> None:
    assert not recorded_policy(b"\x80").stage_proofs
