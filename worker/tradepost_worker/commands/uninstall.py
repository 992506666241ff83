"""Removes the worker from a device: its service, and its own files in the state folder.

Anything else in that folder stays, since a folder can be given by mistake, and is named.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec

from tradepost.atomic_files import ASIDE_PREFIX
from tradepost.errors import StateFolderUnusable, WrongMoment
from tradepost_worker.leases.outbox import read_pending
from tradepost_worker.settings import default_state_dir
from tradepost_worker.state import StateFolder

#: What a worker writes into its state folder; names with a star are patterns.
_OWN: Final = (
    "worker.key*",
    "worker.toml",
    "worker.sqlite*",
    "worker.lock",
    "worker.log",
    "trust.toml*",
    "revocations-*",
    "membership.json",
    "connection.json",
    "standing.json",
    "owner.json",
    "speed.json",
    "blocks",
    "compiled",
    f"{ASIDE_PREFIX}*",  # what a power cut left of replacing a file
)


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """The removed files, and those that stay because the worker did not create them."""

    paths: tuple[str, ...]
    freed_bytes: int
    left: tuple[str, ...]


def check_stopped(state: StateFolder) -> None:
    """Raise `WrongMoment` if a worker runs from the folder."""
    if state.connection() is not None:
        raise WrongMoment(
            f"a worker is running with the state folder {state.path}",
            hint="Stop it first: tradepost worker drain",
        )


def check_nothing_lost(state: StateFolder, *, discard: bool) -> None:
    """Raise `WrongMoment` if results that wait for the broker would be lost unasked.

    Without `discard`, also raises `DatabaseTooNew`, `DatabaseDamaged` or `DatabaseUnusable` where that cannot
    be known.
    """
    if not discard and (pending := read_pending(state.database)):
        raise WrongMoment(
            f"{pending} finished results are not delivered yet, and would be lost without payment",
            hint="Run the worker until they are delivered, or use --discard.",
        )


def remove_state(state: StateFolder) -> Removed:
    """Delete the worker's files, and the folder if nothing else is in it."""
    removed, freed_bytes = [], 0
    for pattern in _OWN:
        for path in sorted(state.path.glob(pattern)):
            freed_bytes += _size_bytes(path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(str(path))
    left = tuple(sorted(str(path) for path in state.path.glob("*")))
    if state.path.exists() and not left:
        emptied = [state.path, *_made_around(state.path)]
        for folder in emptied:
            folder.rmdir()
        removed += map(str, emptied)
    return Removed(paths=tuple(removed), freed_bytes=freed_bytes, left=left)


def _made_around(path: Path) -> list[Path]:
    """The program's own folder of user data, if the worker's default folder is all that is in it."""
    try:
        is_default = path == default_state_dir()
    except StateFolderUnusable:
        return []
    return [path.parent] if is_default and list(path.parent.iterdir()) == [path] else []


def _size_bytes(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size
