"""A worker in a real control group with limits, as a container has them, where one can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_groups import limited_groups

MIB = 1 << 20
#: What a worker would offer, and measure.
SHOW = """
import json, sys
from tradepost_worker.device.sensors import Sensors
from tradepost_worker.settings import available_cores, load_settings
memory = sys.argv[2] if sys.argv[2:] else None
found = load_settings({"state_dir": sys.argv[1], "memory_bytes_max": memory}, {})
free = Sensors(found.state_dir).read().memory_free_bytes
print(json.dumps([found.memory_bytes_max, found.capacity, available_cores(), free]))
"""


@pytest.fixture
def limited() -> Iterator[list[Path]]:
    """Groups of this process's groups, with 512 MiB of memory and one core's time."""
    limits = {
        "memory": {"memory.limit_in_bytes": 512 * MIB},
        "cpu": {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 100_000},
    }
    with limited_groups(limits) as made:
        yield made


def offered(groups: list[Path], *arguments: str) -> list[int]:
    def enter() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-c", SHOW, *arguments]
    shown = subprocess.run(command, preexec_fn=enter, capture_output=True, check=True, timeout=600)
    found: list[int] = json.loads(shown.stdout)
    return found


@pytest.mark.process
def test_a_container_is_the_device(limited: list[Path], tmp_path: Path) -> None:
    memory, capacity, cores, free = offered(limited, str(tmp_path))
    assert memory == 256 * MIB
    assert capacity == cores == 1
    assert 0 < free < 512 * MIB


@pytest.mark.process
def test_more_memory_than_the_container_has_is_not_lent(limited: list[Path], tmp_path: Path) -> None:
    assert offered(limited, str(tmp_path), str(12 << 30))[0] == 512 * MIB
