"""A file's status tells whether it has changed, and whether others could have read or written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tradepost.file_status import READABLE_BY_OTHERS, WRITABLE_BY_OTHERS, access_problem, stamp_of


def test_a_stamp_stays_while_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    assert stamp_of(path) == stamp_of(path) != ()


def test_a_stamp_of_nothing_is_empty(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert stamp_of(tmp_path / "absent") == stamp_of(tmp_path / "link") == ()


def test_a_replaced_file_has_another_stamp_although_its_size_and_time_are_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("content")
    other.write_text("CONTENT")
    os.utime(path, ns=(1, 1))
    os.utime(other, ns=(1, 1))
    before = stamp_of(path)
    other.replace(path)
    assert stamp_of(path) != before


def test_a_file_that_changed_behind_a_link_has_another_stamp(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    link = tmp_path / "link"
    link.symlink_to("file")
    before = stamp_of(link)
    (tmp_path / "file").write_text("more content")
    assert stamp_of(link) != before


def test_a_file_that_was_given_another_mode_has_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    before = stamp_of(path)
    path.chmod(0o640)
    assert stamp_of(path) != before


@pytest.mark.parametrize(
    ("mode", "forbidden", "has_problem"),
    [
        (0o600, 0o077, False),
        (0o640, 0o077, True),
        (0o601, 0o077, True),
        (0o644, WRITABLE_BY_OTHERS, False),
        (0o620, WRITABLE_BY_OTHERS, True),
        (0o602, WRITABLE_BY_OTHERS, True),
        (0o622, READABLE_BY_OTHERS, False),
        (0o604, READABLE_BY_OTHERS, True),
    ],
)
def test_others_must_not_have_what_is_forbidden(
    tmp_path: Path, mode: int, forbidden: int, has_problem: bool
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    problem = access_problem(path, path.stat(), forbidden=forbidden)
    assert problem == (f"other users may access {path} (mode {mode:o})" if has_problem else "")


def test_a_file_of_another_user_is_not_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    status, uid = path.stat(), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert access_problem(path, status) == f"{path} belongs to another user"
