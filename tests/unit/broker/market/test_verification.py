"""Comparing results, blaming stages, and deciding what a job's results call for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import TensorDocument
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
    compare_documents,
    decide,
)
from tradepost_reputation import log_odds

TOLERANCE = Tolerance(atol=1e-3, rtol=1e-2)
NEWCOMER, PROVEN = log_odds(0.8), log_odds(0.99)


def document(metadata: dict[str, str] | None = None, **tensors: object) -> TensorDocument:
    return TensorDocument({name: np.asarray(tensor) for name, tensor in tensors.items()}, metadata or {})


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        (document(x=f32(1.0)), document(x=f32(1.0)), ""),
        (document(x=f32(1.0)), document(x=f32(1.0109)), ""),
        (document(x=f32(1.0)), document(x=f32(1.02)), "beyond tolerance in 1 of 1"),
        # The tolerance is the reference's: 1% of it, so a and b do not trade places.
        (document(x=f32(10.0)), document(x=f32(10.101)), ""),
        (document(x=f32(10.102)), document(x=f32(10.0)), "beyond tolerance"),
        (document(x=f32(np.nan, np.inf)), document(x=f32(np.nan, np.inf)), ""),
        (document(x=f32(np.nan)), document(x=f32(1.0)), "beyond tolerance"),
        (document(x=f32(np.inf)), document(x=f32(-np.inf)), "beyond tolerance"),
        (document(x=f32(1.0)), document(x=f32(np.inf)), "beyond tolerance"),
        (document(x=np.float16([60000.0])), document(x=np.float16([59900.0])), ""),
        (document(x=f32(1.0)), document(x=np.float64([1.0])), "is F32[1], the reference F64[1]"),
        (document(x=f32(1.0)), document(x=f32(1.0, 1.0)), "is F32[1], the reference F32[2]"),
        (document(x=f32(1.0)), document(y=f32(1.0)), "tensors ['x'], the reference ['y']"),
        (document({"label": "7"}, x=f32(1.0)), document({"label": "8"}, x=f32(1.0)), "metadata differs"),
        (document(x=np.int64([3, 4])), document(x=np.int64([3, 5])), "differs in 1 of 2 values"),
        (document(x=np.array([True])), document(x=np.array([False])), "differs in 1 of 1 values"),
        (document(x=f32(0.0)), document(x=f32(-0.0)), ""),
        (document(), document(), ""),
    ],
)
def test_comparison(a: TensorDocument, b: TensorDocument, difference: str) -> None:
    agreement = compare_documents(a, b, TOLERANCE)
    assert agreement.agrees == (not difference)
    assert difference in agreement.difference


def test_every_value_of_a_large_tensor_is_compared() -> None:
    a = np.zeros((3, 100_000), np.float32)
    for position in ((0, 0), (1, 50_000), (2, 99_999)):
        b = a.copy()
        b[position] = 1
        assert (
            compare_documents(document(x=a), document(x=b), TOLERANCE).difference
            == "tensor 'x' differs beyond tolerance in 1 of 300000 values"
        )


def test_booleans_of_other_bits_differ() -> None:
    a, b = np.array([1], np.uint8).view(bool), np.array([2], np.uint8).view(bool)
    assert not compare_documents(document(x=a), document(x=b), TOLERANCE).agrees


@given(
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_floats_agree_exactly_within_the_formula(a: np.ndarray, b: np.ndarray) -> None:
    wide_a, wide_b = a.astype(float), b.astype(float)
    within = bool(np.all(np.abs(wide_a - wide_b) <= TOLERANCE.atol + TOLERANCE.rtol * np.abs(wide_b)))
    assert compare_documents(document(x=a), document(x=b), TOLERANCE).agrees == within


@given(
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_without_a_reference_the_order_does_not_matter_and_neither_makes_room_for_itself(
    a: np.ndarray, b: np.ndarray
) -> None:
    one = compare_documents(document(x=a), document(x=b), TOLERANCE, has_reference=False)
    assert one == compare_documents(document(x=b), document(x=a), TOLERANCE, has_reference=False)
    if one.agrees:
        assert 0 <= one.share <= 1
        for first, second in ((a, b), (b, a)):
            assert compare_documents(document(x=first), document(x=second), TOLERANCE).agrees


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_tolerance_of_everything_is_lowered_to_the_ceiling(dtype: type) -> None:
    everything = Tolerance(atol=1, rtol=1)
    reference = np.linspace(0.1, 0.9, 9).astype(dtype)
    assert not compare_documents(document(x=reference * 0), document(x=reference), everything).agrees
    assert not compare_documents(document(x=reference * 1.5), document(x=reference), everything).agrees
    noisy = (reference * 1.001).astype(dtype)
    assert compare_documents(document(x=noisy), document(x=reference), everything).agrees


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
