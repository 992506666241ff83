"""Which owners give the same wrong results more often than chance explains.

Honest owners err together as well: a pipeline fails on one execution provider, or on an engine, and all that
have it give the same wrong results. So a set of owners is compared with those of the same kind, by what their
devices offer. If the wrong results of a pipeline fell on the owners of a kind at random, each would get a
share by the number of its judged results there. Where a kind has nobody else, nothing can be told, nor where
few owners could have been drawn for a job: who works at night meets the others that do.

Who wins against cheats is right, so owners that agree in the right are never counted. As up to f of the
owners of a kind may be cheats who err alone, what is expected is taken `1 / (1 - f)^2` times as high.

Only what was found wrong is kept, and of that the newest `_KEPT_MAX` pairs of results.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Collection
from itertools import combinations
from typing import Final, NamedTuple

from tradepost_reputation import corrected_p_value

#: Pairs of equal wrong results that are kept.
_KEPT_MAX: Final = 1_024
#: A set of owners is not accused for fewer jobs than this.
_JOBS_MIN: Final = 3


class CoWrong(NamedTuple):
    """Two owners, in order, gave the same wrong result of a job.

    `drawn_from` owners could have had the job in place of one of them, if they were few; else it is 0.
    """

    at: float
    job: str
    owner: str
    other: str
    pipeline: str
    drawn_from: int = 0


class Excess(NamedTuple):
    """How often some owners erred together, how often that was to be expected, and how unlikely that is."""

    owners: tuple[str, ...]
    jobs: tuple[str, ...]
    expected: float
    p_value: float


class CoWrongResults:
    """The newest pairs of equal wrong results, and how many results of each owner were judged."""

    def __init__(self, *, fault_fraction: float) -> None:
        self._allowance = (1 - fault_fraction) ** -2
        self._newest: list[CoWrong] = []
        self._kinds: dict[str, str] = {}
        self._judged: dict[str, Counter[str]] = {}
        #: Sums of judged results, and of their squares, by pipeline and kind.
        self._sums: Counter[tuple[str, str]] = Counter()
        self._squares: Counter[tuple[str, str]] = Counter()

    def set_kind(self, owner: str, kind: str) -> None:
        """Note what the devices of an owner are: owners of a kind have the same faults."""
        before, self._kinds[owner] = self._kinds.get(owner, ""), kind
        if before != kind:
            for pipeline, count in self._judged.get(owner, {}).items():
                self._count(pipeline, before, -count, -(count**2))
                self._count(pipeline, kind, count, count**2)

    def judge(self, pipeline: str, owner: str) -> None:
        """Note that a result of an owner was compared with those of others."""
        counts = self._judged.setdefault(owner, Counter())
        self._count(pipeline, self._kind(owner), 1, 2 * counts[pipeline] + 1)
        counts[pipeline] += 1

    def add(self, one: CoWrong) -> list[CoWrong] | None:
        """Note a pair of results; which old ones are dropped for it. `None` if it was known."""
        if any((known.job, known.owner, known.other) == one[1:4] for known in self._newest):
            return None
        insort(self._newest, one)
        dropped, self._newest = self._newest[:-_KEPT_MAX], self._newest[-_KEPT_MAX:]
        return dropped

    def withdraw(self, job: str, owner: str) -> list[CoWrong]:
        """Drop what an owner's result of a job has part in, because it may have been right; what that was."""
        gone = [one for one in self._newest if one.job == job and owner in (one.owner, one.other)]
        self._newest = [one for one in self._newest if one not in gone]
        return gone

    def of(self, owner: str, other: str) -> list[CoWrong]:
        """What is kept of two owners, in order, oldest first."""
        return [one for one in self._newest if (one.owner, one.other) == (owner, other)]

    def most_unlikely(self, owners: Collection[str]) -> Excess:
        """The most unlikely of the sets about owners that erred together just now.

        That is any two of them, or all that are linked with them. The p-value is corrected for all sets.
        """
        counts = Counter((one.owner, one.other) for one in self._newest)
        pairs = [pair for pair in combinations(sorted(owners), 2) if counts[pair] >= _JOBS_MIN]
        linked = [self._linked(owners, jobs_min) for jobs_min in (1, 2)]
        best = min((self.excess(set(one)) for one in (*pairs, *linked)), key=lambda one: one.p_value)
        return best._replace(p_value=min(1.0, best.p_value * (1 + len(linked))))

    def excess(self, owners: Collection[str]) -> Excess:
        """How unlikely it is that these owners erred together as often as they did."""
        chances: dict[str, float] = {}
        jobs: dict[str, None] = {}
        known: dict[tuple[str, str, str, int], float] = {}
        for one in self._newest:
            kind, other_kind = sorted((self._kind(one.owner), self._kind(one.other)))
            stratum = one.pipeline, kind, other_kind, one.drawn_from
            if stratum not in known:
                known[stratum] = self._chance(owners, *stratum)
            chances[one.job] = chances.get(one.job, 0.0) + known[stratum]
            if one.owner in owners and one.other in owners:
                jobs[one.job] = None
        expected = sum(min(1.0, chance * self._allowance) for chance in chances.values())
        p_value = 1.0
        if len(jobs) >= _JOBS_MIN:
            p_value = corrected_p_value(
                len(jobs),
                expected,
                trials=len(chances),
                chosen=len(owners),
                owners=max(len(self._judged), len(owners)),
            )
        return Excess(tuple(sorted(owners)), tuple(jobs), expected, p_value)

    def _linked(self, owners: Collection[str], jobs_min: int) -> set[str]:
        """These owners, and those linked to them, directly or not, by so many equal wrong results each."""
        counts = Counter((one.owner, one.other) for one in self._newest)
        links: dict[str, set[str]] = defaultdict(set)
        for (one, other), count in counts.items():
            if count >= jobs_min:
                links[one].add(other)
                links[other].add(one)
        found, ahead = set(owners), list(owners)
        while ahead:
            new = links[ahead.pop()] - found
            found |= new
            ahead += sorted(new)
        return found

    def _chance(
        self, owners: Collection[str], pipeline: str, kind: str, other_kind: str, drawn_from: int
    ) -> float:
        """The probability that two owners of these kinds who err together in a job are both in a set."""
        counts, other_counts = (
            [self._judged[one][pipeline] for one in sorted(owners) if self._is_judged(one, pipeline, each)]
            for each in (kind, other_kind)
        )
        inside = sum(counts) * sum(other_counts)
        pairs = self._sums[pipeline, kind] * self._sums[pipeline, other_kind]
        if kind == other_kind:  # they are two different owners
            inside -= sum(count**2 for count in counts)
            pairs -= self._squares[pipeline, kind]
        chance = inside / pairs if pairs else 1.0
        if drawn_from:
            chance = max(chance, (len(owners) - 1) / drawn_from)  # if the other one is in the set
        return min(1.0, chance)

    def _is_judged(self, owner: str, pipeline: str, kind: str) -> bool:
        return self._kind(owner) == kind and pipeline in self._judged.get(owner, ())

    def _kind(self, owner: str) -> str:
        return self._kinds.get(owner, "")

    def _count(self, pipeline: str, kind: str, count: int, square: int) -> None:
        self._sums[pipeline, kind] += count
        self._squares[pipeline, kind] += square
