"""A unit test that starts a process must be marked `process`, since `make quick` leaves those out.

An audit hook counts what Python starts, in the test and in its fixtures. Processes that a library starts
without Python are not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Generator
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "unit"
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}

_started: list[str] = []


def _note(
    event: str,
    arguments: tuple[object, ...],
    # Bound here, since the hook is still called when the interpreter has cleared this module.
    starts: Container[str] = STARTS,
    started: list[str] = _started,
) -> None:
    if event in starts:
        started.append(f"{event}{arguments[:2]}")


sys.addaudithook(_note)


def _check(item: pytest.Item) -> Generator[None, None, None]:
    del _started[:]
    yield
    if _started and item.get_closest_marker("process") is None and item.path.is_relative_to(UNIT):
        pytest.fail(f"mark this test `process`, since it starts one: {_started[0]:.200}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Check the fixtures that a test starts."""
    yield from _check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Check the test."""
    yield from _check(item)
