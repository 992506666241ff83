"""The service's file, and what taking the worker off a device removes."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tradepost.errors import InvalidRequest, RunnerFailed
from tradepost.protocol import GiveBackReason
from tradepost_worker.compile_cache import CompileCache
from tradepost_worker.lease_work import give_back
from tradepost_worker.outbox import Outbox
from tradepost_worker.owner_word import Mode, OwnersWord, OwnersWordFile
from tradepost_worker.service import LaunchdAgent, Service, SystemdUnit, install, remove, worker_command
from tradepost_worker.state import Membership, StateFolder
from tradepost_worker.uninstalling import check_nothing_lost, check_stopped, remove_state

MEMBERSHIP = Membership(
    broker_url="https://b", broker="b", worker="w", owner="o", device="d", stake_microcredits=1
)


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


def test_the_unit_runs_this_python(tmp_path: Path) -> None:
    text = SystemdUnit(tmp_path).text(tmp_path / "st%ate dir")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.startswith(f"ExecStart={sys.executable} -m tradepost worker run --state-dir ")
    assert '/st%%ate dir"' in line


def test_the_unit_asks_for_a_control_group_to_divide(tmp_path: Path) -> None:
    assert "Delegate=memory pids" in SystemdUnit(tmp_path).text(tmp_path).splitlines()


def test_the_property_list_says_the_same(tmp_path: Path) -> None:
    facts = plistlib.loads(LaunchdAgent(tmp_path).text(tmp_path).encode())
    assert facts["ProgramArguments"] == worker_command(tmp_path)
    assert facts["KeepAlive"] == {"SuccessfulExit": False}
    assert facts["Umask"] == 0o077


@pytest.mark.parametrize("kind", [SystemdUnit, LaunchdAgent])
def test_installing_writes_one_file_and_removing_takes_it(
    tmp_path: Path, kind: type[SystemdUnit] | type[LaunchdAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = kind(tmp_path)
    monkeypatch.setattr(kind, "stop_commands", lambda _: [["false"], [str(tmp_path / "no-such-command")]])
    assert install(service, tmp_path / "state", start=False) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [service.path]
    assert len(remove(service)) == 2
    assert remove(service) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A folder with everything that a worker leaves in it."""
    state = StateFolder(tmp_path / "state")
    state.identity()
    state.join(MEMBERSHIP)
    OwnersWordFile(state.owners_word).say(OwnersWord(mode=Mode.PAUSE))
    with state.in_use():
        state.set_connected(True)
    (state.blocks / "ab").mkdir(parents=True)
    (state.blocks / "ab" / "block").write_bytes(bytes(1000))
    CompileCache(state.compiled, bytes_max=1 << 20)
    Outbox(state.database).close()
    for name in ("worker.toml", "trust.toml", "speed.json", "standing.json", "revocations-abc.json"):
        (state.path / name).touch()
    return state


def test_uninstalling_leaves_nothing(state: StateFolder) -> None:
    check_stopped(state)
    check_nothing_lost(state, discard=False)
    removed = remove_state(state)
    assert not state.path.exists()
    assert removed.left == ()
    assert removed.freed_bytes > 1000
    assert str(state.path / "worker.key") in removed.paths
    assert remove_state(state).paths == ()


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
    with state.in_use(), pytest.raises(InvalidRequest, match="runs from"):
        check_stopped(state)


async def test_results_are_not_lost_unasked(state: StateFolder) -> None:
    outbox = Outbox(state.database)
    outbox.add(give_back("lease", RunnerFailed("x"), GiveBackReason.FAILED))
    await outbox.flush()
    outbox.close()
    with pytest.raises(InvalidRequest, match="unpaid"):
        check_nothing_lost(state, discard=False)
    check_nothing_lost(state, discard=True)
