"""Control groups with limits, as containers have them, where this machine lets a test make some."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tradepost_worker.device.capacity import control_group_ancestry


@contextmanager
def limited_groups(limits: Mapping[str, Mapping[str, int]]) -> Iterator[list[Path]]:
    """New groups of version 1 below this process's own, by controller, with these files' values.

    Skips the test where none can be made. They are removed at the end, when no process may be left in them.
    """
    made: list[Path] = []
    try:
        for controller, files in limits.items():
            own = next(iter(control_group_ancestry(controller)), None)
            if own is None or not os.access(own, os.W_OK):
                pytest.skip(f"no control group (version 1) of the controller {controller} can be made here")
            path = own / f"tradepost-test-{os.getpid()}"
            path.mkdir()
            made.append(path)
            for name, value in files.items():
                (path / name).write_text(str(value))
        yield made
    finally:
        for path in made:
            path.rmdir()
