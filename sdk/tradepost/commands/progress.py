"""Progress of long work on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def progress_bar(what: str, bytes_total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal. It gives a function that counts bytes done."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=bytes_total)
        yield lambda count: progress.advance(task, count)
