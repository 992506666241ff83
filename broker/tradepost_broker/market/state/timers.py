"""Timers: one per purpose and id. The caller provides the time; this module reads no clock.

A timer that was cancelled or moved leaves its old entry in the heap, which is skipped when its time comes;
when such entries outnumber the live ones, the heap is built anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import StrEnum


class TimerPurpose(StrEnum):
    """What a timer is for. Of timers due at one time, the earlier name is served first.

    A lease ends with its job's deadline at the latest: then it is recalled, and its worker is not to blame.
    """

    DEADLINE = "1 deadline"  # id: a job
    LEASE_EXPIRY = "2 lease expiry"  # id: a lease
    ABSENCE = "3 absence"  # id: a worker whose stream closed
    BLAME = "4 blame"  # id: a lease lost by absence, whose receipt has not come
    ACCUSATION = "5 accusation"  # id: a finished job whose contradicted results are not confirmed wrong
    DOUBT = "5 doubt"  # id: a finished job whose result, an expelled worker's, waits for a reference run
    MATURITY = "6 maturity"  # id: a lease that was paid
    PATIENCE = "7 patience"  # id: a job that nobody could take
    RETIREMENT = "8 retirement"  # id: a finished job that may leave memory
    KEY_EXPIRY = "9 key expiry"  # id: a finished job whose idempotency key may be forgotten
    LATENESS = "a lateness"  # id: an open lease
    COOLING_OFF = "b cooling off"  # id: an owner who gets no new leases until then


#: Due time, purpose, id. Plain values only, so that the garbage collector need not look at so many tuples.
_Timer = tuple[float, str, str]


class Timers:
    """Timers, in order."""

    def __init__(self) -> None:
        self._heap: list[_Timer] = []
        self._due: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def put(self, purpose: TimerPurpose, subject: str, at: float) -> None:
        """Set the timer, or move it."""
        self._due[purpose.value, subject] = at
        heapq.heappush(self._heap, (at, purpose.value, subject))
        if len(self._heap) > 64 + 2 * len(self._due):
            self._heap = [(when, what, which) for (what, which), when in self._due.items()]
            heapq.heapify(self._heap)

    def cancel(self, purpose: TimerPurpose, subject: str) -> None:
        """Unset the timer, if it is set."""
        self._due.pop((purpose.value, subject), None)

    def due_at(self, purpose: TimerPurpose, subject: str) -> float | None:
        """When the timer is due, if it is set."""
        return self._due.get((purpose.value, subject))

    def is_due(self, now: float) -> bool:
        """Whether a timer is due by `now`."""
        while self._heap and self._heap[0][0] <= now:
            at, purpose, subject = self._heap[0]
            if self._due.get((purpose, subject)) == at:
                return True
            heapq.heappop(self._heap)
        return False

    def take_due(self, purpose: TimerPurpose, now: float) -> list[str]:
        """Take out the timers for this purpose that are due by `now`, by id. It looks at every timer."""
        due = [subject for (of, subject), at in self._due.items() if of == purpose.value and at <= now]
        for subject in due:
            self.cancel(purpose, subject)
        return sorted(due)

    def due(self, now: float) -> Iterator[tuple[float, TimerPurpose, str]]:
        """Take out, in order, the timers due by `now`, those set meanwhile included, each with its time."""
        while self.is_due(now):
            at, purpose, subject = heapq.heappop(self._heap)
            del self._due[purpose, subject]
            yield at, TimerPurpose(purpose), subject
