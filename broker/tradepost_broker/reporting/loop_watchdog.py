"""Measures for how long the event loop stands still, and finds out what held it up.

The loop beats: a callback runs every `BEAT_S`. A beat that is late by more than `LIMIT_S` is a stall: for so
long nobody else got an answer. While a beat is overdue, a thread looks at the stack of the loop's thread, so
that the stall has a name; a callback could only tell when all is over. A collection of garbage is named as
one, because the stack shows whatever code happened to set it off. A stall shorter than `LIMIT_S + BEAT_S` may
be missed, and one is measured too short by `BEAT_S` at most.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, Final, NamedTuple

#: No piece of the broker's work may hold the event loop for longer.
LIMIT_S: Final = 0.05
BEAT_S: Final = 0.01
GARBAGE: Final = "the collection of garbage"
#: The loop had nothing to do, and yet did not run: another thread or process had what it needed.
NOT_SCHEDULED: Final = "waiting for the processor or the interpreter's lock"
UNSEEN: Final = "unseen"
#: Callers that a place names, the innermost first.
_CALLERS_MAX: Final = 4
_OWN: Final = "tradepost"
_IDLE_MODULE: Final = "selectors"


class Stall(NamedTuple):
    """The loop stood still for `seconds` at `place`: our innermost function there, then its callers.

    For `busy_s` of them its thread ran; otherwise it waited, or something else had the processor.
    """

    seconds: float
    place: str
    busy_s: float = 0.0


class LoopWatchdog:
    """Calls `report`, on the loop, with each stall.

    `monotonic` gives seconds, `thread_time` those for which the calling thread ran.
    `place_of` says where a thread is, by its id; it is called in the watchdog's thread.
    """

    def __init__(
        self,
        *,
        report: Callable[[Stall], None],
        limit_s: float = LIMIT_S,
        monotonic: Callable[[], float] = time.monotonic,
        thread_time: Callable[[], float] = time.thread_time,
        place_of: Callable[[int], str] | None = None,
    ) -> None:
        self._report = report
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._thread_time = thread_time
        self._ran_s = 0.0
        self._place_of = place_of or place_of_thread
        self._thread_id = 0
        self._due: float | None = None
        self._pending: asyncio.TimerHandle | None = None
        #: What was seen, with the beat that was overdue then: the thread may be late itself.
        self._seen: list[tuple[float, str]] = []
        self._collecting_since: float | None = None
        self._collected_s = 0.0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch the running loop until the context ends."""
        loop = asyncio.get_running_loop()
        ended = threading.Event()
        thread = threading.Thread(target=self._look_on, args=(ended,), name="tradepost-watchdog", daemon=True)
        self._thread_id = threading.get_ident()
        self._due = None
        self._beat_on(loop)
        gc.callbacks.append(self.note_collection)
        thread.start()
        try:
            yield
        finally:
            if self._pending is not None:
                self._pending.cancel()
            gc.callbacks.remove(self.note_collection)
            ended.set()
            thread.join()

    def beat(self) -> None:
        """The loop runs. Reports the stall that has just ended, if there was one."""
        now, due = self._monotonic(), self._due
        ran_before_s, self._ran_s = self._ran_s, self._thread_time()
        collected_s, self._collected_s = self._collected_s, 0.0
        self._due = now + BEAT_S
        seen, self._seen = self._seen, []
        if due is None or now - due <= self._limit_s:
            return
        places = Counter(place for overdue, place in seen if overdue == due)
        place = places.most_common(1)[0][0] if places else UNSEEN
        if collected_s > (now - due) / 2:
            place = GARBAGE
        self._report(Stall(now - due, place, min(now - due, self._ran_s - ran_before_s)))

    def look(self) -> None:
        """If the loop stands still for so long that it may become a stall, see where."""
        due = self._due
        if due is not None and self._monotonic() - due > self._limit_s / 2:
            self._seen.append((due, self._place_of(self._thread_id)))

    def note_collection(self, phase: str, _info: dict[str, Any]) -> None:
        """A collection of garbage, which holds up all threads, begins or ends."""
        if phase == "start":
            self._collecting_since = self._monotonic()
        elif self._collecting_since is not None:
            self._collected_s += self._monotonic() - self._collecting_since
            self._collecting_since = None

    def _look_on(self, ended: threading.Event) -> None:
        while not ended.wait(self._limit_s / 4):
            self.look()

    def _beat_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self.beat()
        self._pending = loop.call_later(BEAT_S, self._beat_on, loop)


def place_of_thread(thread_id: int) -> str:
    """Where a thread is: `module.function` of our innermost function, and of those that called it."""
    with _no_collection():
        return _place_of(sys._current_frames().get(thread_id))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected meanwhile, in any thread.

    The interpreter makes the objects that show a thread's frames when they are asked for. If that begins a
    collection, which calls functions, the thread runs on and leaves its frames. The objects then point to
    memory that is used for something else, and reading them ends the process (CPython 3.11).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _place_of(frame: FrameType | None) -> str:
    if frame is None:
        return UNSEEN
    if frame.f_globals.get("__name__") == _IDLE_MODULE:
        return NOT_SCHEDULED
    callers: list[str] = []
    innermost: FrameType | None = frame
    while innermost is not None and len(callers) < _CALLERS_MAX:
        if str(innermost.f_globals.get("__name__", "")).startswith(_OWN):
            callers.append(_name_of(innermost))
        innermost = innermost.f_back
    return " in ".join(callers) or _name_of(frame)


def _name_of(frame: FrameType) -> str:
    module = str(frame.f_globals.get("__name__", "?")).removeprefix("tradepost_broker.")
    return f"{module}.{frame.f_code.co_qualname}"
