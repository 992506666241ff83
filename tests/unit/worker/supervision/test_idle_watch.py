"""A process that works although nobody asked it to is noticed; one that waits, or was asked, is not."""

from __future__ import annotations

import pytest

from tradepost_worker.supervision.idle_watch import IdleWatch


class Process:
    """Has used this much processor time, at this time."""

    def __init__(self) -> None:
        self.used_s = 100.0
        self.now_s = 0.0

    def watch(self) -> IdleWatch:
        return IdleWatch(1, measure=lambda _: max(0.0, self.used_s), monotonic=lambda: self.now_s)

    def passes(self, *, s: float, cpu_s: float) -> None:
        self.now_s += s
        self.used_s += cpu_s


@pytest.fixture
def process() -> Process:
    return Process()


def test_work_that_nobody_asked_for_is_noticed(process: Process) -> None:
    watch = process.watch()
    assert watch.excess(is_idle=True) is None, "what it used before counts for nothing"
    process.passes(s=1.9, cpu_s=1.9)
    assert watch.excess(is_idle=True) is None
    process.passes(s=0.2, cpu_s=0.2)
    assert watch.excess(is_idle=True) == "2.1 s of processor time without a request"


def test_what_was_asked_for_is_no_idle_work(process: Process) -> None:
    watch = process.watch()
    for _ in range(10):
        assert watch.excess(is_idle=True) is None
        process.passes(s=1.0, cpu_s=0.1)
        assert watch.excess(is_idle=False) is None
        process.passes(s=60.0, cpu_s=60.0)
        assert watch.excess(is_idle=False) is None


def test_a_little_is_no_work(process: Process) -> None:
    watch = process.watch()
    for _ in range(100):
        assert watch.excess(is_idle=True) is None
        process.passes(s=2.0, cpu_s=0.5)


def test_a_process_that_has_ended_does_nothing(process: Process) -> None:
    watch = process.watch()
    assert watch.excess(is_idle=True) is None
    process.passes(s=2.0, cpu_s=-1000.0)  # nothing can be measured any more
    assert watch.excess(is_idle=True) is None
