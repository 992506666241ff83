"""Control groups, in a folder laid out like the cgroup file system; what only a kernel does is not shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tradepost.errors import InvalidKernel, PipelineTooCostly, SandboxUnavailable
from tradepost_worker.commands.health_checks import Health, check_control_groups
from tradepost_worker.runner.lockdown import Isolation
from tradepost_worker.supervision import control_group
from tradepost_worker.supervision.control_group import ControlGroup, ControlGroups, own_control_group, why_not
from tradepost_worker.supervision.runner_policy import MEMORY_OVERHEAD_BYTES
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.samples import kernel_pipeline

MADE = {
    "cgroup.procs": "",
    "cgroup.kill": "",
    "memory.current": "1000",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n",
    "memory.max": "max",
    "memory.oom.group": "0",
    "memory.swap.max": "max",
    "pids.max": "max",
}
BARE = Isolation(achieved=("process",), refused={"landlock": "old"})


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The group of a service that has it to itself. What is made in it gets files, as the kernel does it."""

    def make(path: Path) -> None:
        path.mkdir(exist_ok=True)
        for name, text in MADE.items():
            (path / name).write_text(text)

    monkeypatch.setattr(control_group, "_make", make)
    monkeypatch.setattr(control_group, "_remove", lambda path, _: shutil.rmtree(path))
    base = tmp_path / "tradepost-worker.service"
    base.mkdir()
    for name, text in {
        "cgroup.controllers": "cpu memory pids\n",
        "cgroup.procs": f"{os.getpid()}\n",
        "cgroup.subtree_control": "",
        "cgroup.type": "domain\n",
    }.items():
        (base / name).write_text(text)
    return base


def mountinfo(*mounts: tuple[str, str, str]) -> str:
    return "".join(
        f"{41 + n} 31 0:38 {root} {place} rw,relatime shared:9 - {kind} {kind} rw\n"
        for n, (root, place, kind) in enumerate(mounts)
    )


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        (
            "0::/user.slice/x.service\n",
            [("/", "/sys/fs/cgroup", "cgroup2")],
            "/sys/fs/cgroup/user.slice/x.service",
        ),
        (
            "2:cpu:/a\n0::/b\n",
            [("/", "/sys/fs/cgroup/cpu", "cgroup"), ("/", "/sys/fs/cgroup/unified", "cgroup2")],
            "/sys/fs/cgroup/unified/b",
        ),
        ("0::/docker/1/x\n", [("/docker/1", "/sys/fs/cgroup", "cgroup2")], "/sys/fs/cgroup/x"),
        ("0::/\n", [("/", "/sys/fs/cgroup", "cgroup2")], "/sys/fs/cgroup"),
    ],
    ids=["v2", "hybrid", "below", "root"],
)
def test_the_own_group_is_found(
    tmp_path: Path, groups: str, mounts: list[tuple[str, str, str]], expected: str
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mountinfo(*mounts))
    assert own_control_group(tmp_path) == Path(expected)


@pytest.mark.parametrize(
    ("groups", "mounts", "why"),
    [
        ("4:memory:/\n", [("/", "/sys/fs/cgroup/memory", "cgroup")], "version 1 only"),
        ("0::/a\n", [("/", "/", "ext4")], "no mounted cgroup2"),
        ("0::/a\n", [("/b", "/sys/fs/cgroup", "cgroup2")], "no mounted cgroup2"),
        ("0::/../a\n", [("/", "/sys/fs/cgroup", "cgroup2")], "no mounted cgroup2"),
    ],
)
def test_there_may_be_no_group(
    tmp_path: Path, groups: str, mounts: list[tuple[str, str, str]], why: str
) -> None:
    with pytest.raises(Exception, match="no control groups"):
        own_control_group(tmp_path)
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mountinfo(*mounts))
    with pytest.raises(Exception, match=why):
        own_control_group(tmp_path)


