"""A real terminal with somebody at it: for tests."""

from __future__ import annotations

import os
import pty
import time
from pathlib import Path


class Keyboard:
    """A pseudo-terminal, `path`, with both its ends: the person's and that of the program that runs in it."""

    def __init__(self) -> None:
        self._person, self._program = pty.openpty()
        self.path = Path(os.ttyname(self._program))

    def type(self) -> None:
        """Type a line, which the program reads."""
        os.write(self._person, b"ls\n")
        os.read(self._program, 16)
        os.read(self._person, 16)  # the terminal shows what is typed

    def print(self) -> None:
        """Have the program print a line."""
        os.write(self._program, b"hello\n")
        os.read(self._person, 16)

    def rest(self, seconds: float) -> None:
        """Have the terminal look as if it had not been used for this long."""
        at = time.time() - seconds
        os.utime(self._program, (at, at))

    def close(self) -> None:
        """Hang up."""
        os.close(self._person)
        os.close(self._program)
