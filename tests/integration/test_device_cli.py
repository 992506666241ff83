"""`tradepost worker doctor | service | uninstall`, on a home of its own."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tradepost.errors import WrongMoment
from tradepost_worker.cli import app
from tradepost_worker.commands.service import LaunchdAgent, SystemdUnit
from tradepost_worker.testing.lent_device import LentDevice, lent_device


@pytest.fixture
async def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LentDevice]:
    """A device whose owner's home is the test's own, and which has no service manager to talk to."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for kind in (SystemdUnit, LaunchdAgent):
        monkeypatch.setattr(kind, "start_commands", lambda _: [])
        monkeypatch.setattr(kind, "stop_commands", lambda _: [])
        monkeypatch.setattr(kind, "status_command", lambda _: ["false"])
    monkeypatch.setattr("tradepost_worker.commands.service.service_here", SystemdUnit)
    async with lent_device(tmp_path / "state") as device:
        yield device


async def test_the_doctor_finds_a_sound_device_sound(device: LentDevice) -> None:
    report = json.loads(await device.say("doctor", "--json"))
    found = {check["name"]: check for check in report["checks"]}
    assert report["healthy"] is True, found
    assert {"python", "libc", "onnxruntime", "key", "trust", "disk", "clock", "isolation"} <= found.keys()
    assert all(check["fix"] for check in found.values() if check["health"] != "ok")
    assert "ok       clock" in await device.say("doctor")


async def test_the_doctor_ends_with_a_status_that_scripts_can_test(device: LentDevice) -> None:
    (device.folder / "worker.key").chmod(0o644)
    with pytest.raises(SystemExit) as ended:
        await device.say("doctor")
    assert ended.value.code == 12


async def test_a_service_comes_and_goes(device: LentDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = await device.say("service", "install", "--show")
    (command,) = (line for line in shown.splitlines() if line.startswith("ExecStart="))
    expected = [sys.executable, "-m", "tradepost", "worker", "run", "--state-dir", str(device.folder)]
    assert shlex.split(command.removeprefix("ExecStart=")) == expected
    path = SystemdUnit().path
    assert not path.exists()
    said = await device.say("service", "install")
    assert path.read_text() == shown
    assert "needs root" in said or "linger" not in said
    assert CliRunner().invoke(app, ["service", "status"]).stdout.endswith(", not running.\n")
    monkeypatch.setattr(SystemdUnit, "status_command", lambda _: ["true"])
    assert CliRunner().invoke(app, ["service", "status"]).stdout.endswith(", running.\n")
    assert str(path) in CliRunner().invoke(app, ["service", "uninstall"]).stdout
    assert not path.exists()
    report = json.loads(CliRunner().invoke(app, ["service", "status", "--json"]).stdout)
    assert report == {"installed": False, "running": False, "path": str(path)}
    assert "Not installed" in CliRunner().invoke(app, ["service", "status"]).stdout


async def test_uninstalling_leaves_nothing_and_says_what_it_removed(device: LentDevice) -> None:
    await device.say("service", "install")
    async with device.worker():
        with pytest.raises(WrongMoment, match="a worker is running"):
            await device.say("uninstall", "--yes")
    await device.say("service", "install")
    report = json.loads(await device.say("uninstall", "--yes", "--json"))
    assert not device.folder.exists()
    assert not SystemdUnit().path.exists()
    assert {str(SystemdUnit().path), str(device.folder / "worker.key"), str(device.folder)} <= set(
        report["removed"]
    )
    assert report["left"] == []
    assert report["freed_bytes"] > 0
    assert "Nothing to remove" in await device.say("uninstall")  # nor anything to ask
