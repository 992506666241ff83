"""Types the system's errors about files that this program writes or removes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tradepost.errors import FileNotWritten
from tradepost.file_status import why_no_file


@contextmanager
def typed_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about writing or removing the file at `path` into `FileNotWritten`."""
    try:
        yield
    except OSError as error:
        if problem := why_no_file(path):
            raise FileNotWritten(problem, hint="Move it away: a file belongs there.") from None
        raise FileNotWritten(f"{path}: {error.strerror}") from None
