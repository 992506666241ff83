"""The market's figures where a fifth of the workers collude to give the same wrong answer.

It measures what the submitters get (wrong results accepted), what it costs them and the operator (redundancy,
reference runs), and what it costs the honest (nothing).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
import pytest

from tradepost_broker.market.core import Market
from tradepost_broker.market.model.entities import Evidence
from tradepost_broker.market.model.events import Event, Instruction, ReceiptDelivered, Save
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.figures.figures import RunFigures, TeamFigures
from tradepost_broker.simulation.scenarios import PRESETS, Scenario, Team
from tradepost_broker.simulation.simulation import Simulation
from tradepost_broker.simulation.world.broker import Observer

JOBS = 1_500


def colluders(*, confidence: float, auditors: int) -> Scenario:
    """Forty workers, of which every fifth underbids and gives its gang's answer to half of the jobs."""
    return Scenario(
        name="colluders",
        about="A fifth of the workers colludes.",
        teams=(Team(model="honest", workers=32), Team(model="underbidder", workers=8)),
        jobs=JOBS,
        rate_per_s=8.0,
        confidences=(confidence,),
        auditors=auditors,
    )


def simulate(scenario: Scenario, seed: int) -> RunFigures:
    return Simulation(scenario, seed).run()


def team(figures: RunFigures, model: str) -> TeamFigures:
    [found] = [one for one in figures.teams if one.model == model]
    return found


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_with_two_auditors_cheats_are_expelled_and_hardly_any_wrong_result_is_accepted(
    confidence: float,
) -> None:
    figures = simulate(colluders(confidence=confidence, auditors=2), seed=20)
    [got] = figures.confidences
    assert got.accepted == JOBS
    assert got.wrong_accepted / got.accepted <= (1 - confidence) / 2
    assert got.redundancy <= 1.6
    assert team(figures, "underbidder").expelled == 8
    assert team(figures, "underbidder").profit_microcredits < 0
    assert figures.honest_slashed == 0


def test_without_an_auditor_the_majority_keeps_most_wrong_results_out_and_nobody_is_slashed() -> None:
    figures = simulate(colluders(confidence=0.95, auditors=0), seed=21)
    [got] = figures.confidences
    assert got.accepted >= 0.99 * JOBS
    assert got.wrong_accepted / got.accepted <= 0.02
    assert figures.honest_slashed == 0


@pytest.mark.parametrize("stage_proofs", [False, True])
def test_another_kernel_within_the_tolerance_is_paid_unless_stages_are_compared(stage_proofs: bool) -> None:
    policy = MarketPolicy(stage_proofs=stage_proofs)
    scenario = msgspec.structs.replace(PRESETS["hostile-shortcut"], jobs=300, policy=policy)
    figures = simulate(scenario, seed=0)
    wrong = sum(one.wrong_accepted for one in figures.confidences)
    cheats = team(figures, "shortcut")
    if stage_proofs:
        assert (wrong, cheats.expelled) == (0, 8)
        assert cheats.profit_microcredits < 0
    else:
        assert wrong > 100
        assert cheats.expelled == 0
    assert figures.honest_slashed == 0


def test_a_ring_that_farms_its_own_pipeline_gains_no_trust_elsewhere() -> None:
    figures = simulate(msgspec.structs.replace(PRESETS["sham-farming"], jobs=700), seed=0)
    still_wrong = {one.confidence: one.wrong_at_maturity for one in figures.confidences}
    assert still_wrong[0.999] == 0
    assert sum(one.wrong_accepted for one in figures.confidences) <= 2
    assert team(figures, "sham-ring").profit_microcredits < 0
    assert (figures.honest_suspended, figures.honest_slashed) == (0, 0)


def test_a_flood_of_other_jobs_starves_no_customer_of_spot_checks() -> None:
    figures = simulate(msgspec.structs.replace(PRESETS["auditor-starvation"], jobs=800), seed=0)
    assert figures.spot_check_rate >= 0.09
    assert team(figures, "patient").expelled > 0
    for one in figures.confidences:
        assert one.wrong_accepted <= (1 - one.confidence) * one.jobs, one


class _Progress(Observer):
    """How many results each worker gave until it could use all of its capacity."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.until_proven: dict[str, int] = {}
        self._checks: dict[str, float] = defaultdict(float)

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        if isinstance(event, ReceiptDelivered):
            self.results[event.worker] += 1
        for instruction in answer:
            if isinstance(instruction, Save) and isinstance(instruction.record, Evidence):
                worker = instruction.record.worker
                self._checks[worker] += instruction.record.checks
                if self._checks[worker] >= MarketPolicy().proven_checks:
                    self.until_proven.setdefault(worker, self.results[worker])


def test_an_honest_newcomer_has_all_of_its_capacity_within_100_jobs() -> None:
    scenario = Scenario(
        name="newcomers",
        about="Ten honest newcomers.",
        teams=(Team(model="honest", workers=10),),
        jobs=600,
    )
    progress = _Progress()
    Simulation(scenario, 1, observers=(progress,)).run()
    workers = [f"honest{number:03}" for number in range(10)]
    assert max(progress.until_proven[worker] for worker in workers) <= 60


@pytest.mark.parametrize("name", PRESETS)
def test_every_scenario_runs_and_gives_customers_an_answer(name: str) -> None:
    scenario = msgspec.structs.replace(PRESETS[name], jobs=40)
    figures = simulate(scenario, seed=1)
    assert sum(one.jobs for one in figures.confidences if one.jobs) >= 40
    assert sum(one.accepted for one in figures.confidences) > 0


def test_an_honest_market_harms_nobody() -> None:
    figures = simulate(msgspec.structs.replace(PRESETS["honest"], jobs=300), seed=3)
    assert sum(one.wrong_accepted for one in figures.confidences) == 0
    assert all(one.wrong_results == 0 for one in figures.teams)
    assert (figures.honest_suspended, figures.honest_slashed) == (0, 0)


def test_holding_leases_fails_no_job_and_is_held_against_the_holder() -> None:
    scenario = msgspec.structs.replace(PRESETS["hold"], jobs=200)
    findings: list[Evidence] = []
    figures = Simulation(scenario, 1, observers=(Findings(findings),)).run()
    assert sum(one.failed for one in figures.confidences) == 0
    assert {one.worker[:6] for one in findings} == {"holder"}
    assert figures.honest_suspended == 0


def test_giving_leases_back_soon_gets_no_more_of_them() -> None:
    figures = simulate(msgspec.structs.replace(PRESETS["job-killer"], jobs=200), seed=3)
    assert sum(one.failed for one in figures.confidences) == 0
    assert team(figures, "preempter").leases_lost <= 20
    assert team(figures, "preempter").profit_microcredits <= 0


def test_an_accomplice_between_the_prices_of_honest_workers_gets_none_of_them_suspended() -> None:
    scenario = PRESETS["poison-priced"]
    unlimited = msgspec.structs.replace(scenario, policy=MarketPolicy(failures_counted_max=0))
    assert simulate(unlimited, seed=0).honest_suspended == 1
    assert simulate(scenario, seed=0).honest_suspended == 0


class Findings(Observer):
    """Collects the evidence that lowers scores."""

    def __init__(self, findings: list[Evidence]) -> None:
        self._findings = findings

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        records = [one.record for one in answer if isinstance(one, Save)]
        self._findings.extend(one for one in records if isinstance(one, Evidence) and one.kind.lowers_score)
