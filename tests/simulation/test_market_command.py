"""`tradepost market`: what it prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tradepost.errors import InvalidRequest, InvalidSettings, InvariantBroken
from tradepost_broker.simulation import commands
from tradepost_broker.simulation.invariants.broken import SimulationFailure
from tradepost_broker.simulation.scenarios import PRESETS
from tradepost_broker.simulation.simulation import Simulation

POLICY = "[market]\naudit_rate = 0.5\n"


def run(*words: str) -> str:
    result = CliRunner().invoke(commands.app, words)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_it_lists_the_scenarios() -> None:
    assert set(json.loads(run("scenarios", "--json"))) == set(PRESETS)
    assert "job-killer" in run("scenarios")


def test_it_prints_tables_for_people() -> None:
    shown = run("simulate", "honest", "--jobs", "20", "--confidence", "0.9")
    assert "What customers got" in shown
    assert "spot checks" in shown
    assert "digest" in shown


def test_it_prints_json_for_programs(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    words = ("simulate", "--hostile", "lazy", "--share", "0.5", "--workers", "10", "--jobs", "20", "--json")
    plain, other = (json.loads(run(*words, *more)) for more in ((), ("--policy", str(policy))))
    assert plain["figures"]["scenario"] == "hostile-lazy"
    assert plain["figures"]["digest"] != other["figures"]["digest"]
    assert plain["speed"]["jobs"] == 20


def test_several_seeds_are_summed_up() -> None:
    assert "2 seeds from 5 on: every invariant held" in run(
        "simulate", "random", "--seed", "5", "--seeds", "2"
    )


def test_a_broken_invariant_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Simulation) -> None:
        raise SimulationFailure("a credit was made")

    monkeypatch.setattr(Simulation, "run", broken)
    with pytest.raises(InvariantBroken, match="seed 9: a credit was made"):
        run("simulate", "random", "--seed", "9")


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no scenario"):
        run("simulate", "nonsense")
    with pytest.raises(InvalidRequest, match="no model"):
        run("simulate", "--hostile", "nonsense")
    with pytest.raises(InvalidSettings, match="does not exist"):
        run("simulate", "honest", "--policy", "/nonexistent/policy.toml")
