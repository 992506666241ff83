"""When somebody last used this device's keyboard, mouse or terminals, as far as the system reports it.

Two places tell. A terminal's access time is when a program last read what was typed in it, which `w` goes by
too; what programs print changes another time. Linux keeps it to 8 seconds, lest it tell how a password is
typed, but the first key after a silence shows at once. A desktop's input passes no terminal; the desktop
tells systemd-logind when it is idle, and counts as in use until it does. macOS keeps a counter instead.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil

from tradepost_worker.device.governor import LastInput

#: How often desktops are asked: that starts a process.
ASK_S: Final = 2.0
#: How long a command that is asked may take.
COMMAND_S_MAX: Final = 1.0

_DESKTOPS: Final = ("x11", "wayland", "mir")
_ASKED: Final = tuple(
    f"--property={name}" for name in ("Type", "Class", "State", "IdleHint", "IdleSinceHint")
)


class InputUnseen(Exception):
    """This system does not report when a desktop was used; the text gives the reason."""


class InputSensor:
    """Reads when the device was last used."""

    def __init__(
        self, *, command_s_max: float = COMMAND_S_MAX, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._command_s_max = command_s_max
        self._monotonic = monotonic
        self._asked_s = -math.inf
        self._idle_since: list[float] = []

    def read(self, now: float) -> LastInput | None:
        """The newest input up to `now` (Unix seconds); `None` if nothing tells of any."""
        found = [LastInput(at=at, where=f"terminal {path.relative_to('/dev')}") for path, at in _typed()]
        found += [LastInput(at=min(at, now), where="a desktop") for at in self._desktops()]
        return max(found, key=lambda used: used.at, default=None)

    def _desktops(self) -> list[float]:
        now_s = self._monotonic()
        if now_s - self._asked_s >= ASK_S:
            self._asked_s = now_s
            try:
                self._idle_since = ask_desktops(command_s_max=self._command_s_max)
            except InputUnseen:  # a desktop of which nothing is heard any more may be in use
                self._idle_since = [math.inf for _ in self._idle_since]
        return self._idle_since


def unseen_input(*, command_s_max: float = COMMAND_S_MAX) -> str:
    """Which input cannot be seen here, and why; empty if all can."""
    try:
        ask_desktops(command_s_max=command_s_max)
    except InputUnseen as error:
        return f"only input in terminals can be detected ({error})"
    return ""


def terminals() -> Iterator[Path]:
    """Where somebody may type: pseudo-terminals, and the consoles that somebody logged in at."""
    yield from Path("/dev/pts").glob("[0-9]*")
    yield from (Path("/dev", user.terminal) for user in psutil.users() if user.terminal)
    for console in Path("/dev").glob("tty[0-9S]*"):  # to log in changes a console's owner
        if (status := _status(console)) is not None and status.st_uid != 0:
            yield console


def ask_desktops(
    *, command_s_max: float = COMMAND_S_MAX, clock: Callable[[], float] = time.time
) -> list[float]:
    """Since when each desktop has been idle (Unix seconds, by `clock`); infinity for one that is in use.

    Raises `InputUnseen` where the system does not tell.
    """
    if sys.platform == "darwin":
        counter = re.search(
            r'"HIDIdleTime" = (\d+)', _output("ioreg", "-c", "IOHIDSystem", s_max=command_s_max)
        )
        if counter is None:
            raise InputUnseen("ioreg: there is no HIDIdleTime")
        return [clock() - int(counter[1]) / 1e9]
    listed = _output("loginctl", "list-sessions", "--no-legend", s_max=command_s_max).splitlines()
    sessions = [words[0] for line in listed if (words := line.split())]
    if not sessions:
        return []
    shown = _output("loginctl", "show-session", *_ASKED, *sessions, s_max=command_s_max)
    found = (dict(re.findall(r"(?m)^(\w+)=(.*)$", block)) for block in shown.split("\n\n"))
    return [_idle_since(session) for session in found if _is_desktop(session)]


def _is_desktop(session: dict[str, str]) -> bool:
    """Whether somebody may sit at it: nobody does at a login screen, nor at what is ending."""
    is_persons = session.get("Class", "").startswith("user") and session.get("State") != "closing"
    return is_persons and session.get("Type") in _DESKTOPS


def _idle_since(session: dict[str, str]) -> float:
    since_us = session.get("IdleSinceHint", "")
    told = session.get("IdleHint") == "yes" and since_us.isdecimal() and int(since_us) > 0
    return int(since_us) / 1e6 if told else math.inf


def _typed() -> Iterator[tuple[Path, float]]:
    for path in terminals():
        if (status := _status(path)) is not None:
            yield path, status.st_atime


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # it was closed meanwhile, or is a display and no terminal
        return None


def _output(*command: str, s_max: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=s_max, check=False)
    except FileNotFoundError:
        raise InputUnseen(f"{command[0]} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputUnseen(f"{command[0]}: {error}") from None
    # Of sessions that have just ended it complains, and shows the others.
    if done.returncode and not done.stdout:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise InputUnseen(f"{command[0]}: {said[0]}")
    return done.stdout
