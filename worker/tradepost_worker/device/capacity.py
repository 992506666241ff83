"""What this device has for the worker: its memory and cores, or less where a control group limits them.

A container has the limits of control groups, of version 1 or 2; inside one, psutil shows the whole machine.
A group's limits hold for all groups below it, so those of every ancestor count, as far as they can be seen.
Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`; proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

_PROC: Final = Path("/proc/self")
_MEMORY: Final = "memory"
_CPU: Final = "cpu"


class DeviceCapacity:
    """The memory and cores that this process may use. `proc` is its folder in the proc file system."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._memory_groups = tuple(_memory_groups(proc))
        self._cpu_groups = tuple(_cpu_groups(proc))

    @property
    def memory_bytes(self) -> int:
        """All memory that could be used here."""
        limits = (group.limit_bytes() for group in self._memory_groups)
        return min((psutil.virtual_memory().total, *(limit for limit in limits if limit is not None)))

    @property
    def memory_free_bytes(self) -> int:
        """The memory that could be used without swapping, or being killed for it."""
        free = (group.free_bytes() for group in self._memory_groups)
        return min((psutil.virtual_memory().available, *(each for each in free if each is not None)))

    @property
    def cores(self) -> int:
        """The cores that this process may use; of a quota, the whole ones, at least one."""
        quotas = (group.cores() for group in self._cpu_groups)
        return max(1, int(min((schedulable_cores(), *(quota for quota in quotas if quota is not None)))))

    @property
    def is_limited(self) -> bool:
        """Whether control groups allow less than the machine has."""
        has_less_memory = self.memory_bytes < psutil.virtual_memory().total
        return has_less_memory or self.cores < schedulable_cores()


def schedulable_cores() -> int:
    """The processor cores on which this process may be scheduled."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _MemoryGroup:
    """The memory controller's files in one group: its limits, its use, and what of that can be reclaimed."""

    def __init__(self, path: Path, *, limits: tuple[str, ...], used: str, reclaimable: str) -> None:
        self._path = path
        self._limits = limits
        self._used = used
        self._reclaimable = reclaimable

    def limit_bytes(self) -> int | None:
        found = (_number(self._path / name) for name in self._limits)
        return min((limit for limit in found if limit is not None), default=None)

    def free_bytes(self) -> int | None:
        limit, used = self.limit_bytes(), _number(self._path / self._used)
        if limit is None or used is None:
            return None
        return max(0, limit - max(0, used - _statistic(self._path / "memory.stat", self._reclaimable)))


class _CpuGroup:
    """The processor controller's quota in one group."""

    def __init__(self, path: Path, *, is_v2: bool) -> None:
        self._path = path
        self._is_v2 = is_v2

    def cores(self) -> float | None:
        if self._is_v2:
            quota, _, period = _text(self._path / "cpu.max").partition(" ")
        else:
            quota, period = (_text(self._path / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        try:
            cores = int(quota) / int(period)
        except (ValueError, ZeroDivisionError):  # "max", or there is no such file
            return None
        return cores if cores > 0 else None  # -1 is no quota in version 1


def _memory_groups(proc: Path) -> Iterator[_MemoryGroup]:
    for path in control_group_ancestry(None, proc):
        yield _MemoryGroup(
            path, limits=("memory.max", "memory.high"), used="memory.current", reclaimable="inactive_file"
        )
    for path in control_group_ancestry(_MEMORY, proc):
        yield _MemoryGroup(
            path,
            limits=("memory.limit_in_bytes",),
            used="memory.usage_in_bytes",
            reclaimable="total_inactive_file",
        )


def _cpu_groups(proc: Path) -> Iterator[_CpuGroup]:
    for controller in (None, _CPU):
        for path in control_group_ancestry(controller, proc):
            yield _CpuGroup(path, is_v2=controller is None)


def control_group_ancestry(controller: str | None, proc: Path = _PROC) -> list[Path]:
    """The folders of this process's group and of those above it, as far as they are mounted.

    `controller` is one of version 1; `None` asks for version 2.
    """
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or no proc file system
        return []
    name = _group_name(groups, controller)
    if name is None:
        return []
    for root, mountpoint in _mounts(mounts, controller):
        # A container may see the name of its group outside, while its own group is what is mounted.
        is_below = name.is_relative_to(root) and ".." not in name.parts
        below = name.relative_to(root) if is_below else PurePosixPath()
        return [mountpoint / part for part in (below, *below.parents)]
    return []


def _group_name(groups: Iterable[str], controller: str | None) -> PurePosixPath | None:
    """The group in lines of `/proc/self/cgroup`: "ID:CONTROLLERS:PATH"; version 2 has no controllers."""
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "" if controller is None else controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _mounts(mounts: Iterable[str], controller: str | None) -> Iterator[tuple[PurePosixPath, Path]]:
    """Root and mount point of the control group file systems in lines of `/proc/self/mountinfo`."""
    for mount in mounts:
        # "ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS ...] - TYPE SOURCE OPTIONS"
        place, _, kind = mount.partition(" - ")
        fields, kinds = place.split(), kind.split()
        if controller is None:
            is_it = kinds[0] == "cgroup2"
        else:
            is_it = kinds[0] == "cgroup" and controller in kinds[-1].split(",")
        if is_it:
            yield PurePosixPath(fields[3]), Path(fields[4])


def _number(path: Path) -> int | None:
    """The number in a file; `None` for "max", or where there is no such file."""
    try:
        return int(_text(path))
    except ValueError:
        return None


def _statistic(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
