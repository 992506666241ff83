"""Puts each runner into a control group of its own (cgroup v2), if the system delegates one to this worker.

The kernel then enforces what is otherwise only looked at from time to time: memory, without swap, and the
number of tasks; and it kills a runner with all that it may have started, whatever session that is in.

A group may be divided only by the one to whom it was delegated, and processes and limited children do not go
together in one group. So the worker uses the group in which it runs if it is alone there, as a service with
`Delegate=` is: it moves itself to the child `agent`, and each runner gets a child beside that.
Source: Linux, `Documentation/admin-guide/cgroup-v2.rst`.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import psutil

from tradepost.errors import SandboxUnavailable
from tradepost.pipeline.manifest import STAGES_MAX
from tradepost_worker.runner.lockdown import Isolation

LAYER: Final = "cgroup"
_AGENT: Final = "agent"
_PROBE: Final = "probe"
_RUNNER: Final = "runner-"
_CONTROLLERS: Final = ("memory", "pids")
#: How long the end of a process that was killed may take: it gives back gigabytes of memory first.
END_S: Final = 2.0
#: Tasks that a runner has besides its inference threads; far more than it starts.
_TASKS_OTHER_MAX: Final = 64


def tasks_max(threads: int) -> int:
    """How many tasks a runner may have if a model may use this many `threads`. Each model of a pipeline has
    threads of its own; a runner that is refused one would blame the model."""
    return _TASKS_OTHER_MAX + threads * STAGES_MAX


class _Unavailable(Exception):
    """Why there are no control groups, in words."""


class ControlGroup:
    """The group of one runner, at `path` in the cgroup file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        """Move a process here; nothing happens to one that has ended."""
        with suppress(ProcessLookupError):
            self._write("cgroup.procs", str(pid))

    def restrict(self, *, tasks_max: int) -> None:
        """No swap, at most this many tasks, and one that is out of memory takes the others with it."""
        self._write("memory.max", "max")  # until it is known what it loads
        self._write("memory.oom.group", "1")
        self._write("pids.max", str(tasks_max))
        if (self.path / "memory.swap.max").exists():  # absent from a kernel without swap
            self._write("memory.swap.max", "0")

    def allow_memory(self, more_bytes: int) -> None:
        """Let the group use this much more memory than it does now. Raises `SandboxUnavailable`."""
        try:
            used_bytes = int((self.path / "memory.current").read_text())
            self._write("memory.max", str(used_bytes + more_bytes))
        except OSError as error:
            raise SandboxUnavailable(f"a runner's memory cannot be limited: {error}") from error

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it at its limit."""
        try:
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        except OSError:  # it has been removed
            return False
        return events.get("oom_kill", "0") != "0"

    def kill(self) -> None:
        """Kill every process in it."""
        with suppress(FileNotFoundError):  # it has been removed
            self._write("cgroup.kill", "1")

    def remove(self, *, end_s: float = END_S) -> None:
        """Remove the group, once the processes in it that were killed have ended.

        It waits at most `end_s` seconds for that.
        """
        with suppress(FileNotFoundError):
            _remove(self.path, end_s)

    def _write(self, name: str, value: str) -> None:
        (self.path / name).write_text(value)


class ControlGroups:
    """The control groups of this worker's runners. `refused` says why there are none; empty if there are."""

    def __init__(self, base: Path | None, *, refused: str = "", tasks_max: int = _TASKS_OTHER_MAX) -> None:
        self._base = base
        self.refused = refused
        self._tasks_max = tasks_max

    @classmethod
    def open(cls, *, threads: int = 1, own: Path | None = None) -> ControlGroups:
        """Divide the group in which this process runs, `own` if that is known, if that is allowed.

        `threads` is how many a model may use in a runner.
        """
        try:
            base = _base(own or own_control_group())
            _require_divisible(base)
            _divide(base)
        except (_Unavailable, OSError) as error:
            return cls(None, refused=str(error))
        return cls(base, tasks_max=tasks_max(threads))

    def admit(self, pid: int) -> ControlGroup | None:
        """A group for the runner `pid`, which has just started; `None` where there are none.

        Raises `SandboxUnavailable` if the system gives none any more.
        """
        if self._base is None:
            return None
        group = ControlGroup(self._base / f"{_RUNNER}{pid}")
        try:
            _make(group.path)
            group.restrict(tasks_max=self._tasks_max)
            group.add(pid)
        except OSError as error:
            raise SandboxUnavailable(f"a control group for a runner cannot be created: {error}") from error
        return group

    def seen_in(self, isolation: Isolation) -> Isolation:
        """What a runner says of its isolation, and this layer beside it."""
        if self.refused:
            return msgspec.structs.replace(isolation, refused={**isolation.refused, LAYER: self.refused})
        return msgspec.structs.replace(isolation, achieved=(*isolation.achieved, LAYER))


