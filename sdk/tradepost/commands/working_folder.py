"""What an error of a command tells in a working folder that was deleted.

No relative path leads anywhere then, but the system only answers that a file does not exist, and errors about
absent keys, settings or databases have hints that cannot help.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from tradepost.errors import TradepostError
from tradepost.file_status import is_working_folder_gone

_HINT = "The working folder was deleted: change to a folder that exists."


def hint_at_working_folder(error: TradepostError) -> None:
    """Change the hint of `error` if the working folder was deleted.

    The hint is replaced if the system found no file at a relative path, and extended otherwise: not all code
    opens a file to find that it is absent.
    """
    if is_working_folder_gone():
        is_alone = not error.hint or any(map(_is_lost, _causes(error)))
        error.hint = _HINT if is_alone else f"{error.hint} {_HINT}"


def is_lost_with_working_folder(error: FileNotFoundError) -> bool:
    """Whether `error` is about a relative path, or the working folder itself, and that folder was deleted."""
    return _is_lost(error) and is_working_folder_gone()


def _is_lost(error: BaseException) -> bool:
    if not isinstance(error, FileNotFoundError):
        return False
    return not isinstance(error.filename, str | bytes) or not os.path.isabs(error.filename)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that led to `error`, also those that `from None` hides from people."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
