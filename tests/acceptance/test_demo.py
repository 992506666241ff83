"""The demo as a user runs it: its promises, its report, and that it leaves no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.acceptance
DEMO = [sys.executable, "-m", "tradepost", "demo"]


def processes_using(folder: Path) -> list[str]:
    """The command lines of running processes that name `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command and process.pid != os.getpid() and process.ppid() != os.getpid():
            found.append(command)
    return found


def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    command = [*DEMO, "--jobs", "200", "--folder", str(tmp_path / "market"), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr + run.stdout
    report = json.loads(run.stdout)
    assert report["answered"] == report["jobs"] >= 200
    assert report["accuracy"] >= 0.96
    assert report["wrong_accepted"] == 0
    assert report["cheaters_caught"] == report["cheaters"] == 1
    cheater = next(worker for worker in report["workers"] if worker["cheats"])
    assert cheater["standing"] == "expelled"
    assert cheater["findings"]
    assert cheater["stake_lost_microcredits"] == 10_000_000
    honest = [worker for worker in report["workers"] if not worker["cheats"] and not worker["auditor"]]
    assert all(worker["standing"] == "active" for worker in honest)
    assert all(worker["stake_lost_microcredits"] == 0 for worker in honest)
    assert sum(worker["earned_microcredits"] for worker in honest) > 0
    assert not processes_using(tmp_path)


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    folder = tmp_path / "market"
    command = [*DEMO, "--jobs", "50000", "--folder", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "Classifying" in line:
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
        assert demo.wait() == 130
    assert "All processes of the demo have ended" in rest
    assert "Traceback" not in rest
    assert not processes_using(tmp_path)
