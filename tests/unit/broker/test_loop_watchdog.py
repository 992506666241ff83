"""The watchdog measures for how long the event loop stands still, and names what held it up."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading

import pytest

from tradepost_broker.reporting.loop_stalls import ELSEWHERE, LOG_S, PLACES_MAX, LoopStalls
from tradepost_broker.reporting.loop_watchdog import (
    BEAT_S,
    GARBAGE,
    LIMIT_S,
    NOT_SCHEDULED,
    UNSEEN,
    LoopWatchdog,
    Stall,
    place_of_thread,
)
from tradepost_broker.testing import ManualClock


class Loop:
    """A watched loop by a manual clock. `place` is where its thread is."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self.place = "market"
        self.stalls: list[Stall] = []
        self.watchdog = LoopWatchdog(
            report=self.stalls.append, monotonic=self.clock, place_of=lambda _: self.place
        )
        self.watchdog.beat()

    def stand_still(self, seconds: float, *, looks: int = 1) -> None:
        """Stand still for `seconds` beyond the next beat, seen `looks` times at the end."""
        self.clock.advance(BEAT_S + seconds)
        for _ in range(looks):
            self.watchdog.look()


def test_a_late_beat_is_a_stall_with_a_name() -> None:
    loop = Loop()
    loop.stand_still(0.3)
    loop.watchdog.beat()
    assert [one.place for one in loop.stalls] == ["market"]
    assert loop.stalls[0].seconds == pytest.approx(0.3)
    loop.clock.advance(BEAT_S)
    loop.watchdog.beat()
    assert len(loop.stalls) == 1, "it goes on in time"


def test_a_stall_says_for_how_long_its_thread_ran() -> None:
    ran, stalls = ManualClock(5.0), list[Stall]()
    clock = ManualClock(0.0)
    watchdog = LoopWatchdog(report=stalls.append, monotonic=clock, thread_time=ran, place_of=lambda _: "x")
    for seconds_ran in (0.25, 0.02, 9.0):
        watchdog.beat()
        clock.advance(BEAT_S + 0.3)
        ran.advance(seconds_ran)
    watchdog.beat()
    assert [one.busy_s for one in stalls] == pytest.approx([0.25, 0.02, 0.3])


def test_what_keeps_to_the_limit_is_none() -> None:
    loop = Loop()
    loop.stand_still(LIMIT_S * 0.99)
    loop.watchdog.beat()
    assert loop.stalls == []


def test_the_place_where_it_was_seen_most_often() -> None:
    loop = Loop()
    loop.stand_still(0.1, looks=1)
    loop.place = "a walk"
    loop.stand_still(0.2, looks=3)
    loop.watchdog.beat()
    assert [one.place for one in loop.stalls] == ["a walk"]


def test_what_was_seen_of_a_wait_within_the_limit_names_no_stall() -> None:
    loop = Loop()
    loop.stand_still(LIMIT_S * 0.9, looks=3)
    loop.watchdog.beat()
    loop.place = "a walk"
    loop.stand_still(LIMIT_S * 1.1)
    loop.watchdog.beat()
    assert [one.place for one in loop.stalls] == ["a walk"]


def test_a_look_that_comes_too_late_names_no_other_stall() -> None:
    loop = Loop()
    loop.stand_still(0.1)
    loop.watchdog.beat()
    loop.stand_still(0.1, looks=0)
    loop.watchdog.beat()
    assert [one.place for one in loop.stalls] == ["market", UNSEEN]


def test_a_collection_of_garbage_is_called_so() -> None:
    loop = Loop()
    loop.watchdog.note_collection("start", {})
    loop.stand_still(0.2)
    loop.watchdog.note_collection("stop", {})
    loop.watchdog.beat()
    assert [one.place for one in loop.stalls] == [GARBAGE]


def test_a_place_is_our_own_code_and_its_callers() -> None:
    there, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        there.set()
        go_on.wait()
        return 0.0

    thread = threading.Thread(target=LoopStalls(clock=clock).note, args=(Stall(1.0, "x"),))
    thread.start()
    there.wait()
    assert thread.ident is not None
    place = place_of_thread(thread.ident)
    go_on.set()
    thread.join()
    assert place == "reporting.loop_stalls.LoopStalls.note"
    assert place_of_thread(thread.ident) == UNSEEN, "it has ended"


