"""The service's file, and what taking the worker off a device removes."""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tradepost.errors import FileNotWritten, NoServiceManager, RunnerFailed, WrongMoment
from tradepost.protocol import GiveBackReason
from tradepost_signing.policy.revocation_store import bundle_path
from tradepost_worker.commands import service as service_module
from tradepost_worker.commands.service import (
    LaunchdAgent,
    Service,
    SystemdUnit,
    install,
    installed_service,
    remove,
    service_here,
    user_name,
    worker_command,
)
from tradepost_worker.commands.uninstall import check_nothing_lost, check_stopped, remove_state
from tradepost_worker.device.owner_command import Mode, OwnerCommand, OwnerCommandFile
from tradepost_worker.leases.lease_executor import give_back
from tradepost_worker.leases.outbox import Outbox
from tradepost_worker.settings import default_state_dir
from tradepost_worker.state import Membership, StateFolder
from tradepost_worker.supervision.compile_cache import CompileCache

MEMBERSHIP = Membership(
    broker_url="https://b", broker="b", worker="w", owner="o", device="d", stake_microcredits=1
)


@pytest.mark.process
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed, so nothing here can judge a unit")
    unit = SystemdUnit(tmp_path)
    install(unit, tmp_path / 'a folder with 100% "quotes"', start=False)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    unit.path.write_text(unit.path.read_text().replace("ExecStart=", "ExecStart=relative/"))
    bad = subprocess.run(
        [analyze, "verify", "--man=no", str(unit.path)], capture_output=True, text=True, check=False
    )
    assert bad.returncode != 0 or bad.stderr  # so it does judge


@pytest.mark.parametrize("python", ["/opt/python3", "/home/a b/50%/python3"])
def test_the_unit_runs_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    monkeypatch.setattr(sys, "executable", python)
    text = SystemdUnit(tmp_path).text(tmp_path / "st%ate dir")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%"))
    assert words[:6] == [python, "-m", "tradepost", "worker", "run", "--state-dir"]
    assert '/st%%ate dir"' in line


#: Keys and their types, as launchd.plist(5) has them; launchd ignores those that it does not know.
LAUNCHD_KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ProcessType": str,
    "Umask": int,
    "StandardErrorPath": str,
}


def test_the_unit_asks_for_a_control_group_to_divide(tmp_path: Path) -> None:
    assert "Delegate=memory pids" in SystemdUnit(tmp_path).text(tmp_path).splitlines()


def test_the_property_list_says_the_same(tmp_path: Path) -> None:
    agent = LaunchdAgent(tmp_path)
    facts = plistlib.loads(agent.text(tmp_path / "a folder & <more>").encode())
    assert {key: type(value) for key, value in facts.items()} == LAUNCHD_KEYS
    assert facts["Label"] == agent.path.stem
    assert facts["ProgramArguments"] == worker_command(tmp_path / "a folder & <more>")
    assert Path(facts["ProgramArguments"][0]).is_absolute()
    assert facts["RunAtLoad"] is True
    assert facts["KeepAlive"] == {"SuccessfulExit": False}
    assert facts["ProcessType"] == "Background"
    assert facts["Umask"] == 0o077
    assert str(tmp_path / "a folder & <more>" / "worker.log") == facts["StandardErrorPath"]


