"""A standard output that cannot be written ends a command with a typed error, whatever the command prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tradepost.content import FolderStore, add_bytes
from tradepost.errors import EXIT_CODES, Fault, FileNotWritten
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

pytestmark = pytest.mark.process

CONTENTS = [bytes(1_000_000), b"a few bytes, which a buffer holds until the end"]
#: More than a buffer holds, and less.
LARGE, SMALL = (add_bytes(data, put=None) for data in CONTENTS)
STATUS = EXIT_CODES[Fault.OPERATOR]
COMMANDS = [
    ("jobs", "list"),
    ("content", "get", LARGE, "-o", "-", "--store", "store"),
    ("content", "get", SMALL, "-o", "-", "--store", "store"),
]


@pytest.fixture
def fake() -> Iterator[FakeBrokerThread]:
    with FakeBrokerThread(lambda document: document) as running:
        yield running


def run(
    fake: FakeBrokerThread, folder: Path, command: tuple[str, ...], *, stdout: int, stderr: int
) -> subprocess.CompletedProcess[str]:
    if command[0] == "content":
        store = FolderStore(folder / "store", bytes_max=1 << 30)
        for data in CONTENTS:
            add_bytes(data, put=store.put)
    environment = {**os.environ, "TRADEPOST_URL": fake.url, "TRADEPOST_API_KEY": API_KEY}
    return subprocess.run(
        [sys.executable, "-m", "tradepost", *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def full() -> Iterator[int]:
    """A descriptor that answers each write as a full disk does."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("command", [*COMMANDS, ("jobs", "list", "--json")], ids=" ".join)
def test_a_full_disk_is_a_typed_error(
    fake: FakeBrokerThread, tmp_path: Path, full: int, command: tuple[str, ...]
) -> None:
    ended = run(fake, tmp_path, command, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == STATUS, ended.stderr
    if "--json" in command:
        problem = json.loads(ended.stderr)
        assert (problem["code"], problem["detail"]) == (
            FileNotWritten.code(),
            "the standard output: No space left on device",
        )
    else:
        assert ended.stderr.startswith(FileNotWritten.title())
        assert "the standard output: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
def test_a_reader_that_has_gone_is_no_failure(
    fake: FakeBrokerThread, tmp_path: Path, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = run(fake, tmp_path, command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_errors_that_cannot_be_reported_keep_their_status(
    fake: FakeBrokerThread, tmp_path: Path, full: int
) -> None:
    ended = run(fake, tmp_path, ("jobs", "show", "absent"), stdout=full, stderr=full)
    assert ended.returncode == EXIT_CODES[Fault.SUBMITTER]


@pytest.mark.parametrize("command", COMMANDS[1:], ids=" ".join)
def test_what_is_printed_arrives_whole(
    fake: FakeBrokerThread, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with open(tmp_path / "out", "wb") as file:
        ended = run(fake, tmp_path, command, stdout=file.fileno(), stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "out").read_bytes() == CONTENTS[COMMANDS[1:].index(command)]
