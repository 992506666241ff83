"""What strangers say is fit for a terminal, a log line and a receipt, wherever it comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import KernelTrap, Problem, ProtocolError, TradepostError, UntrustedPipeline
from tradepost.protocol import (
    FRAMES_MAX,
    GiveBack,
    GiveBackReason,
    broker_codec_for_clients,
    broker_codec_for_workers,
    client_codec,
    salvage,
    worker_codec,
)
from tradepost.receipts import StageReport
from tradepost.untrusted_text import plain

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "one\ntwo\r\n  hint:  run this",
    "a\u202eb\u2066c",
    "a\u2028b\u2029c\x85d\x9b2K",
    "\ufeff\U000e0041",
    "x" * 100_000,
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text("\x1b\n\u202e\u2028\ud800a", max_size=5000))


@given(texts)
def test_it_is_one_printable_line_of_bounded_length(text: str) -> None:
    assert plain(text, chars_max=2000).isprintable()
    assert len(plain(text, chars_max=2000)) <= 2000


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=100))
def test_what_is_printable_stays(text: str) -> None:
    assert plain(text, chars_max=100) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_problem_is_plain_however_it_comes(text: str) -> None:
    said = {"code": text, "title": text, "detail": text, "fault": text, "stage": text, "hint": text}
    problems = (
        msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Problem),
        msgspec.json.decode(msgspec.json.encode(said), type=Problem),
        Problem(**said),
        KernelTrap(text, stage=text, hint=text).to_problem(),
    )
    for problem in problems:
        words = [problem.code, problem.title, problem.detail, problem.fault, problem.stage or ""]
        assert all(word.isprintable() for word in (*words, *problem.hint.split("\n")))
        assert all(len(word) <= 2000 for word in (*words, problem.hint))
        assert len(problem.code) <= 64
        again = TradepostError.from_problem(problem)
        assert str(again).isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_the_broker_takes_no_worker_at_its_word(text: str) -> None:
    frame = GiveBack(lease="l", reason=GiveBackReason.FAILED, problem=Problem(code="x", title=""))
    raw = msgspec.to_builtins(frame) | {"problem": {"code": "runner-failed", "title": "", "detail": text}}
    (taken,) = broker_codec_for_workers().decode(msgspec.msgpack.encode([raw]))
    assert taken.problem.detail.isprintable()
    with pytest.raises(ProtocolError):
        broker_codec_for_workers().decode(msgspec.msgpack.encode([raw | {"lease": text}]))


@pytest.mark.parametrize("text", HOSTILE)
def test_names_that_are_not_printable_are_refused(text: str) -> None:
    report = {"stage": "s", "output": "0" * 64, "provider": text}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(report, StageReport)
    with pytest.raises(ProtocolError):
        worker_codec().decode(msgspec.msgpack.encode([{"type": "recall", "lease": text}]))


def test_people_see_errors_line_by_line() -> None:
    shown = KernelTrap("one\x1b[2J\ntwo", stage="a\u202e").diagnostics()
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "two" in shown


def test_a_hint_keeps_its_lines() -> None:
    error = UntrustedPipeline("no", hint="Set:\n\nmax_fuel = 7\x1b")
    assert error.to_problem().hint == "Set:\n\nmax_fuel = 7\\x1b"
    assert error.diagnostics().endswith("  hint:  Set:\n\nmax_fuel = 7\\x1b")


def test_a_stranger_gives_no_hint_and_no_facts() -> None:
    said = KernelTrap("x", stage="s", hint="Run this.", n=1).to_problem().of_a_stranger()
    assert (said.detail, said.stage, said.hint, said.facts) == ("x", "s", "", {})
    assert TradepostError.from_problem(said).hint == KernelTrap.default_hint


#: Each empty list is a byte on the wire, and 64 in memory.
AMPLIFIED = [{"a": [[]]}, {"a": [{}]}, {"a": {"b": []}}, {"a": [0] * 257}, {str(n): 0 for n in range(33)}]


@pytest.mark.parametrize("facts", AMPLIFIED, ids=["lists", "dicts", "deep", "long", "many"])
def test_facts_take_no_more_memory_than_they_are_worth(facts: dict[str, object]) -> None:
    problem = {"code": "x", "title": "", "facts": facts}
    raw = {"type": "give_back", "lease": "l", "reason": "failed", "problem": problem}
    with pytest.raises(ProtocolError):
        broker_codec_for_workers().decode(msgspec.msgpack.encode([raw]))


def test_the_facts_that_errors_have_pass() -> None:
    facts = {
        "size": 1,
        "share": 0.5,
        "why": "x",
        "none": None,
        "ok": True,
        "added": ["a"],
        "sources": {"a": "b"},
    }
    problem = KernelTrap("x", **facts).to_problem()
    assert msgspec.json.decode(msgspec.json.encode(problem), type=Problem).facts == facts


@pytest.mark.parametrize(
    "codec", [broker_codec_for_workers, broker_codec_for_clients, worker_codec, client_codec]
)
def test_a_message_of_too_many_frames_is_refused(codec: Callable[[], Any]) -> None:
    with pytest.raises(ProtocolError, match=f"at most {FRAMES_MAX} entries"):
        codec().decode(b"\xdc" + (FRAMES_MAX + 1).to_bytes(2, "big"))
    with pytest.raises(ProtocolError, match=f"at most {FRAMES_MAX} entries"):
        salvage(b"\xdc" + (FRAMES_MAX + 1).to_bytes(2, "big"))