@pytest.mark.process
@pytest.mark.parametrize("kind", [SystemdUnit, LaunchdAgent])
def test_installing_writes_one_file_and_removing_takes_it(
    tmp_path: Path, kind: type[SystemdUnit] | type[LaunchdAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = kind(tmp_path)
    monkeypatch.setattr(kind, "stop_commands", lambda _: [[str(tmp_path / "no-such-command")]])
    monkeypatch.setattr(kind, "needs_session", lambda _: "")
    assert install(service, tmp_path / "state", start=False) == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [service.path]
    for link in service.links():  # as enabling made it
        link.parent.mkdir(parents=True)
        link.symlink_to(service.path)
    assert "no-such-command" in remove(service)
    assert remove(service) == ""
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("kind", [SystemdUnit, LaunchdAgent])
def test_a_service_is_known_by_its_state_folder(
    tmp_path: Path, kind: type[SystemdUnit] | type[LaunchdAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = kind(tmp_path)
    state_dir = tmp_path / 'a folder with 100% "quotes"'
    install(service, state_dir, start=False)
    monkeypatch.setattr(sys, "executable", "/another/python")  # upgraded, say: it is still this worker's
    assert service.is_for(state_dir)
    assert not service.is_for(tmp_path)


@pytest.mark.process
def test_the_first_command_that_fails_is_what_is_complained_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    fails = ["sh", "-c", "echo no bus in $XDG_RUNTIME_DIR >&2; exit 1"]
    commands = [["true"], fails, ["touch", str(tmp_path / "went-on")]]
    monkeypatch.setattr(SystemdUnit, "start_commands", lambda _: commands)
    complaint = install(SystemdUnit(tmp_path), tmp_path, start=True)
    assert complaint.endswith(f"no bus in /run/user/{os.getuid()}")
    assert not (tmp_path / "went-on").exists()


def test_a_user_without_a_session_is_told_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    unit = SystemdUnit(tmp_path)
    assert "tradepost worker service install" in unit.needs_session()
    install(unit, tmp_path, start=False)
    assert remove(unit) == ""  # nothing can run, so there is nothing to complain of
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    assert SystemdUnit(tmp_path).needs_session() == ""


def test_linger_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "lingers", lambda: False)
    assert SystemdUnit(tmp_path).needs_root() == f"sudo loginctl enable-linger {user_name()}"
    monkeypatch.setattr(service_module, "lingers", lambda: True)
    assert SystemdUnit(tmp_path).needs_root() == ""
    assert LaunchdAgent(tmp_path).needs_root() == ""


def test_a_user_without_a_home_has_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert installed_service() is None
    with pytest.raises(NoServiceManager, match="no home folder"):
        service_here()


def test_a_system_without_a_service_manager_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(NoServiceManager, match="neither systemd nor launchd") as caught:
        service_here()
    assert "tradepost worker run" in caught.value.hint


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A folder with everything that a worker leaves in it."""
    state = StateFolder(tmp_path / "state")
    state.identity()
    state.join(MEMBERSHIP)
    OwnerCommandFile(state.owner_command).write(OwnerCommand(mode=Mode.PAUSE))
    with state.in_use():
        state.set_connected(True)
    (state.blocks / "ab").mkdir(parents=True)
    (state.blocks / "ab" / "block").write_bytes(bytes(1000))
    CompileCache(state.compiled, bytes_max=1 << 20)
    Outbox(state.database).close()
    for name in ("worker.toml", "trust.toml", ".new-x1", "speed.json", "standing.json", "worker.log"):
        (state.path / name).touch()
    revocations = state.revocations("operator")
    for path in (revocations, bundle_path(revocations)):
        path.touch()
    return state


def test_a_service_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / ".config").touch()
    with pytest.raises(FileNotWritten, match=r"config is not a folder"):
        install(SystemdUnit(tmp_path), tmp_path, start=False)


def test_uninstalling_leaves_nothing(state: StateFolder) -> None:
    check_stopped(state)
    check_nothing_lost(state, discard=False)
    removed = remove_state(state)
    assert not state.path.exists()
    assert removed.left == ()
    assert removed.freed_bytes > 1000
    assert str(state.path / "worker.key") in removed.paths
    assert remove_state(state).paths == ()


@pytest.mark.parametrize("is_shared", [False, True])
def test_uninstalling_the_default_folder_takes_the_programs_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    state = StateFolder(default_state_dir())
    state.identity()
    if is_shared:
        (tmp_path / "tradepost" / "broker").mkdir()
    remove_state(state)
    assert [path.name for path in tmp_path.rglob("*")] == (["tradepost", "broker"] if is_shared else [])


def test_uninstalling_touches_nothing_that_is_not_the_workers(state: StateFolder, tmp_path: Path) -> None:
    (state.path / "diary.txt").write_text("mine")
    shutil.rmtree(state.blocks)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo").touch()
    state.blocks.symlink_to(tmp_path / "elsewhere")
    assert remove_state(state).left == (str(state.path / "diary.txt"),)
    assert (state.path / "diary.txt").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "photo").exists()


def test_a_running_worker_is_not_uninstalled(state: StateFolder) -> None:
    with state.in_use(), pytest.raises(WrongMoment, match="a worker is running"):
        check_stopped(state)


async def test_results_are_not_lost_unasked(state: StateFolder) -> None:
    outbox = Outbox(state.database)
    outbox.add(give_back("lease", RunnerFailed("x"), GiveBackReason.FAILED))
    await outbox.flush()
    outbox.close()
    with pytest.raises(WrongMoment, match="without payment"):
        check_nothing_lost(state, discard=False)
    check_nothing_lost(state, discard=True)
