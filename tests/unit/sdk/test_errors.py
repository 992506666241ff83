"""Errors: every one says whose fault it is, and comes back as itself after crossing the wire."""

from __future__ import annotations

import msgspec
import pytest

from tradepost import errors
from tradepost.errors import EXIT_CODES, Fault, InvariantBroken, Problem, TradepostError, invariant

# A component may have errors of its own, which stay within it.
CATALOGUE = [kind for kind in TradepostError._by_code.values() if kind.__module__.startswith(errors.__name__)]
KINDS = sorted(CATALOGUE, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_crosses_the_wire_as_itself(kind: type[TradepostError]) -> None:
    error = kind("this time", stage="topk", number=7)
    problem = msgspec.json.decode(msgspec.json.encode(error.to_problem()), type=Problem)
    again = TradepostError.from_problem(problem)
    if kind is not errors.UnknownProblem:
        assert type(again) is kind
        assert again.detail == "this time"
    assert (again.stage, again.facts, again.hint) == ("topk", {"number": 7}, error.hint)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_says_what_whose_where_and_what_next(kind: type[TradepostError]) -> None:
    assert kind.title().endswith(".")
    assert kind().hint
    assert 400 <= kind.status < 600
    assert kind().exit_code == EXIT_CODES[kind.fault] >= 10
    text = kind("this time", stage="topk").diagnostics()
    assert "this time" in text
    assert "topk" in text
    assert kind.fault.value in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_imported_from_the_catalogue(kind: type[TradepostError]) -> None:
    assert kind.__name__ in errors.__all__
    assert getattr(errors, kind.__name__) is kind


def test_exit_codes_are_stable() -> None:
    assert EXIT_CODES == {
        Fault.SUBMITTER: 10,
        Fault.PUBLISHER: 11,
        Fault.WORKER: 12,
        Fault.BROKER: 13,
        Fault.OPERATOR: 14,
        Fault.NETWORK: 15,
        Fault.MARKET: 16,
    }


def test_an_error_of_a_newer_peer_is_still_told() -> None:
    error = TradepostError.from_problem(Problem(code="moon-phase", title="Wrong moon.", detail="full"))
    assert isinstance(error, errors.UnknownProblem)
    assert "moon-phase" in error.detail


def test_a_strangers_facts_cannot_stand_in_for_the_errors_own_words() -> None:
    problem = Problem(code="worker-lost", title="", detail="ours", facts={"detail": "x", "stage": 1, "n": 2})
    error = TradepostError.from_problem(problem)
    assert (error.detail, error.stage, error.facts) == ("ours", None, {"n": 2})


def test_invariants_hold_under_python_o() -> None:
    invariant(True, "arithmetic")
    with pytest.raises(InvariantBroken, match="books"):
        invariant(False, "the books balance")
