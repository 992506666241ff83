"""The standard output of a command, whose failure ends the command with an error of its own.

The system reports a full disk to whichever line writes or flushes, as an error without a file's name. So the
lowest layer of `sys.stdout`, which alone knows whose error that is, raises `OutputFailed`. That is no
`OSError`, or code that prints amid its own reading and writing would take it for one of these.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Final

STDOUT: Final = 1
STDERR: Final = 2


class OutputFailed(Exception):
    """The standard output could not be written, or nobody reads on."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.reason = cause.strerror or ""
        self.is_unread = isinstance(cause, BrokenPipeError)


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputFailed(error) from None


def watch_output() -> None:
    """From here on, `sys.stdout` raises `OutputFailed`, unless it is closed or not the process's own."""
    before = sys.stdout
    if before is None or before is not sys.__stdout__ or not isinstance(before, io.TextIOWrapper):
        return
    before.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(STDOUT, "w", closefd=False)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
    )


def flush_output() -> None:
    """Write what is left. Raises `OutputFailed`."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard(descriptor: int) -> None:
    """Drop what is still to be written to a stream that failed, or Python would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
