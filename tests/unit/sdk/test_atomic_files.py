"""Files that are replaced whole, or not at all, and created once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tradepost.atomic_files import READABLE_BY_ALL, create_file, replace_file


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_replaced_for_its_owner_only_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "state" / "file"
    for data in (b"old", b"new"):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert (_mode(path), _mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("owner", "broken"), [(os, "fsync"), (Path, "replace")], ids=["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, broken: str
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    monkeypatch.setattr(owner, broken, _no_space)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, contents = tmp_path / "file", list[bytes | None]()

    def look(descriptor: int) -> None:
        contents.append(path.read_bytes() if path.exists() else None)

    monkeypatch.setattr(os, "fsync", look)
    replace_file(path, b"new")
    assert contents == [None, b"new"]
    replace_file(path, b"cheap", durable=False)
    assert contents == [None, b"new"]
    assert path.read_bytes() == b"cheap"


def test_what_is_created_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_file(path, b"first")
    with pytest.raises(FileExistsError):
        create_file(path, b"second")
    assert (path.read_bytes(), _mode(path)) == (b"first", 0o600)


def test_a_file_for_all_is_as_readable_as_the_process_lets_it_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            replace_file(path, b"public", mode=READABLE_BY_ALL)
        finally:
            os.umask(before)
        assert _mode(path) == mode
