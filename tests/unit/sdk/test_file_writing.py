"""Errors about files that are written: the file that was asked for, the cause, and a hint that fits both."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tradepost.atomic_files import replace_file
from tradepost.errors import FileNotWritten
from tradepost.file_writing import writing, writing_own


@pytest.mark.parametrize(
    ("number", "named", "own"),
    [
        (errno.ENOSPC, "Free disk space, or name a file", "Free disk space."),
        (errno.EFBIG, "Free disk space, or name a file", "Free disk space."),
        (errno.EROFS, "Name a file that this user may write", "Make the file and its folder writable"),
        (errno.EACCES, "Name a file that this user may write", "Make the file and its folder writable"),
        (errno.ENAMETOOLONG, "Name another file.", "Use a folder with a shorter path"),
        (
            errno.EIO,
            "Free disk space, or make the file writable",
            "Free disk space, or make the file writable",
        ),
        (
            errno.EEXIST,
            "Free disk space, or make the file writable",
            "Free disk space, or make the file writable",
        ),
    ],
)
def test_the_hint_fits_the_cause(tmp_path: Path, number: int, named: str, own: str) -> None:
    for context, hint in ((writing, named), (writing_own, own)):
        with pytest.raises(FileNotWritten) as caught, context(tmp_path / "x"):
            raise OSError(number, "whatever", str(tmp_path / ".new-123"))
        assert caught.value.detail == f"{tmp_path / 'x'}: {os.strerror(number)}"
        assert caught.value.hint.startswith(hint)


def place(folder: Path, kind: str) -> Path:
    """A path at which no file can be written, for the reason that `kind` names."""
    path = folder / "x"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "below a file":
            path.touch()
            return path / "y" / "z"
    return path


@pytest.mark.parametrize(
    ("kind", "what", "named", "own"),
    [
        ("folder", "{0} is a folder, not a file", "Name a file.", "Move it away: a file belongs there."),
        ("pipe", "{0} is not a regular file", "Name a file.", "Move it away: a file belongs there."),
        ("below a file", "{0}: {1} is not a folder", "Name a file in a folder.", "Move it away: a folder"),
    ],
)
def test_what_is_in_the_way_is_named(tmp_path: Path, kind: str, what: str, named: str, own: str) -> None:
    path = place(tmp_path, kind)
    for context, hint in ((writing, named), (writing_own, own)):
        with pytest.raises(FileNotWritten) as caught, context(path):
            replace_file(path, b"x")
        assert caught.value.detail == what.format(path, tmp_path / "x")
        assert caught.value.hint.startswith(hint)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "x"
    for context, hint in ((writing, "Create the folder, or name"), (writing_own, "Create the folder.")):
        with pytest.raises(FileNotWritten) as caught, context(path):
            path.write_bytes(b"x")
        assert caught.value.detail == f"{path}: the folder {path.parent} does not exist"
        assert caught.value.hint.startswith(hint)


def test_a_working_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    for context in (writing, writing_own):
        with pytest.raises(FileNotWritten) as caught, context(Path("x")):
            Path("x").write_bytes(b"x")
        assert caught.value.detail == "x: the working folder was deleted"
        assert caught.value.hint == "Change to a folder that exists."


def test_what_a_caller_expects_passes(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), writing(tmp_path / "x", passing=FileExistsError):
        raise FileExistsError
    with pytest.raises(FileNotWritten, match="again") as caught, writing(tmp_path / "x", hint="Sing."):
        raise ValueError("again")
    assert caught.value.hint == "Sing."
