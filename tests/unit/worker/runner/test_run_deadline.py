"""The thread that watches a run's deadline: when it ends for lack of work, and when it must not."""

from __future__ import annotations

import threading

import pytest

from tradepost_worker.runner.run_deadline import RunDeadline

S_MAX = 20.0


def nothing() -> None:
    """An interrupt of a run that ends in time."""


def test_a_run_that_begins_when_the_thread_is_about_to_end_is_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadline = RunDeadline()
    wait, idle_turns, is_last_turn = deadline._changed.wait, 0, threading.Event()

    def skip_the_first_idle_turn(timeout: float | None = None) -> bool:
        nonlocal idle_turns
        if deadline._due_s is None:
            idle_turns += 1
            if idle_turns == 1:
                return False
            is_last_turn.set()
        return wait(timeout)

    monkeypatch.setattr(deadline._changed, "wait", skip_the_first_idle_turn)
    with deadline.limit(0.0, nothing):
        pass
    assert is_last_turn.wait(S_MAX)
    interrupted = threading.Event()
    with deadline.limit(0.01, interrupted.set):
        assert interrupted.wait(S_MAX)
