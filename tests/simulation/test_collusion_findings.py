"""How soon a clique is found, and that honest owners with a common fault are not: the statistic alone.

Forty owners of three kinds, some ten times as busy as others. Each job has two to five results of owners that
are drawn by how busy they are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest

from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.trust.co_wrong import CoWrong, CoWrongResults, Excess

OWNERS = tuple(f"owner{number:02}" for number in range(40))
KINDS = {owner: f"kind{number % 3}" for number, owner in enumerate(OWNERS)}
P_MAX = MarketPolicy().collusion_p_max
#: Who of a team gives the same wrong result.
Fault = Callable[[Random, list[str]], set[str]]


class Market:
    """Draws teams, and notes who erred together."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.results = CoWrongResults(fault_fraction=0.2)
        self.busy = {owner: self.rng.choice((0.3, 1.0, 1.0, 3.0)) for owner in OWNERS}
        self._jobs = 0
        for owner, kind in KINDS.items():
            self.results.set_kind(owner, kind)

    def team(self) -> list[str]:
        """The owners that have the next job."""
        pool, size = dict(self.busy), self.rng.choice((2, 2, 3, 3, 4, 5))
        team = []
        for _ in range(size):
            owner = self.rng.choices(list(pool), list(pool.values()))[0]
            del pool[owner]
            team.append(owner)
        return team

    def judge(self, team: list[str], wrong: set[str]) -> Excess | None:
        """Take a job's results into account; what is found, if anything."""
        self._jobs += 1
        for owner in team:
            self.results.judge("pipeline", owner)
        for owner, other in combinations(sorted(wrong), 2):
            self.results.add(CoWrong(float(self._jobs), f"job{self._jobs:05}", owner, other, "pipeline"))
        found = self.results.most_unlikely(wrong) if len(wrong) > 1 else None
        return found if found is not None and found.p_value <= P_MAX else None


@pytest.mark.parametrize("seed", range(12))
def test_a_clique_of_ten_that_cheats_at_a_fifth_is_found_within_200_jobs_together(seed: int) -> None:
    market = Market(seed)
    clique = set(market.rng.sample(OWNERS, 10))
    together = 0
    found = None
    while found is None:
        team = market.team()
        members = clique.intersection(team)
        together += len(members) > 1
        assert together <= 200
        found = market.judge(team, members if market.rng.random() < 0.2 else set())
    assert clique.issuperset(found.owners)
    assert len(found.owners) >= 4


def common_pipeline(rng: Random, team: list[str]) -> set[str]:
    """Three inputs in ten fail on every device of one kind."""
    return {owner for owner in team if KINDS[owner] == "kind1"} if rng.random() < 0.3 else set()


def common_floats(rng: Random, team: list[str]) -> set[str]:
    """The floats of one kind are beyond the tolerance on three inputs in ten, for half of its devices."""
    return {owner for owner in common_pipeline(rng, team) if rng.random() < 0.5}


def everybody(rng: Random, team: list[str]) -> set[str]:
    """Three inputs in ten fail on everybody, and only the reference is right."""
    return set(team) if rng.random() < 0.3 else set()


def same_fallback(rng: Random, team: list[str]) -> set[str]:
    """Devices fail alone, at random, and give the same fallback answer."""
    return {owner for owner in team if rng.random() < 0.1}


def honest_majority(_: Random, team: list[str]) -> set[str]:
    """A fifth of the owners always cheat: honest pairs agree against them, or are outvoted."""
    cheats = {owner for owner in team if int(owner[-2:]) % 5 == 0}
    return set(team) - cheats if 2 * len(cheats) > len(team) else set()


@pytest.mark.parametrize("fault", [common_pipeline, common_floats, everybody, same_fallback, honest_majority])
@pytest.mark.parametrize("seed", range(5))
def test_honest_owners_with_a_common_fault_are_not_accused(fault: Fault, seed: int) -> None:
    market = Market(seed)
    for _ in range(200):
        team = market.team()
        found = market.judge(team, fault(market.rng, team))
        assert found is None, found
