"""The processor share as arithmetic, on a clock and runners that only pretend."""

from __future__ import annotations

import pytest

from tradepost_worker.supervision.cpu_throttle import TICK_S, CpuThrottle


class Machine:
    """Cores with a clock; each runner that is not stopped uses one of them whole."""

    def __init__(self, *, cores: int, busy: int, percent: int) -> None:
        self.now_s = 0.0
        self.cores = cores
        self.runners = [Runner(number) for number in range(busy)]
        self.share = CpuThrottle(
            cores=cores,
            runners=lambda: self.runners,
            measure=lambda pid: self.runners[pid].used_s,
            monotonic=lambda: self.now_s,
        )
        self.share.percent = percent

    def pass_time(self, seconds: float, *, idle: bool = False) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            awake = [] if idle else [runner for runner in self.runners if not runner.is_stopped]
            for runner in awake:
                runner.used_s += TICK_S * min(1.0, self.cores / len(awake))
            self.share.tick()

    @property
    def used_s(self) -> float:
        return sum(runner.used_s for runner in self.runners)


class Runner:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.used_s = 0.0
        self.is_stopped = False
        self.stops = 0

    def suspend(self) -> None:
        assert not self.is_stopped
        self.is_stopped = True
        self.stops += 1

    def resume(self) -> None:
        assert self.is_stopped
        self.is_stopped = False


@pytest.mark.parametrize("percent", [5, 25, 40])
@pytest.mark.parametrize("busy", [1, 2, 5])
def test_the_mean_share_holds(percent: int, busy: int) -> None:
    machine = Machine(cores=2, busy=busy, percent=percent)
    machine.pass_time(30)
    ceiling = min(percent, 100 * busy / 2)
    assert 100 * machine.used_s / (30 * 2) == pytest.approx(ceiling, abs=1.0)


def test_without_a_limit_nothing_is_ever_stopped() -> None:
    machine = Machine(cores=2, busy=3, percent=100)
    machine.pass_time(10)
    assert sum(runner.stops for runner in machine.runners) == 0


def test_idle_time_saves_up_almost_nothing() -> None:
    machine = Machine(cores=2, busy=2, percent=10)
    machine.pass_time(60, idle=True)
    machine.pass_time(1)
    assert machine.used_s <= 0.2 * 1 + 0.2 * 0.1 + 2 * TICK_S


def test_lifting_the_limit_wakes_what_was_stopped() -> None:
    machine = Machine(cores=1, busy=1, percent=1)
    machine.pass_time(0.1)
    assert machine.runners[0].is_stopped
    machine.share.percent = 100
    machine.share.tick()
    assert not machine.runners[0].is_stopped
    machine.pass_time(5)
    assert machine.used_s > 5


def test_a_runner_that_ended_is_not_woken() -> None:
    machine = Machine(cores=1, busy=1, percent=1)
    machine.pass_time(0.1)
    gone = machine.runners.pop()
    machine.share.percent = 100
    machine.share.tick()
    assert gone.is_stopped
