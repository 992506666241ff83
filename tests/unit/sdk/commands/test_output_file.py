"""Files that commands write: an error has the name that was given, and a hint that fits the cause."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tradepost.atomic_files import ASIDE_PREFIX, replace_file
from tradepost.commands.job_result import check_places
from tradepost.commands.output_file import check_writable, write_output
from tradepost.errors import FileNotWritten
from tradepost_signing.checks.signature_files import write_signature
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation_store import SignedRevocations, write_revocations

WRITERS: dict[str, Callable[[Path], object]] = {
    "check": check_writable,
    "output": lambda path: write_output(path, b"x"),
    "signature": lambda path: write_signature(path, "x"),
    "revocations": lambda path: write_revocations(path, SignedRevocations(b"x", "x")),
    "key": lambda path: SigningKey.generate().save(path, passphrase=None),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@writers
@pytest.mark.parametrize(
    ("place", "what", "hint"),
    [
        (
            "absent/x",
            "the folder {}/absent does not exist",
            "Create the folder, or name a file in another one.",
        ),
        ("file/x", "{}/file is not a folder", "Name a file in a folder."),
    ],
)
def test_a_folder_that_is_none_is_named(
    tmp_path: Path, write: Callable[[Path], object], place: str, what: str, hint: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotWritten) as caught:
        write(tmp_path / place)
    assert caught.value.detail.startswith(str(tmp_path / place))
    assert caught.value.detail.endswith(what.format(tmp_path))
    assert caught.value.hint.startswith(hint)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("name", ["check", "output", "signature", "revocations"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotWritten) as caught:
        WRITERS[name](tmp_path / "folder")
    assert caught.value.detail == f"{tmp_path / 'folder'} is a folder, not a file"
    assert caught.value.hint == "Name a file."


@pytest.mark.parametrize("path", ["a\0b", "loop", "x" * 300])
def test_an_impossible_name_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for write in (WRITERS["check"], WRITERS["output"]):
        with pytest.raises(FileNotWritten):
            write(tmp_path / path)


def test_the_full_device_is_told_as_a_full_disk() -> None:
    check_writable(Path("/dev/full"))
    with pytest.raises(FileNotWritten, match="/dev/full: No space left on device") as caught:
        write_output(Path("/dev/full"), b"x" * 100_000)
    assert "Free disk space" in caught.value.hint
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_pipe_is_written_in_place_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(pipe, b"data")
        assert os.read(reading, 10) == b"data"
    finally:
        os.close(reading)
    for name in ("signature", "revocations"):
        with pytest.raises(FileNotWritten, match="pipe is not a regular file") as caught:
            WRITERS[name](pipe)
        assert caught.value.hint == "Name a file."
    with pytest.raises(OSError, match="not a regular file"):
        replace_file(pipe, b"x")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(ASIDE_PREFIX)]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as caught:
        replace_file(tmp_path / "folder", b"x")
    assert ASIDE_PREFIX not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_two_outputs_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotWritten, match="name the same file"):
        check_places(tmp_path / "x", tmp_path / "x")
    check_places(tmp_path / "x", tmp_path / "y")
