"""What a file's status tells: whether the file has changed, and whether others could read or write it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

#: Mode bits of the group and of others. A secret must not be readable, a decision not writable by them.
READABLE_BY_OTHERS: Final = 0o044
WRITABLE_BY_OTHERS: Final = 0o022
USABLE_BY_OTHERS: Final = 0o077

#: Equal while a file is the same and unchanged; empty where there is no file, or none that can be examined.
Stamp = tuple[int, ...]


def stamp_of(path: Path) -> Stamp:
    """The stamp of the file at `path`, through links."""
    try:
        return stamp(path.stat())
    except OSError:
        return ()


def stamp(status: os.stat_result) -> Stamp:
    """The stamp of a file with this status: it changes when the file is written, replaced or given a mode."""
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def dangling_link(path: Path) -> str:
    """That `path` is a link to something that does not exist, in words; empty if it is not.

    To a reader such a link looks like an absent file, while its owner believes that there is one.
    """
    if os.path.islink(path) and not os.path.exists(path):
        return f"{path} is a link to {os.readlink(path)}, which does not exist"
    return ""


def why_no_file(path: Path) -> str:
    """Why what is at `path` is not a file, in words; empty for a file, and where there is or may be nothing.

    Where the folder cannot be searched, that is found out by opening the file.
    """
    if problem := dangling_link(path):
        return problem
    if os.path.isdir(path):
        return f"{path} is a folder, not a file"
    return "" if os.path.isfile(path) or not os.path.exists(path) else f"{path} is not a regular file"


def is_working_folder_gone() -> bool:
    """Whether this process's working folder was deleted, so that a relative path leads nowhere."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def access_problem(path: Path, status: os.stat_result, *, forbidden: int = USABLE_BY_OTHERS) -> str:
    """Why the file with this status may not be this user's alone, in words; empty if it is.

    `forbidden` are the mode bits that must not be set.
    """
    if status.st_uid != os.getuid():
        return f"{path} belongs to another user"
    if status.st_mode & forbidden:
        return f"other users may access {path} (mode {stat.S_IMODE(status.st_mode):o})"
    return ""
