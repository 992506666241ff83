"""The outcome of work in another thread, for which threads can wait while Ctrl-C comes.

The standard library's futures wait within a `with` on a condition. Ctrl-C between the few instructions that
enter or leave it can leave the condition locked, as for every lock that is written in Python (issue 74174 of
CPython). The thread that then gives the result waits for ever, and so does its event loop. Here, waiting and
reading take no lock: each thread that waits has a queue, which is written in C.
"""

from __future__ import annotations

import queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """A value or an error that is given once."""

    def __init__(self) -> None:
        self._gates: set[queue.SimpleQueue[None]] = set()
        self._value: T
        self._error: BaseException | None = None
        self.is_given = False

    def give(self, value: T) -> None:
        """Give a value."""
        self._value = value
        self._open_gates()

    def give_error(self, error: BaseException) -> None:
        """Give an error."""
        self._error = error
        self._open_gates()

    def get(self, timeout: float | None = None) -> T:
        """The value. Raises the error, or `TimeoutError` after `timeout` seconds (`arguments.timeout_s`)."""
        if (error := self.error(timeout)) is not None:
            raise error
        return self._value

    def error(self, timeout: float | None = None) -> BaseException | None:
        """The error, `None` if a value was given. Raises `TimeoutError` after `timeout` seconds."""
        if not self.is_given:
            gate: queue.SimpleQueue[None] = queue.SimpleQueue()
            try:
                self._gates.add(gate)
                # It may have been given since it was looked at, when this gate was not there yet.
                if not self.is_given:
                    _wait(gate, timeout)
            finally:
                self._gates.discard(gate)
        return self._error

    def _open_gates(self) -> None:
        self.is_given = True
        for gate in self._gates.copy():
            gate.put(None)


def _wait(gate: queue.SimpleQueue[None], timeout: float | None) -> None:
    try:
        gate.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
