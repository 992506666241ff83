"""Errors: every one says whose fault it is, and comes back as itself after crossing the wire."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import msgspec
import pytest

from tradepost import errors
from tradepost.errors import EXIT_CODES, Fault, InvariantBroken, Problem, TradepostError, invariant

ROOT = Path(__file__).parents[3]
PACKAGES = ("sdk", "signing", "reputation", "wasm_kernels", "broker", "worker")
#: Signals between modules of one package, caught there: each says why something is left out, or ends a run.
SIGNALS = {
    "FuelSpent",  # of a kernel's run, which its sandbox turns into an error of the catalogue
    "InputUnseen",  # a sensor that this system does not have
    "KernelExit",  # the same as `FuelSpent`
    "NotPrivate",  # a file of compiled code that is not used
    "OutOfBounds",  # the same as `FuelSpent`
    "OutputFailed",  # a command's standard output, whose failure ends the command with `FileNotWritten`
    "OutputWithoutRoom",  # an output beyond its submitter's quota, whose job is cancelled then
    "SimulationFailure",  # an invariant that a simulated market breaks, with the seed that shows it
    "_Unavailable",  # control groups that this system does not have
}

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


def _exceptions_of(package: str) -> set[str]:
    """The exception classes that a package defines outside of the catalogue, by the names of their bases."""
    found: set[str] = set()
    for path in (ROOT / package).glob("tradepost*/**/*.py"):
        if "testing" in path.parts or path.parent == ROOT / "sdk" / "tradepost" / "errors":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(map(_is_exception, node.bases)):
                found.add(node.name)
    return found


def _is_exception(base: ast.expr) -> bool:
    name = ast.unparse(base).rpartition(".")[2]
    is_builtin = isinstance(kind := getattr(builtins, name, None), type) and issubclass(kind, BaseException)
    return is_builtin or (name in errors.__all__ and isinstance(getattr(errors, name), type))


def test_every_error_that_is_raised_on_purpose_is_in_the_catalogue() -> None:
    assert set().union(*map(_exceptions_of, PACKAGES)) == SIGNALS


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
