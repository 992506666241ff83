"""A test run in an odd environment sees the usual one, and so do the processes that its tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
ODD = {
    "HOME": "/nowhere",
    "HTTPS_PROXY": "http://192.0.2.1:1",
    "LC_ALL": "C",
    "NO_COLOR": "1",
    "TRADEPOST_IPFS": "/opt/ipfs",
    "TRADEPOST_URL": "http://192.0.2.1:2",
    "XDG_CONFIG_HOME": "/nowhere",
}
TESTS = """
import locale
import os
import signal
import subprocess
import sys

import pytest

# What a child has: its ignored and blocked signals, as bits, and its umask.
CHILD = '''
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["SigIgn"], 16), int(status["SigBlk"], 16), status["Umask"].strip())
'''
#: Python ignores two by itself; the C library keeps the two below SIGRTMIN, and lets nobody reset them.
IGNORED_BY_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | 1 << 31 | 1 << 32


def test_environment(callers_environment):
    assert not {"HTTPS_PROXY", "NO_COLOR", "TRADEPOST_URL", "XDG_CONFIG_HOME"} & set(os.environ)
    assert os.environ["TRADEPOST_IPFS"] == "/opt/ipfs"
    assert os.path.isdir(os.environ["HOME"])
    assert " " in os.environ["HOME"]
    assert locale.getencoding().lower() == "utf-8"
    assert callers_environment["HTTPS_PROXY"] == "http://192.0.2.1:1"


def test_signals():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGHUP)  # the run goes on, as under `nohup`


def test_processes():
    command = [sys.executable, "-S", "-c", CHILD]
    ignored, blocked, umask = subprocess.check_output(command, text=True).split()
    assert int(ignored) & ~IGNORED_BY_PYTHON == 0
    assert blocked == "0"
    assert umask == "0022"
"""


def make_odd() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.umask(0o077)


@pytest.mark.process
def test_what_the_caller_set_does_not_reach_a_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['inherited']\n")
    (tmp_path / "test_inside.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | ODD | {"PYTHONPATH": str(PLUGINS)},
        preexec_fn=make_odd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
