"""The owner's command in its file: what is said is read, and what cannot be trusted pauses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tradepost.errors import InvalidDuration
from tradepost_worker.device.owner_command import WORK, Mode, OwnerCommand, OwnerCommandFile, parse_duration

PAUSE = OwnerCommand(mode=Mode.PAUSE, until=5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "owner.json"


def test_the_word_reaches_another_reader_and_is_the_owners_alone(path: Path) -> None:
    reader, writer = OwnerCommandFile(path), OwnerCommandFile(path)
    assert reader.read() == WORK
    writer.write(PAUSE)
    assert reader.read() == PAUSE
    assert path.stat().st_mode & 0o777 == 0o600
    writer.write(OwnerCommand(mode=Mode.DRAIN))
    assert reader.read().mode is Mode.DRAIN
    writer.clear()
    assert reader.read() == WORK


@pytest.mark.parametrize("text", [b"", b"{", b'{"mode": "party"}', b'{"mode": "work", "x": 1}', b"[" * 5000])
def test_a_word_that_cannot_be_read_pauses(path: Path, text: bytes) -> None:
    file = OwnerCommandFile(path)
    file.write(WORK)
    path.write_bytes(text)
    assert file.read().mode is Mode.PAUSE
    assert file.read().problem


def test_a_word_that_others_could_write_pauses(path: Path) -> None:
    file = OwnerCommandFile(path)
    file.write(WORK)
    path.chmod(0o666)
    assert file.read().mode is Mode.PAUSE
    path.unlink()
    os.symlink("/dev/null", path)
    assert file.read().mode is Mode.PAUSE


def test_a_pause_ends_by_itself() -> None:
    assert PAUSE.at(4.9) == PAUSE
    assert PAUSE.at(5.0) == WORK
    assert OwnerCommand(mode=Mode.PAUSE).at(1e12).mode is Mode.PAUSE
    assert OwnerCommand(mode=Mode.DRAIN).at(1e12).mode is Mode.DRAIN


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("1h30m", 5400), ("45s", 45), ("1d", 86_400), ("1d2h3m4s", 93_784)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "2", "h", "2h 30m", "-1h", "1m1h", "9999999h", "٣h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidDuration):
        parse_duration(text)
