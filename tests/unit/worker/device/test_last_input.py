"""When somebody last used the device: a real terminal, and scripted answers of `loginctl` and `ioreg`."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tradepost_worker.device import last_input
from tradepost_worker.device.last_input import ASK_S, InputSensor, InputUnseen, ask_desktops, unseen_input
from tradepost_worker.testing.keyboard import Keyboard

HOUR_S = 3600.0
#: Tests run on busy machines.
PATIENT_S = 30.0
#: Linux tells a terminal's times to 8 seconds.
GRAIN_S = 8.0
SESSION = "Type={kind}\nClass={of}\nState={state}\nIdleHint={hint}\nIdleSinceHint={since}\n"


def session(
    *, kind: str = "wayland", of: str = "user", state: str = "active", hint: str = "no", since: int = 0
) -> str:
    return SESSION.format(kind=kind, of=of, state=state, hint=hint, since=since)


@pytest.fixture
def keyboard() -> Iterator[Keyboard]:
    found = Keyboard()
    yield found
    found.close()


@pytest.fixture
def alone(keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> Keyboard:
    """The only terminal of a device without a desktop."""
    monkeypatch.setattr(last_input, "terminals", lambda: [keyboard.path, Path("/dev/pts/gone")])
    monkeypatch.setattr(last_input, "ask_desktops", lambda **_: [])
    return keyboard


@pytest.fixture
def loginctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets what `loginctl list-sessions` and `loginctl show-session` do, in shell."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def answer(lists: str, shows: str = "") -> None:
        script = tmp_path / "loginctl"
        script.write_text(f'#!/bin/sh\ncase "$1" in\nlist-sessions) {lists} ;;\n*) {shows or ":"} ;;\nesac\n')
        script.chmod(0o755)

    return answer


def test_typing_is_input_and_printing_is_not(alone: Keyboard) -> None:
    before = time.time()
    alone.rest(HOUR_S)
    alone.print()
    now = time.time()
    found = InputSensor().read(now)
    assert found is not None
    assert before - 1 <= found.at + HOUR_S <= now + 1
    alone.type()
    found = InputSensor().read(now)
    assert found is not None
    assert now - GRAIN_S - 1 <= found.at <= time.time() + 1
    assert found.where == f"terminal {alone.path.relative_to('/dev')}"


def test_every_terminal_that_is_open_counts(keyboard: Keyboard) -> None:
    assert keyboard.path in last_input.terminals()


def test_consoles_that_nobody_logged_in_at_do_not_count() -> None:
    consoles = [path for path in last_input.terminals() if path.name.startswith("tty")]
    assert all(path.stat().st_uid != 0 for path in consoles) or last_input.psutil.users()


def test_a_device_that_nobody_uses_has_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_input, "terminals", list)
    monkeypatch.setattr(last_input, "ask_desktops", lambda **_: [])
    assert InputSensor().read(time.time()) is None


@pytest.mark.process
@pytest.mark.parametrize(
    ("sessions", "idle_since"),
    [
        ([session()], [math.inf]),
        ([session(hint="yes", since=1_700_000_000_000_000)], [1.7e9]),
        ([session(kind="x11", hint="yes", since=5_000_000), session(kind="mir")], [5.0, math.inf]),
        ([session(state="online")], [math.inf]),
        # What a desktop says without a time that makes sense is no word that it is idle.
        ([session(hint="yes")], [math.inf]),
        ([session(hint="yes").replace("=0", "=n/a")], [math.inf]),
        # Terminals tell of themselves; nobody sits at a login screen, nor at what is ending.
        ([session(kind="tty"), session(kind="unspecified")], []),
        ([session(of="greeter"), session(of="manager"), session(state="closing")], []),
    ],
)
def test_desktops_say_when_they_are_idle(
    loginctl: Callable[[str, str], None], sessions: list[str], idle_since: list[float]
) -> None:
    shows = "\n".join(sessions)
    asked = "test \"$7 $8\" = '2 c3'"
    loginctl("echo '2 1000 ada seat0'; echo 'c3 1000 ada'", f"{asked} && echo '{shows}'")
    assert ask_desktops(command_s_max=PATIENT_S) == idle_since


@pytest.mark.process
def test_without_sessions_no_desktop_is_in_use(loginctl: Callable[..., None]) -> None:
    loginctl(":", "exit 1")
    assert ask_desktops(command_s_max=PATIENT_S) == []
    assert unseen_input(command_s_max=PATIENT_S) == ""


@pytest.mark.process
def test_a_session_that_has_just_ended_hides_no_other(loginctl: Callable[..., None]) -> None:
    loginctl("echo 2; echo 9", f"echo \"No session '9' known\" >&2; echo '{session()}'; exit 1")
    assert ask_desktops(command_s_max=PATIENT_S) == [math.inf]


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "s_max", "reason"),
    [
        ("echo 'System has not been booted with systemd.' >&2; exit 1", 30, "not been booted with systemd"),
        ("exec sleep 60", 0.2, "timed out"),
    ],
)
def test_what_no_desktop_can_tell_is_said(
    loginctl: Callable[..., None], monkeypatch: pytest.MonkeyPatch, script: str, s_max: float, reason: str
) -> None:
    loginctl(script)
    with pytest.raises(InputUnseen, match=reason):
        ask_desktops(command_s_max=s_max)
    assert "only input in terminals" in unseen_input(command_s_max=s_max)
    assert reason in unseen_input(command_s_max=s_max)


@pytest.mark.process
def test_a_system_without_logind_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputUnseen, match="loginctl"):
        ask_desktops(command_s_max=PATIENT_S)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("loginctl") is None, reason="needs loginctl")
def test_the_real_loginctl_answers_or_says_why_not() -> None:
    unseen = unseen_input(command_s_max=PATIENT_S)
    if unseen:
        assert "(loginctl: " in unseen
    else:
        assert all(since > 0 for since in ask_desktops(command_s_max=PATIENT_S))


@pytest.mark.process
def test_macos_counts_the_time_without_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ioreg"
    script.write_text("#!/bin/sh\necho '    | |   \"HIDIdleTime\" = 90000000000'\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (idle_since,) = ask_desktops(command_s_max=PATIENT_S)
    assert time.time() - idle_since == pytest.approx(90, abs=5)
    script.write_text("#!/bin/sh\necho '+-o Root'\n")
    with pytest.raises(InputUnseen, match="HIDIdleTime"):
        ask_desktops(command_s_max=PATIENT_S)


def test_desktops_are_asked_every_few_seconds_and_silence_counts_as_use(
    alone: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.rest(HOUR_S)
    answers: list[list[float]] = [[math.inf], [100.0], []]
    asked: list[float] = []
    now_s = [0.0]

    def ask(**_: float) -> list[float]:
        asked.append(now_s[0])
        if not answers:
            raise InputUnseen("no answer")
        return answers.pop(0)

    monkeypatch.setattr(last_input, "ask_desktops", ask)
    sensor = InputSensor(monotonic=lambda: now_s[0])
    typed_at = alone.path.stat().st_atime

    def at(seconds: float, now: float) -> float:
        now_s[0] = seconds
        found = sensor.read(now)
        assert found is not None
        return found.at

    assert at(0, 1e10) == 1e10
    assert at(ASK_S / 2, 1e10 + 1) == 1e10 + 1  # in use until it says otherwise
    assert at(ASK_S, 1e10) == typed_at  # it was idle before
    answers.insert(0, [1e11])
    assert at(2 * ASK_S, 1e12) == 1e11
    answers.clear()
    assert at(3 * ASK_S, 1e12) == 1e12  # of a desktop nothing is heard any more
    assert asked == [0, ASK_S, 2 * ASK_S, 3 * ASK_S]
