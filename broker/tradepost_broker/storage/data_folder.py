"""The data folder: made if it is absent, and used by one broker at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tradepost.content.storage.store import DISK_IS_FULL
from tradepost.errors import DataFolderInUse, DataFolderUnusable
from tradepost.file_status import why_no_file
from tradepost_broker.storage.database_checks import disk_full

#: The broker's key: where it is, a market has run.
IDENTITY_FILE: Final = "identity.pem"
#: Where commands on this machine find the running broker's address.
URL_FILE: Final = "url"
_LOCK_FILE: Final = "lock"


def make_data_folder(folder: Path) -> None:
    """Make the folder, for this user alone. Raises `DataFolderUnusable` or `DiskFull`."""
    with typed_folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextmanager
def locked_data_folder(folder: Path) -> Iterator[None]:
    """Hold the folder: two brokers on one database would each believe that it is alone.

    Raises `DataFolderInUse`, and as `make_data_folder`.
    """
    make_data_folder(folder)
    for path in (folder / _LOCK_FILE, folder / URL_FILE):
        if problem := why_no_file(path):
            hint = "Move it away: the broker writes this file again."
            raise DataFolderUnusable(problem, hint=hint, path=str(folder))
    with typed_folder_errors(folder):
        file = (folder / _LOCK_FILE).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFolderInUse(f"another broker is running with the data folder {folder}") from None
        yield


@contextmanager
def typed_folder_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors about files in `folder` into `DataFolderUnusable` or `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise disk_full(folder, str(error.strerror)) from error
        raise DataFolderUnusable(f"{error.filename or folder}: {error.strerror}", path=str(folder)) from error
