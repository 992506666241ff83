"""The outcome of work in another thread: given once, awaited by many, blocked by no interruption."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import pytest

from bounded_call import within
from tradepost.client import outcome as outcome_module
from tradepost.client.outcome import Outcome


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Whether Ctrl-C comes at the `step`-th instruction of `call` within the module, before it has ended."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != outcome_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    except TimeoutError:
        return False
    finally:
        sys.settrace(before)
    return False


def test_a_value_is_had_by_all_who_wait() -> None:
    outcome = Outcome[int]()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(outcome.get, 30) for _ in range(4)]
        outcome.give(7)
        assert [each.result(60) for each in waiting] == [7] * 4
    assert (outcome.is_given, outcome.get(), outcome.error()) == (True, 7, None)


def test_an_error_is_raised_again_and_again() -> None:
    outcome = Outcome[int]()
    outcome.give_error(LookupError("gone"))
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            outcome.get()
    assert isinstance(outcome.error(), LookupError)


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_time_runs_out(timeout: float) -> None:
    outcome = Outcome[int]()
    with pytest.raises(TimeoutError):
        outcome.get(timeout)
    outcome.give(1)
    assert outcome.get(timeout) == 1


def test_who_no_longer_waits_is_forgotten() -> None:
    outcome = Outcome[int]()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            outcome.get(0)
    assert not outcome._gates


def test_an_interruption_anywhere_blocks_nobody() -> None:
    step = 1
    while True:
        outcome = Outcome[int]()
        # In a thread of its own: to raise at any instruction leaves the thread's exceptions in disorder.
        was_interrupted = within(partial(interrupted_at, step, partial(outcome.get, 0)))
        giving = threading.Thread(target=outcome.give, args=(step,), daemon=True)
        giving.start()
        within(giving.join, hangs_s=20)
        assert outcome.get(20) == step
        if not was_interrupted:
            break
        step += 1
    assert step > 20  # else it was never interrupted in its midst