#: Looks at a thread again and again. In each look a collection of garbage begins at another step. What is
#: called then lets the thread leave its frames and use their memory for something else.
LOOKS = """
import gc, sys, threading
from tradepost_broker.reporting.loop_watchdog import place_of_thread

inside, leave, left, ended = locks = [threading.Lock() for _ in range(4)]
for lock in locks:
    lock.acquire()

def wait(depth):
    if depth:
        return wait(depth - 1)
    inside.release()
    leave.acquire()

def overwrite(depth, value):
    a = b = c = d = e = f = g = h = i = j = k = l = m = n = value
    return depth and overwrite(depth - 1, [a, b, c, d, e, f, g, h, i, j, k, l, m, n])

def work():
    while True:
        wait(20)
        overwrite(30, "text")
        left.release()
        ended.acquire()

thread = threading.Thread(target=work, daemon=True)
thread.start()
is_gone = False

def go_on():
    global is_gone
    is_gone = True
    leave.release()
    left.acquire()

def collected(phase, _):
    here = sys._getframe(1).f_globals["__name__"]
    if phase == "start" and not is_gone and here.startswith("tradepost_broker"):
        go_on()

for look in range(200):
    inside.acquire()
    is_gone, kept = False, None
    gc.collect()
    gc.set_threshold(250, 10**6, 10**6)
    kept = [set() for _ in range(200 + look % 60)]  # so that the threshold is reached at another step
    gc.callbacks.append(collected)
    place = place_of_thread(thread.ident)
    gc.set_threshold(0)
    gc.callbacks.remove(collected)
    assert place in ("__main__.wait", "__main__.work"), place
    if not is_gone:
        go_on()
    ended.release()
print("ended")
"""


@pytest.mark.process
def test_a_thread_may_run_on_while_it_is_looked_at() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


async def test_a_real_loop_is_watched_until_the_end() -> None:
    seen, reported = threading.Event(), asyncio.get_running_loop().create_future()

    def report(stall: Stall) -> None:
        # A busy machine may hold the loop up before the watchdog has looked at it.
        if stall.place in ("here", GARBAGE) and not reported.done():
            reported.set_result(stall)

    looks: list[int] = []

    def place_of(thread: int) -> str:
        looks.append(thread)
        if len(looks) == 5:  # a quarter of the limit apart
            seen.set()
        return "here"

    watchdog = LoopWatchdog(report=report, place_of=place_of)
    callbacks = len(gc.callbacks)
    async with watchdog.watching():
        await asyncio.sleep(0)
        seen.wait()  # blocks the loop until it is caught
        stall = await reported
    assert stall.seconds > LIMIT_S
    assert len(gc.callbacks) == callbacks
    assert not any(thread.name == "tradepost-watchdog" for thread in threading.enumerate())


async def test_a_loop_that_waits_for_its_turn_is_not_blamed() -> None:
    there = asyncio.get_running_loop()
    ident = threading.get_ident()
    seen: list[str] = []

    def look() -> None:
        while not (seen and seen[-1] == NOT_SCHEDULED):
            seen.append(place_of_thread(ident))

    await there.run_in_executor(None, look)
    assert seen[-1] == NOT_SCHEDULED


def test_stalls_are_counted_by_place() -> None:
    clock = ManualClock()
    observed: list[float] = []
    stalls = LoopStalls(observe_stall=observed.append, clock=clock, monotonic=clock)
    for seconds, place in ((0.1, "a"), (0.4, "b"), (0.2, "a")):
        clock.advance(1)
        stalls.note(Stall(seconds, place))
    assert [(one.place, one.count, one.longest_s, one.newest_at) for one in stalls.all()] == [
        ("b", 1, 0.4, clock.now - 1),
        ("a", 2, 0.2, clock.now),
    ]
    assert observed == [0.1, 0.4, 0.2]


def test_one_line_of_the_log_for_each_place(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    stalls = LoopStalls(clock=clock, monotonic=clock)
    with caplog.at_level(logging.WARNING):
        for place in ("a", "a", "b", "a"):
            stalls.note(Stall(0.3, place))
        clock.advance(LOG_S)
        stalls.note(Stall(0.3, "a"))
    lines = [record for record in caplog.records if record.__dict__.get("action") == "loop_stalled"]
    assert [line.getMessage().split(" at ")[1] for line in lines] == [
        "a: 1 times so far",
        "b: 1 times so far",
        "a: 4 times so far",
    ]


def test_places_are_bounded() -> None:
    stalls = LoopStalls()
    for number in range(PLACES_MAX + 5):
        stalls.note(Stall(0.1, str(number)))
    counts = {one.place: one.count for one in stalls.all()}
    assert len(counts) == PLACES_MAX + 1
    assert counts[ELSEWHERE] == 5
