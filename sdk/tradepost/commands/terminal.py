"""What people see of results and of long work; programs see JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tradepost.untrusted_text import plain_lines


def show(value: Any, text: str, *, as_json: bool) -> None:
    """Print `value` as one line of JSON, or `text` for people."""
    typer.echo(_one_line(value) if as_json else plain_lines(text))


@contextmanager
def progress_bar(what: str, bytes_total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; what it gives is told of each batch of bytes that is done."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=bytes_total)
        yield lambda count: progress.advance(task, count)


def _one_line(value: Any) -> str:
    """JSON in ASCII: the name of a file may be any bytes, and some have no other spelling."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
