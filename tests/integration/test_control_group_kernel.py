"""What the kernel does with a control group, where a cgroup2 file system may be written: members, the kill.

Limits need the memory controller, which a machine with control groups of both versions may have in version 1
only; what is written for them is tested in a folder laid out alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.supervision import control_group
from tradepost_worker.supervision.control_group import ControlGroup, ControlGroups
from tradepost_worker.supervision.runner_process import RunnerProcess

#: Starts a child in a session of its own, which a signal to the process group does not reach.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
input()
"""


def _mount() -> Path | None:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    return next((Path(line.split()[1]) for line in mounts if line.split()[2] == "cgroup2"), None)


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    mount = _mount()
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no cgroup2 file system that may be written")
    path = mount / f"tradepost-test-{os.getpid()}"
    path.mkdir()
    group = ControlGroup(path)
    try:
        yield group
    finally:
        group.kill()
        group.remove()


class OneGroup(ControlGroups):
    """Gives this group to the runner, without limits."""

    def __init__(self, group: ControlGroup) -> None:
        super().__init__(group.path)
        self.group = group

    def admit(self, pid: int) -> ControlGroup:
        self.group.add(pid)
        return self.group

    def seen_in(self, isolation: Isolation) -> Isolation:
        return isolation


def members(group: ControlGroup) -> list[int]:
    return [int(line) for line in (group.path / "cgroup.procs").read_text().split()]


def test_the_kill_reaches_who_left_the_process_group(group: ControlGroup) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        for pid in (parent.pid, child.pid):
            group.add(pid)
        assert sorted(members(group)) == sorted([parent.pid, child.pid])
        assert os.getpgid(child.pid) != os.getpgid(parent.pid)
        group.kill()
        parent.wait(timeout=60)
        psutil.wait_procs([child], timeout=60)
    assert members(group) == []
    group.remove()
    assert not group.path.exists()


@pytest.fixture
def lively(group: ControlGroup) -> Iterator[ControlGroup]:
    """What a killed agent left below its group: the group of a runner in which a process still lives."""
    left = ControlGroup(group.path / "runner-1234")
    left.path.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        left.add(process.pid)
        yield left
        left.kill()
        process.wait(timeout=60)
    left.remove()


def test_a_group_whose_processes_still_end_is_removed_once_they_have(lively: ControlGroup) -> None:
    assert members(lively)
    lively.kill()
    lively.remove()
    assert not lively.path.exists()


def test_a_group_that_outlives_the_wait_stays(lively: ControlGroup) -> None:
    lively.remove(end_s=0.01)
    assert members(lively)


def test_what_a_killed_agent_left_is_swept_with_all_that_lives_in_it(lively: ControlGroup) -> None:
    control_group.sweep(lively.path.parent)
    assert not lively.path.exists()


def test_a_process_that_has_ended_is_not_added(group: ControlGroup) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    group.add(process.pid)
    assert members(group) == []


async def test_a_runner_lives_and_ends_in_its_group(group: ControlGroup) -> None:
    runner = await RunnerProcess.start(groups=OneGroup(group))
    try:
        assert members(group) == [runner.pid]
        assert f"/{group.path.name}" in Path(f"/proc/{runner.pid}/cgroup").read_text()  # noqa: ASYNC240
    finally:
        await runner.close()
    assert not group.path.exists()
