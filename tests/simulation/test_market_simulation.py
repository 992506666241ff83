"""Some thousands of jobs in a market where a fifth of the workers collude to give the same wrong answer.

Deterministic: the same seed gives the same run. It measures what the submitters get (wrong results accepted),
what it costs them and the operator (redundancy, reference runs), and what it costs the honest (nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, LeaseState, WorkerStanding
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer

JOBS = 3_000
WORKERS = 40
IN_FLIGHT = 25


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    accepted: int
    wrong: int
    results: int
    audits: int
    cheats_left: int
    honest_slashed: int

    @property
    def wrong_rate(self) -> float:
        return self.wrong / self.accepted

    @property
    def redundancy(self) -> float:
        """Results that submitters' jobs took, per job."""
        return self.results / self.accepted

    def report(self, title: str) -> None:
        print(
            f"\n{title}: {self.accepted} jobs, wrong accepted {self.wrong} ({self.wrong_rate:.1e}), "
            f"redundancy {self.redundancy:.3f}, reference runs {self.audits / self.accepted:.3f} a job, "
            f"cheats left {self.cheats_left}, honest slashed {self.honest_slashed}"
        )


def is_cheat(worker: str) -> bool:
    return worker.startswith("cheat")


def simulate(*, confidence: float, auditors: int, seed: int) -> Outcome:
    """Run the market until all jobs have ended."""
    driver = MarketDriver(policy=MarketPolicy(), seed=seed)
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    for number in range(auditors):
        driver.add_worker(f"auditor{number}", auditor=True)
    for number in range(WORKERS):
        name = f"cheat{number}" if number % 5 == 0 else f"honest{number}"
        driver.join(name)
        # Cheats bid as low as anyone, so that they get as much work as they can.
        driver.connect(name, make_offer(10 if is_cheat(name) else 10 + number % 7, capacity=4))
    jobs: list[str] = []
    while len(jobs) < JOBS or any(driver.in_hand.values()):
        running = sum(len(leases) for leases in driver.in_hand.values())
        while len(jobs) < JOBS and running < IN_FLIGHT:
            jobs.append(driver.submit(confidence=confidence, max_price_microcredits=100_000))
            running = sum(len(leases) for leases in driver.in_hand.values())
        for worker, leases in sorted(driver.in_hand.items()):
            for lease_id in list(leases):
                job = lease_id.partition(".")[0]
                driver.deliver(lease_id, "wrong" if is_cheat(worker) else f"right {job}", worker=worker)
        driver.tick(1.0)
        # What a database would keep, this run need not look at again.
        driver.events.clear()
        driver.answers.clear()
    return outcome_of(driver)


def outcome_of(driver: MarketDriver) -> Outcome:
    leases = driver.all_of(Lease)
    by_id = {lease.id: lease for lease in leases}
    finished = [job for job in driver.all_of(Job) if job.status is JobStatus.ACCEPTED]
    ordinary = [lease for lease in leases if lease.purpose is not LeasePurpose.AUDIT]
    standings = {worker.id: worker.standing for worker in driver.market.workers()}
    return Outcome(
        accepted=len(finished),
        wrong=sum(by_id[job.accepted[0]].outcome == "wrong" for job in finished),
        results=sum(lease.state is not LeaseState.RECALLED for lease in ordinary),
        audits=len(leases) - len(ordinary),
        cheats_left=sum(
            is_cheat(worker) and standing is WorkerStanding.ACTIVE for worker, standing in standings.items()
        ),
        honest_slashed=sum(
            not is_cheat(worker) and standing is WorkerStanding.EXPELLED
            for worker, standing in standings.items()
        ),
    )


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_with_an_auditor_cheats_are_expelled_and_hardly_any_wrong_result_is_accepted(
    confidence: float,
) -> None:
    outcome = simulate(confidence=confidence, auditors=1, seed=20)
    outcome.report(f"confidence {confidence}, one auditor")
    assert outcome.accepted == JOBS
    assert outcome.wrong_rate <= (1 - confidence) / 2
    assert outcome.redundancy <= 1.5
    assert outcome.cheats_left == 0
    assert outcome.honest_slashed == 0


def test_without_an_auditor_the_majority_keeps_most_wrong_results_out_and_nobody_is_slashed() -> None:
    outcome = simulate(confidence=0.95, auditors=0, seed=21)
    outcome.report("confidence 0.95, no auditor")
    assert outcome.accepted >= 0.99 * JOBS
    assert outcome.wrong_rate <= 0.02
    assert outcome.redundancy <= 1.5
    assert outcome.honest_slashed == 0


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (simulate(confidence=0.9, auditors=1, seed=5) for _ in range(2))
    assert first == second
