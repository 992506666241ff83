"""Which names are one hand, and which agreements count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.market.trust.hands import Hands
from tradepost_broker.market.trust.partners import Party, independent_partners

names = st.sampled_from(["alice", "bob", "carol", "mallory"])
marks = st.sampled_from(["key0", "key1", "key2"])
claims = st.lists(st.tuples(names, marks), max_size=12)


def hands_of(claimed: list[tuple[str, str]]) -> Hands:
    hands = Hands()
    for name, mark in claimed:
        hands.claim(name, mark)
    return hands


@given(claims, names, names)
def test_being_one_hand_is_symmetric_and_has_every_name_as_its_own(
    claimed: list[tuple[str, str]], name: str, other: str
) -> None:
    hands = hands_of(claimed)
    assert hands.are_one(name, name)
    assert hands.are_one(name, other) == hands.are_one(other, name)
    assert hands.are_one(name, other) == (other in hands.of(name))
    assert not hands.are_one(name, "")


@given(claims, names, names)
def test_two_names_are_one_hand_if_and_only_if_both_claim_a_mark(
    claimed: list[tuple[str, str]], name: str, other: str
) -> None:
    own = {mark for who, mark in claimed if who == name}
    others = {mark for who, mark in claimed if who == other}
    assert hands_of(claimed).are_one(name, other) == (name == other or bool(own & others))


@given(claims, st.lists(marks, max_size=6), names, names)
def test_what_somebody_claims_makes_no_two_others_one(
    claimed: list[tuple[str, str]], forged: list[str], name: str, other: str
) -> None:
    before = hands_of(claimed)
    after = hands_of([*claimed, *(("forger", mark) for mark in forged)])
    assert before.are_one(name, other) == after.are_one(name, other)
    assert before.of(name) == after.of(name) - {"forger"}


@given(claims, names, marks, names, names)
def test_claiming_more_parts_no_hand(
    claimed: list[tuple[str, str]], claimant: str, mark: str, name: str, other: str
) -> None:
    before, after = hands_of(claimed), hands_of([*claimed, (claimant, mark)])
    assert after.are_one(name, other) or not before.are_one(name, other)


@given(st.integers(0, 40), st.integers(0, 40))
def test_an_agreement_counts_the_chance_that_the_draw_did_not_find_an_accomplice(
    mine: int, yours: int
) -> None:
    shares = independent_partners(Party("alice", mine), [Party("bob", yours)], Hands())
    drawn_from = max(mine, yours)
    assert shares == ({"bob": 1 - 1 / drawn_from} if drawn_from > 1 else {})


def test_the_results_of_ones_own_hand_confirm_nothing() -> None:
    hands = hands_of([("alice", "key"), ("bob", "key")])
    others = [Party("alice", 16), Party("bob", 16), Party("carol", 16)]
    assert independent_partners(Party("alice", 0), others, hands) == {"carol": 1 - 1 / 16}
