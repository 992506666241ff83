"""The owner's command to a running worker: work, pause, or finish and stop.

It is a file in the state folder that only the owner can write; the worker checks it many times a second. A
file outlives both sides: a worker that starts later, after a power cut for example, obeys it as well. If the
file is unreadable the worker pauses, since the owner may have asked for that.
"""

from __future__ import annotations

import os
import re
import stat
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from tradepost.atomic_files import replace_file
from tradepost.errors import UNDECODABLE, InvalidDuration
from tradepost.file_status import WRITABLE_BY_OTHERS, Stamp, access_problem, stamp
from tradepost.file_writing import writing_own

_UNITS_S: Final = (86_400, 3_600, 60, 1)
_DURATION: Final = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")
_FILE_BYTES_MAX: Final = 4096


class Mode(StrEnum):
    """The owner's last command."""

    WORK = "work"
    PAUSE = "pause"
    DRAIN = "drain"  # take nothing new, finish what runs, stop


class OwnerCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner's last command. A pause ends at `until` (Unix seconds); without one, with `resume`."""

    mode: Mode
    until: float | None = None
    problem: str = ""

    def at(self, now: float) -> OwnerCommand:
        """What it means at a time: a pause whose time is over means work."""
        is_over = self.mode is Mode.PAUSE and self.until is not None and now >= self.until
        return WORK if is_over else self


WORK: Final = OwnerCommand(mode=Mode.WORK)


class OwnerCommandFile:
    """The file at `path`, written by commands and read by the worker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self._command = WORK

    def write(self, command: OwnerCommand) -> None:
        """Replace the command at once. Raises `FileNotWritten`."""
        with writing_own(self._path):
            replace_file(self._path, msgspec.json.encode(command))

    def clear(self) -> None:
        """Go back to work. Raises `FileNotWritten`."""
        with writing_own(self._path):
            self._path.unlink(missing_ok=True)

    def read(self) -> OwnerCommand:
        """The command; `WORK` if there is none, a pause with the problem if it cannot be trusted."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            self._stamp = None
            return WORK
        except OSError as error:
            return _unreadable(str(error))
        if (found := stamp(status)) != self._stamp:
            self._command = self._load(status)
            self._stamp = found
        return self._command

    def _load(self, status: os.stat_result) -> OwnerCommand:
        problem = access_problem(self._path, status, forbidden=WRITABLE_BY_OTHERS)
        if problem or not stat.S_ISREG(status.st_mode):
            return _unreadable("it must be a plain file that only its owner can write")
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=OwnerCommand)
        except (OSError, *UNDECODABLE) as error:
            return _unreadable(str(error))


def _unreadable(why: str) -> OwnerCommand:
    return OwnerCommand(mode=Mode.PAUSE, problem=why)


def parse_duration(text: str) -> float:
    """Seconds, of `2h`, `1h30m` or `45s`. Raises `InvalidDuration`."""
    match = _DURATION.fullmatch(text)
    seconds = 0
    if match is not None:
        seconds = sum(
            int(number or 0) * unit_s for number, unit_s in zip(match.groups(), _UNITS_S, strict=True)
        )
    if seconds == 0:
        raise InvalidDuration(f"{text!r} is not a duration")
    return float(seconds)