def test_a_group_of_its_own_is_divided(base: Path) -> None:
    assert why_not(base) == ""
    groups = ControlGroups.open(threads=2, own=base)
    assert groups.refused == ""
    assert (base / "agent" / "cgroup.procs").read_text() == str(os.getpid()), "it is in a leaf"
    assert (base / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert not (base / "probe").exists()
    assert groups.seen_in(BARE).achieved == ("process", "cgroup")
    again = ControlGroups.open(own=base / "agent")
    assert again.refused == "", "a worker that starts again in the leaf finds the group above"


def test_what_a_killed_agent_left_is_swept(base: Path) -> None:
    ControlGroups.open(own=base).admit(1234)
    (base / "of-another").mkdir()
    assert (base / "runner-1234").exists()
    assert ControlGroups.open(own=base).refused == ""
    assert not (base / "runner-1234").exists()
    assert (base / "of-another").exists()


def test_a_runner_gets_its_limits(base: Path) -> None:
    group = ControlGroups.open(threads=2, own=base).admit(os.getpid())
    assert group is not None
    assert group.path.parent == base
    group.allow_memory(5000)
    written = {name: (group.path / name).read_text() for name in MADE}
    assert written == MADE | {
        "cgroup.procs": str(os.getpid()),
        "memory.max": "6000",
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "128",
    }
    assert not group.ran_out_of_memory()
    group.kill()
    assert (group.path / "cgroup.kill").read_text() == "1"
    group.remove()
    group.remove()
    group.kill()
    assert not group.path.exists()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("cgroup.controllers", "cpu pids", "controllers memory are not delegated"),
        ("cgroup.controllers", "", "controllers memory, pids are not delegated"),
        ("cgroup.procs", "1\n", "1 other processes"),
        ("cgroup.procs", "0\n0\n", "2 other processes"),
        ("cgroup.type", None, "root of all control groups"),
    ],
)
def test_a_group_that_is_not_its_own_is_left_alone(base: Path, name: str, text: str | None, why: str) -> None:
    (base / name).unlink() if text is None else (base / name).write_text(text)
    before = sorted(base.iterdir())
    groups = ControlGroups.open(own=base)
    assert why in groups.refused
    assert groups.refused == why_not(base)
    assert sorted(base.iterdir()) == before
    assert groups.admit(os.getpid()) is None
    seen = groups.seen_in(BARE)
    assert seen.achieved == BARE.achieved
    assert seen.refused == {"landlock": "old", "cgroup": groups.refused}


def test_an_old_kernel_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MADE, "cgroup.kill")
    assert ControlGroups.open(own=base).refused == "this kernel's control groups do not have cgroup.kill"


def test_a_group_that_cannot_be_made_is_no_silent_loss(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ControlGroups.open(own=base)

    def full(path: Path) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(control_group, "_make", full)
    with pytest.raises(SandboxUnavailable, match="cannot be created"):
        groups.admit(os.getpid())


@pytest.mark.process
async def test_a_runner_is_in_its_group_until_its_end(base: Path) -> None:
    pipeline = kernel_pipeline(b"\0asm")
    runner = await RunnerProcess.start(groups=ControlGroups.open(own=base))
    try:
        path = base / f"runner-{runner.pid}"
        assert runner.ready.isolation.achieved[-1] == "cgroup"
        assert (path / "cgroup.procs").read_text() == str(runner.pid)
        with pytest.raises(InvalidKernel):
            await runner.load(
                pipeline.manifest, pipeline.artifacts, memory_bytes_max=1 << 20, output_bytes_max=1 << 20
            )
        assert (path / "memory.max").read_text() == str(1000 + (1 << 20) + MEMORY_OVERHEAD_BYTES)
    finally:
        await runner.close()
    assert not path.exists()


@pytest.mark.process
async def test_a_runner_that_ran_out_of_memory_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = kernel_pipeline(b"\0asm")
    monkeypatch.setitem(MADE, "memory.events", "oom_kill 1\n")
    boot = (
        "import json, os, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from tradepost_worker.runner import main\n"
        "main.Runner.answer = lambda *_: os.kill(os.getpid(), 9)\n"
        "main.main(int(sys.argv[2]), int(sys.argv[3]))"
    )
    runner = await RunnerProcess.start(boot=boot, groups=ControlGroups.open(own=base))
    try:
        with pytest.raises(PipelineTooCostly, match="killed the runner at its memory limit"):
            await runner.load(
                pipeline.manifest, pipeline.artifacts, memory_bytes_max=1 << 20, output_bytes_max=1 << 20
            )
    finally:
        await runner.close()


@pytest.mark.process
async def test_a_runner_without_a_group_does_not_start(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ControlGroups.open(own=base)
    shutil.rmtree(base)
    with pytest.raises(SandboxUnavailable):
        await RunnerProcess.start(groups=groups)


def test_the_doctor_names_the_fix() -> None:
    assert check_control_groups(held=True, why_not="x").health is Health.OK
    assert check_control_groups(held=False, why_not="").health is Health.OK
    found = check_control_groups(held=False, why_not="there are none")
    assert found.health is Health.WARNING
    assert "there are none" in found.says
    assert found.fix


def test_a_group_that_is_gone_is_no_error(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path / "gone")
    group.kill()
    group.remove()
    assert not group.ran_out_of_memory()
    with pytest.raises(SandboxUnavailable):
        group.allow_memory(1)
