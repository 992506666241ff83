"""A device is as large as its control groups allow, of version 1 and 2, laid out as containers see them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tradepost_worker.device.capacity import DeviceCapacity, schedulable_cores

MIB = 1 << 20


class FakeSystem:
    """A proc folder, and control group file systems mounted below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self._groups: list[str] = []
        self._mounts: list[str] = ["23 1 8:1 / / rw - ext4 /dev/sda1 rw"]

    def join(self, path: str, controllers: str = "", *, mounted: str = "/") -> None:
        """Put the process into a group of these controllers (version 1; else version 2)."""
        number = len(self._mounts) if controllers else 0
        self._groups.append(f"{number}:{controllers}:{path}")
        kind = "cgroup" if controllers else "cgroup2"
        options = f"rw,{controllers}" if controllers else "rw"
        self._mounts.append(
            f"3{number} 23 0:3{number} {mounted} {self.mount(controllers)} rw - {kind} {kind} {options}"
        )
        (self.proc / "cgroup").write_text("".join(f"{line}\n" for line in self._groups))
        (self.proc / "mountinfo").write_text("".join(f"{line}\n" for line in self._mounts))

    def mount(self, controllers: str = "") -> Path:
        return self.root / (controllers or "unified")

    def write(self, folder: str, controllers: str = "", **files: object) -> None:
        """Give a group's files their content; `__` in a name stands for its point."""
        path = self.mount(controllers) / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name.replace("__", ".")).write_text(f"{text}\n")

    @property
    def capacity(self) -> DeviceCapacity:
        return DeviceCapacity(self.proc)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_without_control_groups_the_device_is_the_machine(system: FakeSystem) -> None:
    capacity = system.capacity
    assert capacity.memory_bytes == psutil.virtual_memory().total
    assert capacity.cores == schedulable_cores()
    assert not capacity.is_limited


def test_limits_of_version_2(system: FakeSystem) -> None:
    system.join("/")
    system.write(
        "", memory__max=512 * MIB, memory__high="max", memory__current=300 * MIB, cpu__max="100000 100000"
    )
    system.write("", memory__stat=f"anon {200 * MIB}\ninactive_file {60 * MIB}\nactive_file 1")
    assert system.capacity.memory_bytes == 512 * MIB
    assert system.capacity.memory_free_bytes == (512 - 300 + 60) * MIB
    assert system.capacity.cores == 1
    assert system.capacity.is_limited


def test_limits_of_version_1(system: FakeSystem) -> None:
    system.join("/", "memory")
    system.join("/", "cpu,cpuacct")
    system.write("", "memory", memory__limit_in_bytes=512 * MIB, memory__usage_in_bytes=500 * MIB)
    system.write("", "memory", memory__stat=f"inactive_file 7\ntotal_inactive_file {100 * MIB}")
    system.write("", "cpu,cpuacct", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert system.capacity.memory_bytes == 512 * MIB
    assert system.capacity.memory_free_bytes == 112 * MIB
    assert system.capacity.cores == 1  # a half is not none


def test_no_limit_is_no_limit(system: FakeSystem) -> None:
    system.join("/")
    system.join("/", "memory")
    system.join("/", "cpu")
    system.write("", memory__max="max", memory__high="max", memory__current=5, cpu__max="max 100000")
    system.write("", "memory", memory__limit_in_bytes=(1 << 63) - 4096, memory__usage_in_bytes=5)
    system.write("", "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    assert not system.capacity.is_limited


@pytest.mark.parametrize("controllers", ["", "memory"])
def test_the_least_limit_of_all_groups_above_counts(system: FakeSystem, controllers: str) -> None:
    name = "memory__limit_in_bytes" if controllers else "memory__max"
    system.join("/slice/service/agent", controllers)
    system.write("slice", controllers, **{name: 256 * MIB})
    system.write("slice/service", controllers, **{name: 512 * MIB})
    system.write("slice/service/agent", controllers)
    assert system.capacity.memory_bytes == 256 * MIB


@pytest.mark.parametrize(
    ("path", "mounted", "below"),
    [
        ("/docker/1/inner", "/docker/1", "inner"),
        ("/docker/1", "/", "docker/1"),
        ("/docker/1", "/other", ""),  # its own group is what is mounted, under another name
        ("/../1", "/", ""),  # outside of the group namespace
    ],
)
def test_the_group_is_found_where_a_container_mounts_it(
    system: FakeSystem, path: str, mounted: str, below: str
) -> None:
    system.join(path, "memory", mounted=mounted)
    system.write(below, "memory", memory__limit_in_bytes=64 * MIB)
    assert system.capacity.memory_bytes == 64 * MIB


def test_throttling_above_a_high_mark_is_a_limit_too(system: FakeSystem) -> None:
    system.join("/")
    system.write("", memory__max=512 * MIB, memory__high=128 * MIB)
    assert system.capacity.memory_bytes == 128 * MIB
