"""Resets what a test run inherits from the process that starts it.

A test that reads the caller's environment passes on one machine and fails on the next: a shell script starts
its background jobs with SIGINT ignored, a CI runner forces colours, a server's `umask` is 077. The values are
set when this module is imported, before the modules under test are: some read the environment only once.

`HOME` is a new folder whose name has blanks and a letter beyond ASCII, so the tests that start programs show
that these cope with it. A test that needs the caller's own environment, as for a package index, gets it from
the fixture `callers_environment`.
"""

from __future__ import annotations

import locale
import os
import re
import signal
import tempfile
from collections.abc import Mapping

import pytest

CALLERS_ENVIRONMENT = dict(os.environ)
#: Programs that the contract tests compare with, and a folder for pictures: the caller chooses them.
KEPT = {"TRADEPOST_COSIGN", "TRADEPOST_IPFS", "TRADEPOST_SCREENSHOTS"}
REMOVED = re.compile(
    "|".join(
        (
            "TRADEPOST_.*",
            "LC_.*|LANG|LANGUAGE",
            "XDG_.*|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS|NOTIFY_SOCKET",
            ".*_PROXY|.*_proxy",
            # What Rich and Typer read in order to guess at a terminal; Typer does so when it is imported.
            "NO_COLOR|FORCE_COLOR|PY_COLORS|CLICOLOR.*|COLORTERM|COLUMNS|LINES|TERM|TTY_.*|GITHUB_ACTIONS",
            "ACTIONS_ID_TOKEN_.*|SIGSTORE_.*",  # where sigstore finds an identity by itself
            "MAKEFLAGS|MFLAGS|MAKELEVEL|SOURCE_DATE_EPOCH",
            "PYTHON(UNBUFFERED|UTF8|IOENCODING|WARNINGS|DEVMODE)",
        )
    )
)
#: Python ignores these on its own, and restores them in the processes that it starts.
IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}

_home = tempfile.TemporaryDirectory(prefix="tradepost home ü ")


def reset_environment() -> None:
    """Remove the variables that change what programs do, and set the few that a test may rely on."""
    for name in [name for name in os.environ if REMOVED.fullmatch(name) and name not in KEPT]:
        del os.environ[name]
    os.environ["HOME"] = _home.name
    os.environ["LC_ALL"] = "C.UTF-8"
    # Otherwise onnxruntime reports usage to its maker from its import on.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    locale.setlocale(locale.LC_ALL, "C.UTF-8")


def reset_signals() -> None:
    """Give ignored and blocked signals their default effect, here and in the processes that tests start."""
    for number in signal.valid_signals() - IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _handler(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _handler(number: int) -> object:
    if number == signal.SIGINT:
        return signal.default_int_handler
    if number == signal.SIGHUP:
        # A handler, unlike SIG_IGN, is not inherited: a run under `nohup` outlives its terminal and the
        # processes that it starts get the default all the same.
        return lambda *_: None
    return signal.SIG_DFL


os.umask(0o022)
reset_environment()
reset_signals()


@pytest.fixture(scope="session")
def callers_environment() -> Mapping[str, str]:
    """The environment that the test run was started with."""
    return CALLERS_ENVIRONMENT


def pytest_unconfigure() -> None:
    """Remove the home folder."""
    _home.cleanup()
