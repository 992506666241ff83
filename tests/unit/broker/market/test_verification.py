"""Choosing the output, blaming stages, and deciding what a job's results call for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.market.trust.chosen_output import Member, nearest_to_median
from tradepost_broker.market.trust.verification import (
    Accept,
    GiveUp,
    GroupedResult,
    NeedAudit,
    NeedReplica,
    NextStep,
    Wait,
    blamed_stage,
    decide,
)
from tradepost_reputation import log_odds

NEWCOMER, PROVEN = log_odds(0.8), log_odds(0.99)


def test_of_results_that_agree_the_nearest_to_all_others_is_chosen() -> None:
    first = Member("first", "1.9", {}, 1.0)
    second = Member("second", "1.0", {"first": 0.9}, 1.0)
    third = Member("third", "1.1", {"first": 0.8, "second": 0.1}, 1.0)
    assert nearest_to_median([first, second, third]) == "third"
    assert nearest_to_median([first]) == "first"
    assert nearest_to_median([first, second]) == "first", "both are as near"
    assert nearest_to_median([first, Member("second", "1.0", {"first": 0.9}, 2.0)]) == "second"
    same = [Member(name, "1.0", {"far": 0.9}, 1.0) for name in ("a", "b")]
    assert nearest_to_median([Member("far", "1.9", {}, 9.0), *same]) == "a"


@pytest.mark.parametrize(
    ("stages", "reference", "stage"),
    [
        ([("a", "1"), ("b", "2")], [("a", "1"), ("b", "2")], ""),
        ([("a", "1"), ("b", "x"), ("c", "y")], [("a", "1"), ("b", "2"), ("c", "3")], "b"),
        ([("a", "1")], [("a", "1"), ("b", "2")], "b"),  # it stopped early
        ([("a", "1"), ("b", "2")], [("a", "1")], "b"),  # the reference stopped, it did not
        ([], [], ""),
        ([], [("a", "1")], "a"),
    ],
)
def test_blame_falls_on_the_first_stage_that_differs(
    stages: list[tuple[str, str]], reference: list[tuple[str, str]], stage: str
) -> None:
    assert blamed_stage(stages, reference) == stage


def decided(
    *groups: list[float],
    running: list[float] | None = None,
    confidence: float = 0.95,
    auditor: bool = False,
    results_max: int = 9,
) -> NextStep:
    """The decision for groups given as their members' log odds; group names are g0, g1, …"""
    results = [
        GroupedResult(f"{number}.{member}", f"g{number}", odds)
        for number, group in enumerate(groups)
        for member, odds in enumerate(group)
    ]
    return decide(
        results,
        open_log_odds=running or [],
        confidence=confidence,
        auditor_available=auditor,
        results_max=results_max,
    )


def test_what_must_be_confirmed_is_not_accepted_alone() -> None:
    alone = [GroupedResult("a", "a", NEWCOMER, must_be_confirmed=True)]

    def decision(results: list[GroupedResult], *running: float) -> NextStep:
        return decide(results, open_log_odds=running, confidence=0.5, auditor_available=False, results_max=9)

    assert isinstance(decision(alone), NeedReplica)
    assert decision(alone, NEWCOMER) == Wait()
    both = [*alone, GroupedResult("b", "a", NEWCOMER, must_be_confirmed=True)]
    assert isinstance(decision(both), Accept)


def test_without_results_the_whole_confidence_is_missing() -> None:
    assert decided() == NeedReplica(log_odds(0.95))


def test_a_job_that_asks_nothing_needs_one_result_all_the_same() -> None:
    assert decided(confidence=0.5) == NeedReplica(0.0)
    assert isinstance(decided([NEWCOMER], confidence=0.5), Accept)


def test_a_proven_worker_is_believed_alone() -> None:
    match decided([PROVEN]):
        case Accept(group, credibility):
            assert group == "g0"
            assert credibility == pytest.approx(0.99)
        case other:
            pytest.fail(f"{other}")


def test_newcomers_are_believed_three_at_a_time() -> None:
    """0.8 each: two reach 0.941, three 0.985."""
    assert isinstance(decided([NEWCOMER]), NeedReplica)
    assert isinstance(decided([NEWCOMER] * 2), NeedReplica)
    assert isinstance(decided([NEWCOMER] * 3), Accept)


def test_what_is_open_is_counted_as_if_it_agreed() -> None:
    assert decided([NEWCOMER], running=[NEWCOMER] * 2) == Wait()
    assert decided(running=[NEWCOMER] * 3) == Wait()
    match decided(running=[NEWCOMER]):
        case NeedReplica(missing):
            assert missing == pytest.approx(log_odds(0.95) - NEWCOMER)
        case other:
            pytest.fail(f"{other}")


def test_a_disagreement_goes_to_an_auditor_even_when_one_side_is_credible() -> None:
    assert decided([PROVEN] * 3, [NEWCOMER], auditor=True) == NeedAudit()


def test_without_an_auditor_replicas_outvote() -> None:
    assert isinstance(decided([NEWCOMER], [NEWCOMER]), NeedReplica)
    assert isinstance(decided([NEWCOMER] * 3, [NEWCOMER]), NeedReplica)
    match decided([NEWCOMER] * 4, [NEWCOMER]):
        case Accept(group, credibility):
            assert group == "g0"
            assert credibility == pytest.approx(256 / (1 + 4 + 256))
        case other:
            pytest.fail(f"{other}")


def test_an_opponent_makes_more_agreement_necessary() -> None:
    alone, against = decided([NEWCOMER]), decided([NEWCOMER], [NEWCOMER])
    assert isinstance(alone, NeedReplica)
    assert isinstance(against, NeedReplica)
    assert against.log_odds_missing > alone.log_odds_missing


def test_it_gives_up_when_policy_allows_no_more_results() -> None:
    assert isinstance(decided([NEWCOMER], [NEWCOMER], results_max=3), NeedReplica)
    assert decided([NEWCOMER], [NEWCOMER], running=[NEWCOMER], results_max=3) == Wait()
    assert decided([NEWCOMER], [NEWCOMER], [NEWCOMER], results_max=3) == GiveUp(pytest.approx(4 / 13))


@given(
    st.lists(st.lists(st.floats(0.1, 6), min_size=1, max_size=3), max_size=3),
    st.lists(st.floats(0.1, 6), max_size=3),
    st.floats(0.5, 0.99999),
)
def test_what_is_accepted_has_the_confidence(
    groups: list[list[float]], running: list[float], confidence: float
) -> None:
    decision = decided(*groups, running=running, confidence=confidence)
    if isinstance(decision, Accept):
        assert decision.credibility >= confidence - 1e-6
    if isinstance(decision, Wait):
        assert running
