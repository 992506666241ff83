"""The market's figures where a fifth of the workers collude to give the same wrong answer.

It measures what the submitters get (wrong results accepted), what it costs them and the operator (redundancy,
reference runs), and what it costs the honest (nothing).
"""

from __future__ import annotations

import msgspec
import pytest

from tradepost_broker.simulation.figures.figures import RunFigures, TeamFigures
from tradepost_broker.simulation.scenarios import PRESETS, Scenario, Team
from tradepost_broker.simulation.simulation import Simulation

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