def why_not(own: Path | None = None) -> str:
    """Why this process could not have control groups; empty if it could. It changes nothing."""
    try:
        _require_divisible(_base(own or own_control_group()))
    except (_Unavailable, OSError) as error:
        return str(error)
    return ""


def own_control_group(proc: Path = Path("/proc/self")) -> Path:
    """The folder of the control group (v2) of this process. Raises `_Unavailable`."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError as error:
        raise _Unavailable(f"this system has no control groups: {error.strerror}") from None
    name = next((line[3:] for line in groups if line.startswith("0::")), None)
    if name is None:
        raise _Unavailable("this system has control groups of version 1 only")
    for mount in mounts:
        # "ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS ...] - TYPE SOURCE OPTIONS"; see proc(5).
        place, _, kind = mount.partition(" - ")
        root, mountpoint = place.split()[3:5]
        is_below = PurePosixPath(name).is_relative_to(root) and ".." not in PurePosixPath(name).parts
        if kind.startswith("cgroup2 ") and is_below:
            return Path(mountpoint) / PurePosixPath(name).relative_to(root)
    raise _Unavailable("no mounted cgroup2 file system contains this process's control group")


def _base(own: Path) -> Path:
    """The group to divide: a process that was started before, or systemd, may have moved this one already."""
    return own.parent if own.name == _AGENT else own


def _require_divisible(base: Path) -> None:
    controllers = (base / "cgroup.controllers").read_text().split()
    if missing := [name for name in _CONTROLLERS if name not in controllers]:
        raise _Unavailable(f"the controllers {', '.join(missing)} are not delegated to {base}")
    if not (base / "cgroup.type").exists():
        raise _Unavailable(f"{base} is the root of all control groups")
    if not os.access(base / "cgroup.subtree_control", os.W_OK):
        raise _Unavailable(f"{base} is not delegated to this user")
    this = psutil.Process()
    family = {this.pid, *(child.pid for child in this.children(recursive=True))}
    if strangers := [pid for pid in _pids(base) if pid not in family]:
        raise _Unavailable(
            f"{len(strangers)} other processes are in {base}; a service has a control group of its own"
        )


def sweep(base: Path) -> None:
    """End what an agent that was killed left below `base`."""
    for path in base.glob(f"{_RUNNER}*"):
        left = ControlGroup(path)
        left.kill()
        left.remove()


def _divide(base: Path) -> None:
    sweep(base)
    agent = ControlGroup(base / _AGENT)
    _make(agent.path)
    for pid in _pids(base):
        agent.add(pid)
    enabled = " ".join(f"+{name}" for name in _CONTROLLERS)
    (base / "cgroup.subtree_control").write_text(enabled)
    probe = ControlGroup(base / _PROBE)
    _make(probe.path)
    try:
        lacking = [
            name
            for name in ("memory.max", "memory.oom.group", "pids.max", "cgroup.kill")
            if not (probe.path / name).exists()
        ]
    finally:
        probe.remove()
    if lacking:
        raise _Unavailable(f"this kernel's control groups do not have {', '.join(lacking)}")


def _pids(group: Path) -> list[int]:
    return [int(line) for line in (group / "cgroup.procs").read_text().split()]


def _make(path: Path) -> None:
    path.mkdir(mode=0o755, exist_ok=True)  # one that was left behind is as good


def _remove(path: Path, end_s: float) -> None:
    with (path / "cgroup.events").open() as events:
        if "populated 1" in events.read():  # a process that was killed may not be gone yet
            emptied = select.poll()
            emptied.register(events, select.POLLPRI)
            emptied.poll(end_s * 1000)
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:  # else the next start sweeps it
            raise
